"""Average the weights of the decoders of two captioners, one of which was trained from the other.

    python tools/average_captioners.py pretrained/pocket.zip runs/NAME averaged.zip --share 0.75

The self-critical stage raises CIDEr and makes captions plainer. Between the weights before and after it lies a
captioner with most of the gain and more of the words. Wortsman et al. (2022), https://arxiv.org/abs/2109.01903, found
the same for classifiers that were fine-tuned. --share says how far to go from the first captioner to the second: 0
gives the first one, and 1 the second. Choose it on dev.

Everything else comes from the second captioner, but for its confidence, which was fitted on its own captions. Both must
have the same encoder, words and decoder.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.script import run_script

if TYPE_CHECKING:
    from model import Captioner


def average(first: "Captioner", second: "Captioner", share: float) -> None:
    """Set the decoder of ``second`` to ``(1 - share) * first + share * second``. Raises UserError: they do not fit."""
    from captioning.features.digests import weights_digest

    weights = first.decoder.get_weights(), second.decoder.get_weights()
    of_both = {
        "words": (first.vocabulary.words, second.vocabulary.words),
        "encoders": (weights_digest(first.encoder), weights_digest(second.encoder)),
        "decoders": tuple([each.shape for each in arrays] for arrays in weights),
    }
    for what, (one, other) in of_both.items():
        if one != other:
            raise UserError(f"these captioners have different {what}; name two of which one was trained from the other")
    second.decoder.set_weights([(1 - share) * a + share * b for a, b in zip(*weights, strict=True)])


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="a run folder or a bundle")
    parser.add_argument("second", type=Path, help="a run folder or a bundle")
    parser.add_argument("output", type=Path, help="the new bundle")
    parser.add_argument("--share", type=float, required=True, metavar="X", help="how much of the second one: 0 to 1")
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        raise UserError(f"--share: {args.share:g} is not between 0 and 1")

    from model import Captioner

    first, second = Captioner.load(args.first), Captioner.load(args.second)
    average(first, second, args.share)
    second.confidence = None  # it was fitted on the captions of the second one
    second.save(args.output)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
