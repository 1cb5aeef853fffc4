"""The seconds to a first caption, from start to end of ``python test.py photo.jpg``, and to a second in the same process.

    python benchmarks/first_caption.py

Starts the command again and again, with the pocket captioner and its own settings, on one photograph. The first start reads
the files of Python and TensorFlow from the disk, and does not count. The second caption is timed inside one process: reading
the file, encoder and search. The bars: ten seconds, and 0.3.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from common import ROOT, make_parser, print_table, verdict, write_results
from folder import make_photographs

from captioning.base.script import run_script
from config import POCKET

BARS = {"first": 10.0, "second": 0.3}


def main() -> None:
    args = make_parser(__doc__).parse_args()
    warm_up, rounds = (0, 1) if args.quick else (1, 7)
    seconds: dict[str, list[float]] = {"first": [], "second": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photographs")
        make_photographs(folder, 1 + rounds)
        pictures = sorted(folder.iterdir())
        for turn in range(warm_up + rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, ROOT / "test.py", pictures[0]], check=True, capture_output=True)
            if turn >= warm_up:
                seconds["first"].append(time.perf_counter() - began)

        from captioning.pictures.loading import load_image
        from model import Captioner

        captioner = Captioner.load(POCKET)
        for turn, picture in enumerate(pictures):
            began = time.perf_counter()
            captioner.caption(captioner.encode(load_image(picture, captioner.config.image_size)[None]))
            if turn:
                seconds["second"].append(time.perf_counter() - began)
    found = {name: median(times) for name, times in seconds.items()}
    passes = all(found[name] <= bar for name, bar in BARS.items())
    print_table(
        ["caption", "median", "slowest", "bar"],
        [[name, f"{found[name]:.2f} s", f"{max(seconds[name]):.2f} s", f"{bar:g} s"] for name, bar in BARS.items()],
    )
    print(verdict(args, passes))
    write_results(args, "first_caption", {"bars": BARS, "median": found, "seconds": seconds, "pass": passes})


if __name__ == "__main__":
    run_script(main)
