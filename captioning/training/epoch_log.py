"""What a user reads of an epoch: a line on the terminal, and samples of dev on the terminal and in samples.txt."""

from collections.abc import Sequence
from pathlib import Path

from captioning.base.files import write_bytes
from captioning.base.texts import printable_lines


def show_epoch(
    line: dict[str, float], epochs: int, summary: str, each: Sequence[str], samples: Sequence[tuple[str, str]]
) -> None:
    """Print what happened in an epoch.

    ``line`` is the epoch's line of history.csv. ``epochs`` is how many there will be. ``summary`` is what the stage
    says of the epoch, and ``each`` what it says of each of several data sets. ``samples`` are pairs (file name, text)
    of dev.
    """
    text = (
        f"epoch {line['epoch']}/{epochs}: {summary}, {line['words_per_second']:,.0f} words/s, {line['seconds']:.0f} s"
    )
    shown = text + "".join(f"\n    {part}" for part in each) + f"\n{_indented(samples)}"
    print(printable_lines(shown), end="", flush=True)


def add_samples(folder: Path, epoch: int, samples: Sequence[tuple[str, str]]) -> None:
    """Add the ``samples`` of an epoch (from 1) to samples.txt in the run ``folder``, whole or not at all.

    They replace those of the same epoch, which a killed process may have left. Raises OSError.
    """
    path, head = folder / "samples.txt", f"epoch {epoch}\n".encode()
    written = path.read_bytes() if path.exists() else b""
    earlier = (b"\n" + written).partition(b"\n" + head)[0][1:]
    earlier += b"\n" if earlier and not earlier.endswith(b"\n") else b""
    # A file name that is not UTF-8 holds lone surrogates.
    write_bytes(path, earlier + head + _indented(samples).encode("utf-8", "backslashreplace"))


def _indented(samples: Sequence[tuple[str, str]]) -> str:
    return "".join(f"    {name}: {text}\n" for name, text in samples)
