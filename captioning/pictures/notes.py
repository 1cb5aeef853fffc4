"""What a user should know of pictures that were read all the same, such as damaged ones: told on stderr.

Needs no Keras.
"""

import sys
import threading

from tqdm import tqdm


class Notes:
    """Prints the first notes, and counts the others. Threads may share it.

    A context manager: it says the count at its end.
    """

    def __init__(self, most: int = 5):
        """``most``: how many notes are printed."""
        self._most, self._count, self._lock = most, 0, threading.Lock()

    def __enter__(self) -> "Notes":
        return self

    def __exit__(self, *_) -> None:
        if self._count > self._most:
            print(f"note: ... and {self._count - self._most:,} more notes on pictures", file=sys.stderr)

    def __call__(self, note: str) -> None:
        """Take a note, which begins with the name of the picture."""
        with self._lock:
            self._count += 1
            is_shown = self._count <= self._most
        if is_shown:
            tqdm.write(f"note: {note}", file=sys.stderr)
