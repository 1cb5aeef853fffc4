"""Export a trained captioner to TensorFlow, ONNX Runtime or LiteRT, with encoder and search in one graph.

    pip install -e ".[export]"
    python export.py --model runs/NAME --format onnx          # into the run folder, where test.py and app.py use it
    python export.py --output exported/                       # the captioner that comes with this repository
    python export.py --model runs/NAME --format onnx --calibrate photos/      # with an encoder that computes in 8 bits
    python export.py --model runs/NAME --output exported/
    python export.py --model runs/NAME --output exported/ --format onnx --beam-size 1 --int8
    python export.py --model runs/NAME --output exported/ --check photos/     # compare captions and speed

The exports are exported/savedmodel, exported/onnx and exported/litert, with --int8 also onnx-int8 and litert-int8.
docs/exports.md shows how to call each from Python without Keras.

Without --output, the export is written beside the captioner: into its run folder, or into a folder named like its
bundle. There test.py and app.py find the ONNX export, and caption with it. After a change of the captioner, make it
anew with --overwrite.

--calibrate adds an encoder that computes in 8 bits to the ONNX export. test.py and app.py take it on processors that
are fast in that. It needs some photographs like those to caption, best those of training, because they show the range
of each tensor. --int8 is another thing: it writes smaller files, which compute in float32.

--check captions pictures with the original and with each export, one picture at a time. The exit status is 1 if best
captions differ in an export without 8 bits. Each export keeps these captions in predictions.json, by the file names
of the pictures. If they are all pictures of a split, evaluate.py --predictions scores the file.
"""

import importlib.util
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from captioning.base.environment import describe
from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.progress import track
from captioning.base.script import run_script
from captioning.base.trained import fingerprint
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import (
    refuse_idle_consensus,
    refuse_stored_features,
    refuse_variety,
    resolve_trained,
    settle_backend,
)
from captioning.exports.checking import Comparison, Original, compare
from captioning.exports.reading import KINDS, Exported
from captioning.exports.runtime import exports_beside
from captioning.pictures.finding import Finder, is_address, sources
from captioning.pictures.loading import UnreadableImage, load_image, open_source
from captioning.reports.tables import markdown
from config import POCKET, Config

if TYPE_CHECKING:
    from model import Captioner

INT8_KINDS = ("onnx", "litert")
CALIBRATION = 64  # pictures that are enough to see the range of each tensor


class Wanted(NamedTuple):
    """An export to write."""

    kind: str
    int8: bool
    folder: Path


def main() -> int:
    args = settled(export_parser().parse_args())
    exports = wanted_exports(args)
    refuse_backend(args)
    settle_backend("tensorflow")
    for option in ("check", "calibrate"):
        for source in getattr(args, option) or []:
            if not is_address(source) and not Path(source).exists():
                raise UserError(f"--{option}: {source}: there is no such picture; name another, or a folder")
    finder = Finder()
    listed, calibrating = (list(sources(found or [], finder)) for found in (args.check, args.calibrate))
    finder.tell()
    refuse([wanted.kind for wanted in exports], [wanted.folder for wanted in exports], args.overwrite)

    from captioning.exports.writing import write_export
    from captioning.storage.members import settings_of
    from model import Captioner

    refuse_stored_features(
        settings_of(Path(args.model), "captioner"), f"--model: {args.model}: an export begins with pictures"
    )

    captioner = Captioner.load(Path(args.model))
    config = resolve_trained(args, captioner.config)
    refuse_idle_consensus([config])
    refuse_variety(config, "an export draws nothing and gives its whole beam", "do_sample", "num_captions")
    captioner.check(config)
    calibration = calibration_pictures(calibrating, config.image_size) if calibrating else None
    written, of_bundle = [], fingerprint(Path(args.model))
    for kind, int8, folder in exports:
        shown = calibration if kind == "onnx" and not int8 else None
        write_export(captioner, config, kind, folder, int8, of_bundle, shown)
        for of_8_bits in (False, True) if shown is not None else (False,):
            written.append(Exported(folder, int8_encoder=of_8_bits))
            print(f"written: {folder.parent / written[-1].name}: {written[-1].megabytes:,.1f} MB", flush=True)
    return check(captioner, config, written, listed) if listed else 0


def export_parser() -> ArgumentParser:
    parser = make_parser(__doc__, trained=True)
    parser.add_argument(
        "--model",
        default=POCKET,
        metavar="RUN",
        help="a run folder or a captioner.zip [default: pretrained/pocket.zip]",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="each export becomes a folder in this one [default: beside the captioner]"
    )
    parser.add_argument("--format", nargs="+", choices=KINDS, help="[default: all of them; without --output only onnx]")
    parser.add_argument("--int8", action="store_true", help="write onnx and litert with weights of 8 bits too")
    parser.add_argument(
        "--calibrate",
        nargs="+",
        metavar="IMAGE",
        help="add to onnx an encoder that computes in 8 bits, in the ranges that its tensors have on pictures. They are "
        f"{CALIBRATION} of those in these files and folders, drawn at random",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace exports that exist already")
    parser.add_argument(
        "--check",
        nargs="+",
        metavar="IMAGE",
        help="caption these files, folders or web addresses with the original and each export, and compare",
    )
    return parser


def settled(args: Namespace) -> Namespace:
    """The command line with its defaults for --format and --output, which depend on one another and on --model."""
    args.format = args.format or (tuple(KINDS) if args.output else ("onnx",))
    args.output = args.output or str(exports_beside(Path(args.model)))
    return args


def wanted_exports(args: Namespace) -> list[Wanted]:
    """The exports that the command line asks for. Raises UserError."""
    formats = list(dict.fromkeys(args.format))
    kinds = [(kind, False) for kind in formats]
    if args.int8:
        kinds += [(kind, True) for kind in formats if kind in INT8_KINDS]
        if len(kinds) == len(formats):
            raise UserError("--int8: only the formats onnx and litert can do this; add one of them, or leave this out")
    if args.calibrate and "onnx" not in formats:
        raise UserError("--calibrate: only the format onnx can do this; add it, or leave this out")
    return [Wanted(kind, int8, Path(args.output, f"{kind}-int8" if int8 else kind)) for kind, int8 in kinds]


def calibration_pictures(listed: Sequence[str], size: int) -> np.ndarray:
    """Some of the pictures ``listed``, RGB uint8 ``(B, size, size, 3)``. Those that cannot be read are reported.

    Raises UserError if none can be read.
    """
    found: list[np.ndarray] = []
    for source in Random(0).sample(listed, len(listed)):
        try:
            found.append(load_image(open_source(source), size))
        except UnreadableImage as error:
            print(f"error: {error}", file=sys.stderr)
        if len(found) == CALIBRATION:
            break
    if not found:
        raise UserError("--calibrate: none of the pictures can be read; name others")
    return np.stack(found)


def refuse_backend(args: Namespace) -> None:
    """Raise UserError if --backend asks for another backend than TensorFlow."""
    if typed_settings(args).get("backend", "tensorflow") != "tensorflow":
        raise UserError(
            "--backend: exports are made under TensorFlow, which reads captioners of every backend; leave this out"
        )


def refuse(kinds: Iterable[str], folders: Sequence[Path], overwrite: bool) -> None:
    """Raise UserError if a library for ``kinds`` is missing, or if one of ``folders`` exists and must stay."""
    needed = [name for kind in dict.fromkeys(kinds) for name in KINDS[kind].libraries]
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f'--format: needs {", ".join(missing)}; pip install -e ".[export]"')
    for folder in folders:
        is_export = (folder / "export.json").is_file()
        if folder.exists() and not (overwrite and is_export):
            advice = "choose another --output" + (", or add --overwrite" if is_export else "")
            raise UserError(f"{folder}: exists already; {advice}")


def check(captioner: "Captioner", config: Config, exports: Sequence[Exported], listed: Sequence[str]) -> int:
    """Compare the exports with the captioner on the pictures ``listed``, and print a table.

    Each export gets a check.json and a predictions.json. Returns the exit status.
    """

    def original(pixels: np.ndarray) -> list[str]:
        return [caption.text for caption in captioner.caption(captioner.encode(pixels[None]), config)[0]]

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        for source in track(listed, "check"):
            try:
                yield source, load_image(open_source(source), config.image_size)
            except UnreadableImage as error:
                print(f"error: {error}", file=sys.stderr)

    about, comparisons = compare(original, exports, pictures())
    broken = False
    for exported, comparison in zip(exports, comparisons, strict=True):
        write_comparison(exported, comparison, about, config.seed)
        if comparison.different:
            print(
                f"{exported.folder}: {len(comparison.different)} captions differ; {check_name(exported)} names them",
                file=sys.stderr,
            )
            broken |= not (exported.about["int8"] or exported.int8_encoder)
    print(table(exports, comparisons, about), end="")
    return 1 if broken else 0


def write_comparison(exported: Exported, comparison: Comparison, original: Original, seed: int) -> None:
    """Write check.json and predictions.json into the folder of an export, or those of its int8 encoder.

    Raises UserError.
    """
    predictions = [{"image_id": Path(name).name, "caption": text} for name, text in comparison.captions]
    path = exported.folder / check_name(exported)
    write(
        path.with_name(path.name.replace("check", "predictions")),
        json.dumps(predictions, indent=0, ensure_ascii=False) + "\n",
    )
    found = {**comparison.to_json(), "original": original._asdict(), **describe(seed)}
    write(path, json.dumps(found, indent=2) + "\n")


def check_name(exported: Exported) -> str:
    """The name of the file that says how an export differs."""
    return "check-int8.json" if exported.int8_encoder else "check.json"


def table(exports: Sequence[Exported], comparisons: Sequence[Comparison], original: Original) -> str:
    """A Markdown table of sizes, times and how many captions are the same."""
    rows = [
        {"format": "original", "MB": "", "same captions": "", "same beams": "", "seconds": f"{original.seconds:.3f}"}
    ]
    for exported, comparison in zip(exports, comparisons, strict=True):
        rows.append(
            {
                "format": exported.name,
                "MB": f"{exported.megabytes:.1f}",
                "same captions": f"{comparison.same} of {original.pictures}",
                "same beams": f"{comparison.same_beams} of {original.pictures}",
                "seconds": f"{comparison.seconds:.3f}",
            }
        )
    return markdown(rows)


if __name__ == "__main__":
    run_script(main)
