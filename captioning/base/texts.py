"""Many texts in one piece of memory, and texts of strangers made fit to print. No Keras."""

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload


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


# What a terminal would obey, or what would reorder a line: control characters, line ends, marks of writing direction.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` on one line, with an escape for each character that a terminal would obey and each lone surrogate.

    File names may hold such characters. Lone surrogates stand for bytes that are not UTF-8.
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """As ``printable``, but line ends and tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def json_line(value: Any) -> str:
    """``value`` as JSON on one line, with an escape for each character that ``printable`` escapes.

    It reads back as the same value.
    """
    text = json.dumps(value, ensure_ascii=False)
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
