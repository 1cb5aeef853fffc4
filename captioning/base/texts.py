"""Many texts in one piece of memory. No Keras."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload


class Texts(Sequence[str]):
    """Many texts, one after another in one piece of memory.

    A str object takes some 50 bytes beside its letters, and half a million of them are scattered over the memory.
    Here a text takes its UTF-8 bytes and 8 more. A str is made whenever a text is read.
    """

    def __init__(self, texts: Iterable[str] = ()):
        self._bytes = bytearray()  # all texts, UTF-8
        self._ends = array("Q", [0])  # text i is _bytes[_ends[i] : _ends[i + 1]]
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self._bytes += _encode(text)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        for start, end in pairwise(self._ends):
            yield _decode(self._bytes[start:end])

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [_decode(self._piece(i)) for i in range(*place.indices(len(self)))]
        return _decode(self._piece(range(len(self))[place]))

    def find(self, text: str, near: int = 0) -> int | None:
        """The place of ``text``, or None if it is not among these texts, which must be sorted.

        ``near`` is the place where the search begins. Texts that are looked for in order are found at once.
        """
        wanted = bytearray(_encode(text))
        for place in (near, near + 1):
            if place < len(self) and self._piece(place) == wanted:
                return place
        # UTF-8 sorts as the texts themselves do.
        place = bisect_left(range(len(self)), wanted, key=self._piece)
        return place if place < len(self) and self._piece(place) == wanted else None

    def _piece(self, place: int) -> bytearray:
        """The bytes of the text at ``place``, which must not be negative."""
        return self._bytes[self._ends[place] : self._ends[place + 1]]


# File names that are not UTF-8 hold lone surrogates, which UTF-8 itself refuses.
def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode(piece: bytearray) -> str:
    return piece.decode("utf-8", "surrogatepass")


def printable(text: str) -> str:
    """``text`` with an escape for each lone surrogate, such as those of file names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
