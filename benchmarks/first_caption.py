"""The seconds to a first caption, from start to end of ``python test.py photo.jpg``, and its memory, by runtime.

    python benchmarks/first_caption.py

Starts the command again and again, with the pocket captioner and its own settings, on one photograph. ONNX Runtime and
Keras take turns. The first start of each reads files from the disk, and does not count. A second caption is timed
inside one process of each: reading the file, encoder and search. The bars for ONNX Runtime: one second, 250 MB and 0.3
seconds. The bars for Keras: ten seconds and 0.3.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import ROOT, make_parser, print_table, verdict, write_results
from folder import make_photographs

from captioning.base.script import run_script
from config import POCKET

RUNTIMES = ("onnx", "keras")
BARS = {
    "onnx": {"first seconds": 1.0, "first megabytes": 250.0, "second seconds": 0.3},
    "keras": {"first seconds": 10.0, "second seconds": 0.3},
}


def first(runtime: str, picture: Path) -> dict[str, float]:
    """Seconds and peak megabytes of one start."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "test.py"), str(picture), "--runtime", runtime]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(started.pid, 0)
    seconds = time.perf_counter() - began
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise subprocess.CalledProcessError(started.returncode, command)
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # of bytes or of KiB
    return {"first seconds": seconds, "first megabytes": usage.ru_maxrss / unit}


def captioner_of(runtime: str) -> Any:
    """The pocket captioner on ``runtime``, with encoder and search of one picture ready."""
    if runtime == "onnx":
        from captioning.exports.runtime import GraphCaptioner

        return GraphCaptioner.load(POCKET)
    from model import Captioner

    return Captioner.load(POCKET)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    args = make_parser(__doc__).parse_args()
    warm_up, rounds = (0, 1) if args.quick else (1, 7)
    found: dict[str, dict[str, list[float]]] = {name: {what: [] for what in BARS["onnx"]} for name in RUNTIMES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photographs")
        make_photographs(folder, 1 + rounds)
        pictures = sorted(folder.iterdir())
        for turn in range(warm_up + rounds):
            for runtime in RUNTIMES:
                for what, value in first(runtime, pictures[0]).items():
                    found[runtime][what] += [value] if turn >= warm_up else []

        from captioning.pictures.loading import load_image

        captioners = {runtime: captioner_of(runtime) for runtime in RUNTIMES}
        for turn, picture in enumerate(pictures):
            for runtime, captioner in captioners.items():
                seconds = seconds_of(
                    lambda captioner=captioner, picture=picture: captioner.caption(
                        captioner.encode(load_image(picture, captioner.config.image_size)[None])
                    )
                )
                found[runtime]["second seconds"] += [seconds] if turn else []
    medians = {runtime: {what: median(values) for what, values in each.items()} for runtime, each in found.items()}
    passes = all(medians[runtime][what] <= bar for runtime, bars in BARS.items() for what, bar in bars.items())
    print_table(
        ["runtime", "caption", "median", "most", "bar"],
        [
            [runtime, what, f"{medians[runtime][what]:.2f}", f"{max(values):.2f}", f"{BARS[runtime].get(what, ''):}"]
            for runtime, each in found.items()
            for what, values in each.items()
        ],
    )
    print(verdict(args, passes))
    write_results(args, "first_caption", {"bars": BARS, "median": medians, "values": found, "pass": passes})


if __name__ == "__main__":
    run_script(main)
