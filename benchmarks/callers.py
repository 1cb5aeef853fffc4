"""Captions from two servers behind nginx: while both work, while one is killed, and while each is replaced.

    python benchmarks/callers.py                            # the pocket captioner
    python benchmarks/callers.py --model runs/NAME

Starts two app.py and nginx with deploy/nginx.conf on this machine. 50 clients ask at once, and no client asks twice.
The pictures are JPEGs of the size of Flickr8k's. First each client asks four times in a row. Then they do so again, and
one server gets SIGKILL when a third of the answers are there. Last the clients ask without end. Meanwhile one server
gets SIGTERM and starts anew, and then the other.

An answer is lost if it is no captions, whatever the reason. It is different if it is not what one server says alone.
The log of nginx tells for how many pictures it asked a second server. The bar: no answer is lost.
"""

import os
import re
import signal
import tempfile
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from subprocess import Popen
from typing import NamedTuple

import requests
from common import ROOT, make_parser, print_table, verdict, write_results
from folder import make_photographs

from captioning.base.script import run_script
from config import POCKET
from tools.servers import behind_nginx, free_ports, served


class Answer(NamedTuple):
    """What a client got. ``caption``: None if it is lost. ``problem``: then the reason."""

    picture: int
    seconds: float
    caption: str | None
    problem: str = ""


def ask(address: str, number: int, picture: bytes, session: requests.Session) -> Answer:
    """Ask for the captions of a picture once."""
    began, caption = time.perf_counter(), None
    try:
        response = session.post(
            f"{address}/api/captions", data=picture, headers={"content-type": "image/jpeg"}, timeout=600
        )
        problem = "" if response.ok else f"{response.status_code}: {response.text[:200]}"
        if response.ok:
            caption = response.json()["captions"][0]["caption"]
    except requests.RequestException as error:
        problem = f"{type(error).__name__}: {error}"
    return Answer(number, time.perf_counter() - began, caption, problem)


class Crowd(AbstractContextManager):
    """Clients that ask one picture after the other inside the block: ``turns`` times, or until its end. See answers."""

    def __init__(self, address: str, pictures: list[bytes], clients: int, turns: int | None = None):
        self.address, self.pictures, self.turns = address, pictures, turns
        self.answers: list[Answer] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Crowd":
        self._began = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        if self.turns is None:
            self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.perf_counter() - self._began

    def wait_for(self, answers: int) -> None:
        """Wait until there are so many answers."""
        while len(self.answers) < answers and any(thread.is_alive() for thread in self._threads):
            time.sleep(0.01)

    def _client(self, number: int) -> None:
        turn = 0
        with requests.Session() as session:
            while not self._stopping.is_set() and (self.turns is None or turn < self.turns):
                chosen = (number + turn) % len(self.pictures)
                self.answers.append(ask(self.address, chosen, self.pictures[chosen], session))
                turn += 1


class Pair:
    """Two servers on ports of their own. They stop with ``stack``."""

    def __init__(self, model: Path, stack: ExitStack):
        self.model, self.stack, self.ports = model, stack, free_ports(2)
        self.processes = [self._start(port) for port in self.ports]

    def _start(self, port: int) -> Popen:
        _, process = self.stack.enter_context(served("--model", str(self.model), "--port", str(port), "--grace", "30"))
        return process

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

    def replace(self, number: int) -> None:
        """Let a server stop, wait for its end, and start it anew."""
        self.processes[number].send_signal(signal.SIGTERM)
        self.processes[number].wait()
        self.start(number)

    def start(self, number: int) -> None:
        self.processes[number] = self._start(self.ports[number])


def figures_of(crowd: Crowd, expected: list[str], asked: list[str]) -> dict[str, float]:
    """The figures of a row. ``asked``: lines of the log of nginx."""
    got = [answer for answer in crowd.answers if answer.caption is not None]
    for answer in crowd.answers:
        if answer.caption is None:
            print(f"lost: {answer.problem}")
    return {
        "requests": len(crowd.answers),
        "lost": len(crowd.answers) - len(got),
        "different": sum(answer.caption != expected[answer.picture] for answer in got),
        "second_asked": sum(", " in line for line in asked),
        "median_seconds": median(answer.seconds for answer in got),
        "max_seconds": max(answer.seconds for answer in got),
        "pictures_per_second": len(got) / crowd.seconds,
    }


def measure(model: Path, quick: bool, folder: Path) -> dict[str, dict[str, float]]:
    """The figures of each row. ``folder``: for pictures and for files of nginx."""
    clients, turns = (6, 2) if quick else (50, 4)
    make_photographs(folder / "photographs", 4 if quick else 20)
    pictures = [path.read_bytes() for path in sorted((folder / "photographs").iterdir())]
    figures = {}
    with ExitStack() as stack:
        pair = Pair(model, stack)
        with requests.Session() as session:
            alone = [ask(f"http://127.0.0.1:{pair.ports[0]}", 0, picture, session) for picture in pictures]
        expected = [str(answer.caption) for answer in alone]
        address, log = stack.enter_context(behind_nginx(pair.ports, folder)), folder / "access.log"

        def note(name: str, crowd: Crowd) -> None:
            lines = log.read_text().splitlines()[sum(int(row["requests"]) for row in figures.values()) :]
            asked = [found[1] for line in lines if (found := re.search(r"asked (.*?): ", line))]
            figures[name] = figures_of(crowd, expected, asked)

        with Crowd(address, pictures, clients, turns) as crowd:
            pass
        note("both work", crowd)
        with Crowd(address, pictures, clients, turns) as crowd:
            crowd.wait_for(clients * turns // 3)
            pair.kill(0)
        note("one is killed", crowd)
        pair.start(0)
        with Crowd(address, pictures, clients) as crowd:
            for number in range(2):
                pair.replace(number)
        note("each is replaced", crowd)
    return figures


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, default=POCKET, help="a run folder or a captioner.zip [default: the pocket captioner]"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(args.model, args.quick, Path(temporary))
    rows = [
        [name, *(f"{value:.2f}" if isinstance(value, float) else value for value in row.values())]
        for name, row in figures.items()
    ]
    header = ["", "requests", "lost", "different", "second asked", "median s", "max s", "pictures/s"]
    print_table(header, rows)
    whole = not any(row["lost"] for row in figures.values())
    print(f"no answer is lost; {verdict(args, whole)}")
    results = {"model": os.path.relpath(args.model, ROOT), "figures": figures, "pass": whole}
    write_results(args, "callers", results)


if __name__ == "__main__":
    run_script(main)
