"""What a user reads of an epoch: a line on the terminal, and samples of dev on the terminal and in samples.txt."""

from collections.abc import Sequence
from pathlib import Path


def show_epoch(
    line: dict[str, float],
    epochs: int,
    summary: str,
    each: Sequence[str],
    samples: Sequence[tuple[str, str]],
    folder: Path,
) -> None:
    """Print what happened in an epoch, and add its samples to samples.txt in the run ``folder``.

    ``line`` is the epoch's line of history.csv. ``epochs`` is how many there will be. ``summary`` is what the stage
    says of the epoch, and ``each`` what it says of each of several data sets. ``samples`` are pairs (file name, text)
    of dev.
    """
    shown = "".join(f"    {name}: {sample}\n" for name, sample in samples)
    text = (
        f"epoch {line['epoch']}/{epochs}: {summary}, {line['words_per_second']:,.0f} words/s, {line['seconds']:.0f} s"
    )
    print(text + "".join(f"\n    {part}" for part in each) + f"\n{shown}", end="", flush=True)
    with open(folder / "samples.txt", "a", encoding="utf-8") as file:
        file.write(f"epoch {line['epoch']}\n{shown}")
