"""Write a trained captioner, encoder and search in one graph, for where it will run: TensorFlow, ONNX Runtime or LiteRT.

    pip install -r requirements-export.txt
    python export.py --output exported/                       # the captioner that comes with this repository
    python export.py --model runs/NAME --output exported/
    python export.py --model runs/NAME --output exported/ --format onnx --beam-size 1 --int8
    python export.py --model runs/NAME --output exported/ --check photos/     # the same captions? how fast?

Leaves exported/savedmodel, exported/onnx and exported/litert, with --int8 also onnx-int8 and litert-int8. docs/exports.md
shows how to call each from Python without Keras. --check captions pictures with the original and with each export, one at
a time; then the exit status is 1 when best captions differ in an export that is not int8. It leaves each export's captions
in predictions.json beside it, by the pictures' file names; with all pictures of a split, evaluate.py --predictions scores
them.
"""

import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from captioning.base.environment import describe
from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import hide_progress, run_script
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import refuse_idle_consensus, resolve_trained, settle_backend
from captioning.exports.reading import KINDS, Exported, compare
from captioning.pictures.loading import UnreadableImage, is_address, load_image, open_source, sources
from captioning.reports.tables import markdown
from config import POCKET, Config

if TYPE_CHECKING:
    from model import Captioner

INT8_KINDS = ("onnx", "litert")


def main() -> int:
    parser = make_parser(__doc__, trained=True)
    parser.add_argument(
        "--model",
        default=POCKET,
        metavar="RUN",
        help="a run folder or a captioner.zip [default: pretrained/pocket.zip]",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="each export becomes a folder in this one")
    parser.add_argument("--format", nargs="+", choices=KINDS, default=tuple(KINDS), help="[default: all of them]")
    parser.add_argument("--int8", action="store_true", help="write onnx and litert with weights of 8 bits too")
    parser.add_argument("--overwrite", action="store_true", help="replace exports that are there already")
    parser.add_argument(
        "--check",
        nargs="+",
        metavar="IMAGE",
        help="caption these files, folders or web addresses with the original and each export, and compare",
    )
    args = parser.parse_args()
    formats = dict.fromkeys(args.format)
    wanted = [(kind, False) for kind in formats]
    if args.int8:
        wanted += [(kind, True) for kind in formats if kind in INT8_KINDS]
        if len(wanted) == len(formats):
            raise UserError("--int8: is of the formats onnx and litert; add one of them")
    if typed_settings(args).get("backend", "tensorflow") != "tensorflow":
        raise UserError(
            "--backend: exports are made under TensorFlow, where a captioner of any backend is the same; leave it out"
        )
    settle_backend("tensorflow")
    for source in args.check or []:
        if not is_address(source) and not Path(source).exists():
            raise UserError(f"--check: {source}: there is no such picture")
    listed = list(sources(args.check or []))

    folders = [Path(args.output, f"{kind}-int8" if int8 else kind) for kind, int8 in wanted]
    refuse(formats, folders, args.overwrite)

    from captioning.exports import writing as exporting
    from model import Captioner

    captioner = Captioner.load(Path(args.model))
    config = resolve_trained(args, captioner.config)
    refuse_idle_consensus([config])
    exports = []
    for (kind, int8), folder in zip(wanted, folders, strict=True):
        exporting.export(captioner, config, kind, folder, int8)
        exports.append(Exported(folder))
        print(f"written: {folder}: {exports[-1].megabytes:,.1f} MB", flush=True)
    return _check(captioner, config, exports, listed) if listed else 0


def refuse(kinds: Iterable[str], folders: Sequence[Path], overwrite: bool) -> None:
    """Raise UserError when a library for ``kinds`` is missing or a folder is there that must not be replaced."""
    missing = [name for kind in kinds for name in KINDS[kind][1] if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"--format: needs {', '.join(missing)}; pip install -r requirements-export.txt")
    for folder in folders:
        if folder.exists() and not (overwrite and (folder / "export.json").is_file()):
            advice = "choose another --output" + (" or say --overwrite" if (folder / "export.json").is_file() else "")
            raise UserError(f"{folder}: exists already; {advice}")


def _check(captioner: "Captioner", config: Config, exports: list[Exported], listed: list[str]) -> int:
    """Compare the exports with the captioner, print the table, write each export's check.json and predictions.json.

    Returns the exit status.
    """

    def original(pixels: np.ndarray) -> list[str]:
        return [caption.text for caption in captioner.caption(captioner.encode(pixels[None]), config)[0]]

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        for source in tqdm(listed, desc="check", unit="picture", disable=hide_progress()):
            try:
                yield source, load_image(open_source(source), config.image_size)
            except UnreadableImage as error:
                print(f"error: {error}", file=sys.stderr)

    about, reports = compare(original, exports, pictures())
    rows = [
        {"format": "original", "MB": "", "same captions": "", "same beams": "", "seconds": f"{about['seconds']:.3f}"}
    ]
    broken = False
    for exported, report in zip(exports, reports, strict=True):
        entries = [{"image_id": Path(name).name, "caption": text} for name, text in report.pop("captions")]
        write(exported.folder / "predictions.json", json.dumps(entries, indent=0, ensure_ascii=False) + "\n")
        write(
            exported.folder / "check.json",
            json.dumps({**report, "original": about, **describe(config.seed)}, indent=2) + "\n",
        )
        rows.append(
            {
                "format": exported.folder.name,
                "MB": f"{exported.megabytes:.1f}",
                "same captions": f"{report['same']} of {about['pictures']}",
                "same beams": f"{report['same_beams']} of {about['pictures']}",
                "seconds": f"{report['seconds']:.3f}",
            }
        )
        if report["different"]:
            print(
                f"{exported.folder}: {len(report['different'])} captions differ; check.json names them", file=sys.stderr
            )
            broken |= not exported.about["int8"]
    print(markdown(rows), end="")
    return 1 if broken else 0


if __name__ == "__main__":
    run_script(main)
