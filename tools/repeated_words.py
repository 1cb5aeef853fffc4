"""Count the captions that have a word twice which captions seldom repeat, such as "a couch on top of a couch".

    python tools/repeated_words.py pretrained/pocket.zip results/everyday/predictions-test-*-beam3.json

The bundle is that of a captioner with visual concepts. It says which share of the training captions with a word have it
more than once (captioning/concepts/detector.py). Words count here where this share is below --below. Files of captions
are those of evaluate.py, or any others that it reads. References have several splits, and --split chooses one.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.script import run_script
from captioning.data.caption_files import read_captions
from captioning.data.records import Warts
from captioning.metrics.references import words


def repeats(caption: str, shares: Mapping[str, float], below: float) -> bool:
    """Whether ``caption`` has a word more than once whose share of repeating captions is ``below`` this."""
    return any(count > 1 and shares.get(word, 1.0) < below for word, count in Counter(words(caption)).items())


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a captioner with visual concepts: a run folder, or the bundle in it")
    parser.add_argument("captions", type=Path, nargs="+", help="files of captions")
    parser.add_argument("--split", help="only images of this split")
    parser.add_argument("--below", type=float, default=0.03, help="the share below which a word counts [default: 0.03]")
    args = parser.parse_args()

    from model import Captioner

    captioner = Captioner.load(args.model)
    if captioner.concepts is None or captioner.concepts.repeated is None:
        raise UserError(
            f"{args.model}: it does not know how often captions repeat words; train it with --stage concepts"
        )
    known = (captioner.vocabulary.words[i] for i in captioner.concepts.ids)
    shares = dict(zip(known, captioner.concepts.repeated, strict=False))
    images = [image for path in args.captions for image in read_captions(path, Warts())]
    captions = [text for image in images if args.split in (None, image.split) for text in image.captions]
    if not captions:
        raise UserError(f"--split: no image is of {args.split!r}; take train, dev or test")
    found = [caption for caption in captions if repeats(caption, shares, args.below)]
    print(
        f"{len(found):,} of {len(captions):,} captions ({len(found) / len(captions):.1%}) have a word twice that is seldom "
        "repeated"
    )
    for caption in found[:10]:
        print(f"    {caption}")


if __name__ == "__main__":
    run_script(main)
