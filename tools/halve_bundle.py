"""Write the bundle of a captioner or of two towers at half its size, with weights rounded to float16.

    python tools/halve_bundle.py runs/NAME smaller.zip --length-penalty 0.7
    python tools/halve_bundle.py runs/ALIGN pretrained/search.zip --encoder-of pretrained/pocket.zip
    python tools/halve_bundle.py runs/ALIGN pretrained/search.zip --encoder-of weights/efficientnet_lite2.weights.h5

The captioners and towers of pretrained/ are made with this. Decoding settings on the command line become those of the
new bundle. An encoder that is a saved Keras model stays as it is. Score the new bundle, since rounding may change a
caption.

With --encoder-of, towers leave their encoder to another file: the bundle of a captioner with the same encoder, or a
weights file. Later both files must keep their places to each other.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.script import run_script
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import resolve_trained, settle_backend


def main() -> None:
    parser = make_parser(__doc__, trained=True)
    parser.add_argument("model", type=Path, help="a run folder, or the bundle in it")
    parser.add_argument("output", type=Path, help="the new bundle")
    parser.add_argument(
        "--encoder-of",
        metavar="FILE",
        type=Path,
        help="towers only: a captioner's bundle or a weights file that lends its encoder to the new bundle",
    )
    args = parser.parse_args()
    settle_backend(typed_settings(args).get("backend"))

    from captioning.retrieval.aligner import Aligner
    from captioning.storage.members import kind_of
    from model import Captioner

    if kind_of(args.model) == "aligner":
        aligner = Aligner.load(args.model)
        aligner.config = resolve_trained(args, aligner.config)
        aligner.save(args.output, half=True, lender=args.encoder_of)
    elif args.encoder_of:
        raise UserError(
            f"--encoder-of: {args.model} is a captioner, and only towers can borrow an encoder; leave it out"
        )
    else:
        captioner = Captioner.load(args.model)
        captioner.config = resolve_trained(args, captioner.config)
        captioner.save(args.output, half=True)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
