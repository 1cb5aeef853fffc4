"""Compare our BLEU, ROUGE-L and CIDEr with pycocoevalcap's, on the same words and with its tokeniser.

    pip install -e ".[metrics]"
    python tools/metric_parity.py --data-dir data/flickr8k

The scored captions are people's: the first caption of each image against its others. Every fourth one is cut to three
words, said twice, or taken from the next image. Both sides score the words of our tokeniser, then those of the
Stanford tokeniser (Java). The last table states the difference between the two tokenisers. The exit status is 1 when
the two sides differ by more than 1e-6.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.metrics import java
from captioning.metrics.bleu_rouge import bleu, rouge_l, sentence_bleu
from captioning.metrics.cider import cider_d
from captioning.metrics.references import words
from captioning.reports.tables import markdown
from config import Config
from preprocessing import load_dataset

TOLERANCE = 1e-6
NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")

Words = list[str]


def ours(found: list[Words], wanted: list[list[Words]]) -> tuple[list[float], np.ndarray]:
    """The six scores of the corpus, and of each caption, float64 (N, 6)."""
    rouge, rouges = rouge_l(found, wanted)
    cider, ciders = cider_d(found, wanted)
    total = [*bleu(found, wanted), rouge, cider]
    return total, np.column_stack([sentence_bleu(found, wanted), rouges, ciders])


def theirs(found: list[Words], wanted: list[list[Words]]) -> tuple[list[float], np.ndarray]:
    """The same by pycocoevalcap, times 100."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references = {i: [" ".join(reference) for reference in group] for i, group in enumerate(wanted)}
    captions = {i: [" ".join(caption)] for i, caption in enumerate(found)}
    with contextlib.redirect_stdout(io.StringIO()):
        totals, columns = zip(
            *(scorer.compute_score(references, captions) for scorer in (Bleu(4), Rouge(), Cider())), strict=True
        )
    return [100 * float(total) for total in np.hstack(totals)], 100 * np.vstack(columns).T


@dataclass(frozen=True)
class Parity:
    """One score by both sides, on the words of one tokeniser."""

    metric: str
    ours: float
    theirs: float
    difference: float
    largest_of_a_caption: float


def compare(found: list[Words], wanted: list[list[Words]]) -> list[Parity]:
    """The six scores by both sides."""
    (total, each), (their_total, their_each) = ours(found, wanted), theirs(found, wanted)
    return [
        Parity(
            metric=metric,
            ours=total[i],
            theirs=their_total[i],
            difference=abs(total[i] - their_total[i]),
            largest_of_a_caption=np.abs(each[:, i] - their_each[:, i]).max(),
        )
        for i, metric in enumerate(NAMES)
    ]


def parity_table(rows: Sequence[Parity]) -> str:
    """Both sides as a Markdown table."""
    return markdown(
        [
            {
                "metric": row.metric,
                "this project": f"{row.ours:.6f}",
                "pycocoevalcap": f"{row.theirs:.6f}",
                "difference": f"{row.difference:.1e}",
                "largest difference of a caption": f"{row.largest_of_a_caption:.1e}",
            }
            for row in rows
        ]
    )


def tokeniser_table(mine: Sequence[Parity], stanford: Sequence[Parity]) -> str:
    """pycocoevalcap's scores of the words of both tokenisers as a Markdown table."""
    return markdown(
        [
            {
                "metric": row.metric,
                "our words": f"{row.theirs:.3f}",
                "Stanford words": f"{other.theirs:.3f}",
                "difference": f"{row.theirs - other.theirs:+.3f}",
            }
            for row, other in zip(mine, stanford, strict=True)
        ]
    )


def spoilt(captions: Sequence[str]) -> list[str]:
    """The captions, of which every fourth one is cut to three words, said twice, or replaced by the next one."""
    captions = [*captions]
    for i in range(0, len(captions) - 1, 4):
        split = captions[i].split()
        captions[i] = (" ".join(split[:3]), " ".join(split * 2), captions[i + 1])[i // 4 % 3]
    return captions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data/flickr8k", help="folder of Flickr8k [%(default)s]")
    parser.add_argument("--images", type=int, default=4000, help="how many of its images, from the first [%(default)s]")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    args = parser.parse_args()
    java.require("tokenizer")
    records = load_dataset(Config(data_dir=args.data_dir)).records[: args.images]
    captions = spoilt([record.captions[0] for record in records])
    groups = [record.captions[1:] for record in records]

    found_with: dict[str, list[Parity]] = {}
    print(f"{len(captions)} captions, {sum(map(len, groups))} references")
    for name, tokenize in (("text.py", lambda texts: [*map(words, texts)]), ("Stanford", java.tokenize)):
        split = iter(tokenize([*captions, *(text for group in groups for text in group)]))
        found = [next(split) for _ in captions]
        rows = found_with[name] = compare(found, [[next(split) for _ in group] for group in groups])
        print(f"\nwords of {name}\n")
        print(parity_table(rows), end="")
    worst = max(max(row.difference, row.largest_of_a_caption) for rows in found_with.values() for row in rows)
    print(f"\n{tokeniser_table(*found_with.values())}\nlargest difference on the same words: {worst:.1e}")
    if args.output:
        about = {
            "command": " ".join(["python tools/metric_parity.py", *sys.argv[1:]]),
            "pycocoevalcap": version("pycocoevalcap"),
            "captions": len(captions),
            "references": sum(map(len, groups)),
            "words_of_tokeniser": {name: [asdict(row) for row in rows] for name, rows in found_with.items()},
            "largest_difference": worst,
        }
        write(args.output, json.dumps(about, indent=2) + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    run_script(main)
