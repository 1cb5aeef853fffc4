"""The scripts, run as a user would, on a dozen small pictures."""

import contextlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from helpers import ROOT, save_encoder
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}
# Beside the encoder that make_data saves. An aligner decodes nothing, so it has no beam size.
TINY_ALIGNER = [
    *("--image-size", "32", "--embedding-size", "8", "--hidden-size", "8", "--vocab-threshold", "1"),
    *("--batch-size", "3", "--max-caption-length", "6", "--workers", "2", "--learning-rate", "0.03"),
    *("--extract-batch-size", "5"),
]
TINY = [*TINY_ALIGNER, "--beam-size", "2"]


@dataclass
class Outcome:
    status: int
    out: str
    err: str


def script(name: str, *arguments: str | Path) -> Outcome:
    """Run a script as ``python name.py arguments`` would, but in this process.

    An exception other than its end fails.
    """
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
    except SystemExit as left:
        return Outcome(left.code or 0, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError(f"{name}.py did not end through run_script")


def refused(name: str, *arguments: str | Path, mentions: str) -> None:
    """The script ends with status 2 and one error message that matches ``mentions``."""
    outcome = script(name, *arguments)
    assert outcome.status == 2, outcome
    (message,) = re.findall(r"^error: (.*)", outcome.err, flags=re.MULTILINE | re.DOTALL)
    assert re.search(mentions, message), message


def make_data(folder: Path) -> list[str]:
    """Twelve pictures of one colour, a CSV of two captions each, and encoder.keras.

    Returns the options that name the data.
    """
    images = folder / "pictures"
    images.mkdir(parents=True)
    save_encoder(folder / "encoder.keras")
    rng = np.random.default_rng(0)
    rows = ["image,caption,split"]
    for i in range(12):
        colour = list(COLOURS)[i % 4]
        pixels = np.clip(rng.normal(COLOURS[colour], 20, (24, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{i:02}.png")
        split = "train" if i < 8 else "dev" if i < 10 else "test"
        rows += [f"{i:02}.png,A {colour} picture .,{split}", f"{i:02}.png,This one is {colour},{split}"]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    places = {"data-dir": images, "captions-file": folder / "captions.csv", "feature-dir": folder / "features"}
    return ["--dataset", "folder", *(str(part) for name, path in places.items() for part in (f"--{name}", path))]


def process(name: str, *arguments: str | Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{name}.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},  # a crash in native code tells where it was
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores Ctrl-C
    )
