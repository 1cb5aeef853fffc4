"""Captions over HTTP: first one client that asks again and again, then 20 and 50 clients at once.

    python benchmarks/app.py                                # the pocket captioner
    python benchmarks/app.py --model runs/NAME

Starts app.py on this machine and sends it JPEGs of the size of Flickr8k's (500 x 375 pixels, about 130 kB). The time is
from the first byte sent to the last byte received. After the server's warm-up, one client asks 20 times. Then 20 and 50
clients ask at once, each three times in a row. Every answer has the greedy caption and those of the captioner's own
beam. "With attention" it also has where the decoder looked, as the page asks.

The bars: one second for one client, with attention. Of 20 clients none fails, and their median is below ten times that
of one client.
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

from clients import ask, memory
from common import ROOT, make_parser, print_table, verdict, write_results
from folder import make_photographs

from captioning.base.script import run_script
from config import POCKET
from tools.servers import served

BAR = 1.0
CROWD_BAR = 10


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, default=POCKET, help="a run folder or a captioner.zip [default: the pocket captioner]"
    )
    args = parser.parse_args()
    single, crowds, turns = (3, (4,), 1) if args.quick else (20, (20, 50), 3)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_photographs(folder / "photographs", 4 if args.quick else 20)
        pictures = [path.read_bytes() for path in sorted((folder / "photographs").iterdir())]
        with served("--model", str(args.model)) as (address, server):
            ask(address, pictures, 1, 2, True)
            for clients, times in ((1, single), *((crowd, turns) for crowd in crowds)):
                for attention in (False, True):
                    began = time.perf_counter()
                    seconds, failed = ask(address, pictures, clients, times, attention)
                    rate = len(seconds) / (time.perf_counter() - began)
                    name = (
                        f"{clients} {'client' if clients == 1 else 'clients'}{', with attention' if attention else ''}"
                    )
                    figures[name] = {
                        "requests": clients * times,
                        "failed": failed,
                        "median_seconds": median(seconds),
                        "max_seconds": max(seconds),
                        "pictures_per_second": rate,
                    }
                    rows.append(
                        [name, clients * times, failed, f"{median(seconds):.2f}", f"{max(seconds):.2f}", f"{rate:.1f}"]
                    )
            peak = memory(server.pid)
    print_table(["", "requests", "failed", "median s", "max s", "pictures/s"], rows)
    alone, crowd = (figures[f"{name}, with attention"] for name in ("1 client", f"{crowds[0]} clients"))
    ratio = crowd["median_seconds"] / alone["median_seconds"]
    fast = alone["median_seconds"] <= BAR
    fair = not crowd["failed"] and ratio < CROWD_BAR
    if peak:
        print(f"peak memory of the server: {peak / 1e6:,.0f} MB")
    print(f"one client: {alone['median_seconds']:.2f} s from upload to captions and maps; {verdict(args, fast)}")
    print(f"{crowds[0]} clients: {ratio:.1f} times the median of one, {crowd['failed']} failed; {verdict(args, fair)}")
    model = os.path.relpath(args.model, ROOT)
    results = {"bar": BAR, "crowd_bar": CROWD_BAR, "model": model, "figures": figures}
    write_results(args, "app", results | {"ratio": ratio, "peak_memory": peak, "pass": fast and fair})


if __name__ == "__main__":
    run_script(main)
