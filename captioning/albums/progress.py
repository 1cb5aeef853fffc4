"""How far a long piece of work over pictures has come: a bar in a terminal, a line now and then elsewhere. No Keras."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from captioning.base.script import hide_progress

_REPORT_EVERY = 60  # seconds between two lines where there is no terminal


@contextmanager
def progress(what: str, done: int, total: int) -> Iterator[Callable[[int], None]]:
    """Show count, speed and time left. Gives ``advance(pictures)``, to be called after so many more pictures.

    ``done`` of the ``total`` pictures were done before.
    """
    begun = told = time.monotonic()
    count = 0
    with tqdm(desc=what, initial=done, total=total, unit=" pictures", disable=hide_progress()) as bar:

        def advance(pictures: int) -> None:
            nonlocal told, count
            count += pictures
            bar.update(pictures)
            now = time.monotonic()
            left = total - done - count
            if bar.disable and (not left or now - told >= _REPORT_EVERY):
                told, rate = now, count / (now - begun)
                print(
                    f"{what}: {done + count:,} of {total:,} pictures, {rate:,.1f} a second, "
                    f"{tqdm.format_interval(left / rate)} left",
                    file=sys.stderr,
                )

        yield advance
