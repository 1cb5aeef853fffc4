"""Captions over HTTP while 20 of 50 clients send bombs: pictures of few bytes that take much memory and time to decode.

    python benchmarks/bombs.py                              # the pocket captioner
    python benchmarks/bombs.py --model runs/NAME

Starts app.py on this machine. First one honest client asks 10 times, and 30 honest clients ask at once, three times in
a row, as in app.py. Then the same 30 ask again while 20 others send bombs, each the next one as soon as it is answered.
The bombs are PNG pictures of one colour. Some are as large as the server decodes (49 megapixels with transparency).
Others are one pixel wide, or larger than it accepts.

The bars: with the bombs the median of an honest client is below 3 times that of the same clients without them, none
fails, and the server never takes more than 1.6 GB.
"""

import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

import requests
from clients import ask, memory
from common import ROOT, make_parser, print_table, verdict, write_results
from folder import make_photographs
from huge_pictures import make_picture

from captioning.base.script import run_script
from config import POCKET
from tools.servers import served

RATIO_BAR = 3
MEMORY_BAR = 1.6e9
# Width, height and Pillow's mode of the bombs.
BOMBS = (((7_000, 7_000), "RGBA"), ((7_000, 7_000), "L"), ((1, 100_000), "L"), ((178_000, 1), "L"))


class Attack:
    """Clients that send bombs for as long as this context lasts. ``answers``: how often each HTTP status came."""

    def __init__(self, address: str, bombs: list[bytes], clients: int):
        self.answers: Counter[int] = Counter()
        self._address, self._bombs, self._over = address, bombs, threading.Event()
        self._threads = [threading.Thread(target=self._one, args=(number,)) for number in range(clients)]

    def _one(self, number: int) -> None:
        with requests.Session() as session:
            while not self._over.is_set():
                # Two in three are the worst one.
                bomb = self._bombs[0 if number % 3 else number // 3 % len(self._bombs)]
                response = session.post(
                    f"{self._address}/api/captions", data=bomb, headers={"content-type": "image/png"}, timeout=600
                )
                self.answers[response.status_code] += 1
                number += 20

    def __enter__(self) -> "Attack":
        for thread in self._threads:
            thread.start()
        time.sleep(1)  # until the first ones are being decoded
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, default=POCKET, help="a run folder or a captioner.zip [default: the pocket captioner]"
    )
    args = parser.parse_args()
    honest, hostile, turns = (3, 2, 1) if args.quick else (30, 20, 3)
    rows, figures = [], {}

    def note(name: str, seconds: list[float], failed: int) -> None:
        figures[name] = {
            "answers": len(seconds),
            "failed": failed,
            "median_seconds": median(seconds),
            "max_seconds": max(seconds),
        }
        rows.append([name, len(seconds), failed, f"{median(seconds):.2f}", f"{max(seconds):.2f}"])

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_photographs(folder / "photographs", 4 if args.quick else 20)
        pictures = [path.read_bytes() for path in sorted((folder / "photographs").iterdir())]
        bombs = []
        for i, ((width, height), mode) in enumerate(BOMBS):
            scale = 20 if args.quick and min(width, height) > 1 else 1
            make_picture(folder / f"{i}.png", (width // scale, height // scale), mode, {})
            bombs.append((folder / f"{i}.png").read_bytes())
        with served("--model", str(args.model)) as (address, server):
            ask(address, pictures, honest, 1, False)
            note("1 client", *ask(address, pictures, 1, 2 if args.quick else 10, False))
            note(f"{honest} clients", *ask(address, pictures, honest, turns, False))
            before = memory(server.pid)
            with Attack(address, bombs, hostile) as attack:
                note(f"{honest} clients beside {hostile} with bombs", *ask(address, pictures, honest, turns, False))
            peak = memory(server.pid)
    print_table(["", "answers", "failed", "median s", "max s"], rows)
    print("answers to the bombs:", ", ".join(f"{count} times {status}" for status, count in attack.answers.items()))
    quiet, crowd = list(figures.values())[1:]
    ratio = crowd["median_seconds"] / quiet["median_seconds"]
    fair = ratio < RATIO_BAR and not crowd["failed"]
    print(f"with the bombs: {ratio:.1f} times the median without; {verdict(args, fair)}")
    small = not peak or peak < MEMORY_BAR
    if peak:
        print(f"peak memory of the server: {peak / 1e6:,.0f} MB, {before / 1e6:,.0f} before; {verdict(args, small)}")
    results = {
        "ratio_bar": RATIO_BAR,
        "memory_bar": MEMORY_BAR,
        "model": os.path.relpath(args.model, ROOT),
        "bombs": [[*size, mode, len(bomb)] for (size, mode), bomb in zip(BOMBS, bombs, strict=True)],
        "answers_to_bombs": dict(attack.answers),
        "figures": figures,
        "ratio": ratio,
        "peak_memory": peak,
        "memory_before": before,
        "load_average_1_min": os.getloadavg()[0],
    }
    write_results(args, "bombs", results | {"pass": fair and small})


if __name__ == "__main__":
    run_script(main)
