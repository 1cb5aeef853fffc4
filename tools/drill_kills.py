"""Disturb long works, start them again, and compare them with undisturbed ones. ``tools/drill.py`` calls this.

``--kills N``: a work is killed with SIGKILL up to three times in a row and started again each time. At last it may end.
A seed and a number decide each moment: every other kill strikes just before a file is written, renamed or removed, and
the others after a time.

``--full-disks N``: a work runs on a disk that is too small for it. It must end with status 2 and one message. Then the
disk becomes larger, and the same work goes on to its end. This needs the right to mount a file system.

What counts as a fault:

    failed        the last start ended with an error, or one on a full disk not with status 2 and one message
    traceback     a message of Python in what it printed
    hang          it took more than ten minutes
    leftover      files that the work in peace did not leave
    missing       files that are not there
    different     files with another content
    altered       a picture that was neither as before nor as the work in peace left it, at any moment
    changed       data or models that a work only reads
"""

import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioning.base.errors import UserError
from tools.drill_works import WORKS, WRITERS, End, Moment, Work, Workshop, pictures, snapshot

IN_A_ROW = 3  # kills before a work may end
_LARGE = 256 << 20  # bytes of a disk on which any work has room

# Takes a workshop, a work, how often to disturb it and the seed. Gives how often each thing happened, and the faults.
Drill = Callable[[Workshop, Work, int, int], tuple[Counter[str], list[str]]]


def kill(workshop: Workshop, work: Work, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill ``work`` so many times. Returns how often each thing happened, and the faults in words.

    The counts: "killed"; "missed" for kills that came after its end; "compared" for works that ended.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    peace = workshop.peace(work)
    wanted, described = snapshot(workshop.here), pictures(workshop.here)
    number = row = 0
    while counts["killed"] < kills and number < 3 * kills:
        number += 1
        moment = _moment(f"{seed} {work.name} {number}", number, peace)
        if row:
            end = workshop.again(work, moment)
        else:
            workshop.set_up(work)
            before = pictures(workshop.here)
            end = workshop.run(work.command, moment)
        row += 1
        killed = end.status == -signal.SIGKILL
        counts["killed" if killed else "missed"] += 1
        for name, content in pictures(workshop.here).items():
            if content not in (before[name], described[name]):
                faults.append(f"kill {number}: altered {name}")
        if killed and row < IN_A_ROW and counts["killed"] < kills:
            continue
        if killed:
            end = workshop.again(work)
        faults += [f"kill {number}: {text}" for text in workshop.faults(end, wanted)]
        counts["compared"] += 1
        row = 0
    return counts, faults + workshop.changes()


def _moment(seed: str, number: int, peace: End) -> Moment:
    rng = random.Random(seed)
    if number % 2:
        return Moment(write=rng.randint(1, peace.writes))
    return Moment(seconds=rng.uniform(0.05, 1) * peace.seconds)


def fill(workshop: Workshop, work: Work, disks: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Do ``work`` on so many disks of random sizes. Returns how often each thing happened, and the faults in words.

    The counts: "full"; "enough" for disks on which it found room after all; "compared" for works that ended. Raises
    UserError where no file system can be mounted.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with _disk(workshop.here) as resize:
        workshop.peace(work)
        wanted, needed = snapshot(workshop.here), _used(workshop.here)
        for number in range(1, disks + 1):
            workshop.set_up(work)
            used = _used(workshop.here)
            size = random.Random(f"{seed} {work.name} {number}").uniform(used, 1.1 * needed)
            resize(int(size))
            end = workshop.run(work.command)
            counts["enough" if end.status == 0 else "full"] += 1
            said = workshop.log.read_text(errors="replace")
            whole = end.status == 0 or (end.status == 2 and said.count("\nerror:") + said.startswith("error:") == 1)
            if not whole or "Traceback (most recent call last)" in said:
                faults.append(f"disk {number}, {size:,.0f} bytes: failed with status {end.status}: {workshop.tail()}")
            resize(_LARGE)
            if end.status != 0:
                end = workshop.again(work)
            faults += [f"disk {number}, {size:,.0f} bytes: {text}" for text in workshop.faults(end, wanted)]
            counts["compared"] += 1
    return counts, faults + workshop.changes()


@contextmanager
def _disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A file system in memory at ``folder``. Gives a function that changes its size in bytes. Raises UserError."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)

    folder.mkdir(exist_ok=True)
    try:
        mount(f"size={_LARGE}")
    except (OSError, subprocess.CalledProcessError):
        raise UserError("--full-disks: needs the right to mount a file system, as root has it") from None
    try:
        yield lambda size: mount(f"remount,size={size}")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _used(folder: Path) -> int:
    """The bytes that are taken on the disk of ``folder``."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def disturb(
    drill: Drill, works: Sequence[Work], times: int, seed: int
) -> Iterator[tuple[str, Counter[str], list[str]]]:
    """Disturb all ``works`` together so many times.

    Gives the name of each, how often each thing happened, the faults.
    """
    shares = [work.share for work in works]
    bounds = [round(times * sum(shares[:i]) / sum(shares)) for i in range(len(works) + 1)]
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        workshop = Workshop(Path(scratch).resolve(), works)
        try:
            for i, work in enumerate(works):
                yield work.name, *drill(workshop, work, bounds[i + 1] - bounds[i], seed)
        finally:
            workshop.close()


def report(drill: Drill, times: int, seed: int, only: str) -> int:
    """Print what ``disturb`` gives of the works whose names hold ``only``. Returns the exit status."""
    every = WORKS if drill is kill else (*WORKS, *WRITERS)
    exports = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
    works = [work for work in every if only in work.name and (exports or work.name != "export")]
    if not works:
        raise UserError(f"--only: no work of {', '.join(work.name for work in every)} holds {only!r}")
    total: Counter[str] = Counter()
    began = time.perf_counter()
    for name, counts, faults in disturb(drill, works, times, seed):
        total += counts + Counter(faults=len(faults))
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        print(f"{name}: {told}, {len(faults)} faults, {time.perf_counter() - began:.1f} s", flush=True)
        for text in faults:
            print(f"    {text}", flush=True)
        began = time.perf_counter()
    print(
        ", ".join(
            f"{total[what]} {what}"
            for what in ("killed", "full", "compared", "faults")
            if what in total or what == "faults"
        )
    )
    return int(bool(total["faults"]))
