"""How far a long piece of work has come: a bar in a terminal, a line a minute elsewhere, nothing with ``--quiet``.

No Keras.
"""

import sys
import time
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

from captioning.base import script

T = TypeVar("T")

_REPORT_EVERY = 60  # seconds between two lines where there is no terminal


class Progress:
    """The progress of one piece of work, a context manager. ``update`` tells how much more is done.

    What is shown has count, speed and time left. Elsewhere than in a terminal the last line comes when all is done,
    also within the first minute.
    """

    def __init__(
        self, what: str, total: int | None, unit: str = "pictures", done: int = 0, bar: bool = True, last: bool = True
    ):
        """``total``: how much there is to do, if that is known; ``done``: how much of it was done before. In ``unit``.

        ``bar``: show a bar in a terminal; False where somebody else shows one. ``last``: what was shown last stays.
        """
        self.what, self.total, self.unit, self.done, self.last = what, total, unit, done, last
        self.begun = self.told = time.monotonic()
        self.count = 0  # done since then
        self.lines = script.hide_progress() and not script.quiet()
        self.bar = tqdm(
            desc=what,
            initial=done,
            total=total,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            leave=last,
            disable=not bar or total == 0 or script.hide_progress() or script.quiet(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()

    def update(self, more: int) -> None:
        """So much more is done. A Ctrl-C that waits for this (see ``script.stops_between_batches``) is raised now."""
        script.stop_if_told()
        self.count += more
        self.bar.update(more)
        now = time.monotonic()
        finished = self.total == self.done + self.count and self.last
        if self.lines and self.count and (finished or now - self.told >= _REPORT_EVERY):
            self.told = now
            print(self._line(self.count / max(now - self.begun, 1e-6)), file=sys.stderr, flush=True)

    def _line(self, rate: float) -> str:
        done = self.done + self.count
        if self.unit == "B":
            of = "" if self.total is None else f" of {self.total / 1e6:,.1f}"
            text = f"{self.what}: {done / 1e6:,.1f}{of} MB, {rate / 1e6:,.1f} a second"
        else:
            of = "" if self.total is None else f" of {self.total:,}"
            text = f"{self.what}: {done:,}{of} {self.unit}, {rate:,.1f} a second"
        return text if self.total is None else f"{text}, {tqdm.format_interval((self.total - done) / rate)} left"


def track(items: Collection[T], what: str, unit: str = "pictures") -> Iterator[T]:
    """``items`` one after the other, with their progress."""
    with Progress(what, len(items), unit) as progress:
        for item in items:
            yield item
            progress.update(1)
