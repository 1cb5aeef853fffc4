"""Say whether captioning works here: versions, the captioner, and a caption of a picture that comes with it. No Keras.

caption check                  # the captioner that comes with the package
caption check --model RUN      # the ONNX graphs of a run
"""

import os
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import numpy as np

from captioning.base.environment import cpu_model, package_versions
from captioning.base.errors import UserError
from captioning.base.project import version
from captioning.base.texts import printable
from captioning.base.trained import fingerprint
from captioning.exports.runtime import GraphCaptioner, Unsuitable
from captioning.pictures.loading import UnreadableImage, load_image, open_source
from config import POCKET

# tools/draw_sign.py draws it.
PICTURE = Path(__file__).parent / "sign.jpg"


def main() -> int:
    """Print what is there, line by line. Raises UserError for the first thing that is missing."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=POCKET, metavar="RUN", help="a run folder or a bundle [default: %(default)s]"
    )
    model = parser.parse_args().model
    versions = package_versions()
    tell("version", f"{version()}, in {Path(__file__).parents[1]}")
    tell("processor", f"{cpu_model()}, {os.cpu_count()} cores")
    tell("runtime", runtime(versions))
    tell("keras", keras(versions))
    started = time.perf_counter()
    captioner, digest = opened(model)
    tell("captioner", f"{model}, fingerprint {digest[:16]}, opened in {elapsed(started)}")
    started = time.perf_counter()
    caption = first_caption(captioner)
    tell("caption", f"{caption!r}, of {PICTURE.name} in {elapsed(started)}")
    print("all is there: caption photo.jpg")
    return 0


def tell(part: str, found: str) -> None:
    print(printable(f"{part + ':':<11} {found}"), flush=True)


def elapsed(started: float) -> str:
    return f"{time.perf_counter() - started:.2f} s"


def runtime(versions: dict[str, str]) -> str:
    """What runs the graphs. Raises UserError if it is missing."""
    if "onnxruntime" not in versions:
        raise UserError("runtime: ONNX Runtime is not installed; pip install onnxruntime")
    return f"ONNX Runtime {versions['onnxruntime']}"


def keras(versions: dict[str, str]) -> str:
    """Whether Keras is there, which captions what ONNX Runtime cannot."""
    return versions.get("keras", 'not installed; training and some options need it: pip install ".[train]"')


def opened(model: Path) -> tuple[GraphCaptioner, str]:
    """The graphs of ``model``, and the fingerprint of its weights. Raises UserError if the graphs cannot be run."""
    try:
        digest = fingerprint(model)  # first, since a model that does not exist has none
        return GraphCaptioner.load(model), digest
    except (Unsuitable, UserError) as reason:
        advice = "; or install this software again" if model == POCKET else ""
        raise UserError(f"captioner: {reason}{advice}") from None


def first_caption(captioner: GraphCaptioner) -> str:
    """The caption of the picture that comes with the package. Raises UserError if the picture cannot be read."""
    try:
        pixels = load_image(open_source(str(PICTURE)), captioner.config.image_size)
    except UnreadableImage as error:
        raise UserError(f"caption: {error}; install this software again") from None
    return captioner.caption(captioner.encode(np.stack([pixels])))[0][0].text
