"""Write a captioner's bundle at half its size, with weights rounded to float16. pretrained/pocket.zip was made with this.

    python tools/halve_bundle.py runs/NAME smaller.zip --length-penalty 0.7

Decoding settings on the command line become those of the new bundle. An encoder that is a saved Keras model stays as it is.
Score the new bundle, since rounding may change a caption.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.script import run_script
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import resolve_trained, settle_backend


def main() -> None:
    parser = make_parser(__doc__, trained=True, several=False)
    parser.add_argument("model", help="run folder or captioner.zip")
    parser.add_argument("output", type=Path, help="the new bundle")
    args = parser.parse_args()
    settle_backend(typed_settings(args).get("backend"))

    from model import Captioner

    captioner = Captioner.load(Path(args.model))
    captioner.config = resolve_trained(args, captioner.config)
    captioner.save(args.output, half=True)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
