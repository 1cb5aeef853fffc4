"""Damage files of every kind that is read, and see that each damage is named and nothing else happens.

    python tools/drill.py                                  # 10,000 inputs
    python tools/drill.py --inputs 200 --only index        # of the kinds whose names hold this word
    python tools/drill.py --only "feature store" --trial 17    # one input again, with its traceback
    python tools/drill.py --kills 100                      # kill long works; see tools/drill_kills.py
    python tools/drill.py --full-disks 100                 # let disks fill up

An input is a whole file, or a few, in which one or two things were changed: bits, bytes, lines, numbers, names,
lengths. The seed and the number of a trial decide them. A reader may give what it reads, or raise UserError. What
counts as a fault:

    traceback     another error
    hang          more than ten seconds
    memory        512 MiB more than before
    leftover      files that were not there before
    changed       files that a reader has changed, and that it only reads

The exit status is 1 if there was a fault. docs/reliability.md says what was found.
"""

import argparse
import contextlib
import io
import json
import math
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from captioning.base.errors import UserError
from captioning.base.script import run_script
from tools import drill_kills
from tools.drill_kinds import KINDS, Kind, contents

SECONDS = 10
MEMORY = 512 << 20  # bytes
# What may stand for any value in JSON, CSV and lines of text.
ODD = (
    *("", "0", "-1", "3.5", "1e999", "NaN", "Infinity", "9" * 5000, "null", "true", "[]", "{}", '""', '"\\ud800"'),
    *("[" * 100_000, '"' + "x" * 5000 + '"', "../../etc/passwd", "\0", "\x1b[31merror: \r\n", "é", "\u2028"),
)


class Hang(BaseException):
    """A reader took more than ``SECONDS``."""


def damage(content: bytes, name: str, rng: random.Random) -> bytes | None:
    """``content`` with one change. None: the file is removed."""
    if name.endswith((".json", ".jsonl")) and rng.random() < 0.4:
        with contextlib.suppress(ValueError, RecursionError):
            return _other_value(content, rng)
    return rng.choice(_CHANGES)(content, rng)


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randrange(len(content) + 1)


def _flip(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return b"\xff"
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.randbytes(rng.choice((1, 4, 100))) + content[place:]


def _remove(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start + rng.choice((1, 4, 100)) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted((_place(content, rng), _place(content, rng)))
    return content[:end] + content[start:end] * rng.choice((1, 3)) + content[end:]


def _odd_text(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.choice(ODD).encode() + content[place:]


def _odd_number(content: bytes, rng: random.Random) -> bytes:
    """Another value in the place of a number, a word or a line."""
    start = _place(content, rng)
    end = start
    while end < len(content) and content[end : end + 1].isalnum():
        end += 1
    return content[:start] + rng.choice(ODD).encode() + content[end:]


def _whole(content: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (b"", b"\0" * 64, b"\xff" * 64, b"[" * 100_000, b"\n" * 1000, b"PK\x03\x04", b"\x93NUMPY\x01\x00")
    )


def _size_field(content: bytes, rng: random.Random) -> bytes:
    """Four bytes that may be a length, at an extreme."""
    place = _place(content, rng)
    value = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80"))
    return content[:place] + value + content[place + 4 :]


def _gone(content: bytes, rng: random.Random) -> None:
    return None


_CHANGES: tuple[Callable[[bytes, random.Random], bytes | None], ...] = (
    *(_flip, _flip, _cut, _insert, _remove, _repeat, _odd_text, _odd_number, _odd_number, _size_field, _whole, _gone),
)


def _other_value(content: bytes, rng: random.Random) -> bytes:
    """JSON in which one value is another one. Of lines of JSON, one line."""
    lines = content.split(b"\n") if content.count(b"\n{") and not content.startswith(b"{\n") else [content]
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        pairs = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, inner in list(pairs):
            places.append((part, key))
            walk(inner)

    walk(value)
    if not places:
        return rng.choice(ODD).encode()
    holder, key = rng.choice(places)
    mark = "the place of the new value"
    if isinstance(holder, dict) and rng.random() < 0.2:
        holder[rng.choice(("", "x" * 5000, "\0", "../x", "é"))] = holder.pop(key)
    else:
        holder[key] = mark
    lines[number] = json.dumps(value).replace(json.dumps(mark), rng.choice(ODD)).encode()
    return b"\n".join(lines)


def lay_out(folder: Path, files: dict[str, bytes]) -> None:
    """Make ``folder`` hold these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def fault(kind: Kind, whole: dict[str, bytes], folder: Path, rng: random.Random) -> tuple[str, str]:
    """Damage files as ``rng`` decides, and read them.

    Returns what happened in a word, and a traceback if there is one.
    """
    files = dict(whole)
    for _ in range(rng.choice((1, 1, 1, 2))):
        # The small files decide more than pictures that are not read.
        name = rng.choice(sorted(name for name in files if whole[name]) or sorted(files))
        changed = damage(files[name], name, rng)
        if changed is None:
            del files[name]
            break
        files[name] = changed
    lay_out(folder, files)
    taken = _peak_memory()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            kind.read(folder)
        found = "read"
    except UserError as error:
        found = "refused" if str(error).strip() else "traceback"
    except Hang:
        return "hang", traceback.format_exc()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if _peak_memory() - taken > MEMORY:
        return "memory", f"{_peak_memory() - taken:,} bytes\n"
    after = contents(folder)
    if hidden := sorted(name for name in after if name not in whole and Path(name).name.startswith(".")):
        return "leftover", f"{hidden}\n"
    if not kind.writes and after != files:
        return "changed", f"{sorted(set(after) ^ set(files))}\n"
    return found, ""


def drill(kind: Kind, trials: range, seed: int, scratch: Path) -> tuple[Counter[str], dict[int, str]]:
    """How often each thing happened in ``trials`` of a kind, and the text of each fault by the number of its trial."""
    lay_out(scratch / "whole", {})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        kind.make(scratch / "whole")
        whole = contents(scratch / "whole")
        kind.read(scratch / "whole")  # what is whole must be read
    counts: Counter[str] = Counter()
    faults: dict[int, str] = {}
    before = signal.signal(signal.SIGALRM, _hang)
    try:
        for trial in trials:
            found, text = fault(kind, whole, scratch / "damaged", random.Random(f"{seed} {kind.name} {trial}"))
            counts[found] += 1
            if found not in ("read", "refused"):
                faults[trial] = f"{found}\n{text}"
    finally:
        signal.signal(signal.SIGALRM, before)
    return counts, faults


def _peak_memory() -> int:
    """The most memory that this process has taken so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _hang(*_: object) -> None:
    raise Hang


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all kinds together [default: 10000]")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other damage [default: 0]")
    parser.add_argument("--only", default="", help="only kinds whose names hold this")
    parser.add_argument("--trial", type=int, help="only the trial of this number, of each kind")
    parser.add_argument(
        "--kills", type=int, metavar="N", help="instead kill long works N times, and compare their results"
    )
    parser.add_argument(
        "--full-disks", type=int, metavar="N", help="instead let N disks fill up under works that write"
    )
    args = parser.parse_args()
    for times, disturb in ((args.kills, drill_kills.kill), (args.full_disks, drill_kills.fill)):
        if times is not None:
            return drill_kills.report(disturb, times, args.seed, args.only)
    kinds = [kind for kind in KINDS if args.only in kind.name]
    if not kinds or args.inputs < 1:
        raise UserError(f"--only: no kind of {', '.join(kind.name for kind in KINDS)} holds {args.only!r}")
    warnings.simplefilter("ignore")  # those of Pillow on damaged pictures
    if any(kind.keras for kind in kinds):
        import model  # noqa: F401  # now, because Keras takes longer than a reader may
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        for kind in kinds:
            trials = range(math.ceil(args.inputs * kind.share / sum(kind.share for kind in kinds)))
            if args.trial is not None:
                trials = range(args.trial, args.trial + 1)
            began = time.perf_counter()
            counts, faults = drill(kind, trials, args.seed, Path(scratch))
            total += counts
            told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            print(f"{kind.name}: {told}, {time.perf_counter() - began:.1f} s", flush=True)
            for trial, text in list(faults.items())[:5]:
                lines = text.strip().splitlines()
                print(f"    trial {trial}: {text if args.trial is not None else f'{lines[0]} ... {lines[-1]}'}")
    print(f"{sum(total.values())} inputs: " + ", ".join(f"{count} {what}" for what, count in sorted(total.items())))
    return int(bool(set(total) - {"read", "refused"}))


if __name__ == "__main__":
    run_script(main)
