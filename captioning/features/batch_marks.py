"""Which batches of a feature store are done, and the checksum of each. See ``store.py`` for the files.

The checksum of a batch is the CRC-32 of its rows in ``features.npy``, followed by the JSON text of a list: the names of
its images, and the reason for each of them that cannot be read. So changed rows, marks, names and reasons are all
noticed.
"""

import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from captioning.base.files import map_array, write_bytes
from captioning.base.progress import Progress

_CHECKSUM = 4  # bytes of a checksum in checksums.bin, the lowest first


class Marks:
    """The batches of the store in ``folder`` with the images ``names``, ``batch_size`` of them in each."""

    def __init__(self, folder: Path, names: Sequence[str], batch_size: int, trusted: bool = False):
        """``trusted``: a release without checksums began the store, so its marks are believed if there are none."""
        self.progress, self.checksums = folder / "progress.bin", folder / "checksums.bin"
        self._features = folder / "features.npy"
        self.batch_size, self.images, self._trusted = batch_size, len(names), trusted
        self._batches = [names[start : start + batch_size] for start in range(0, len(names), batch_size)]

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def batch(self, number: int) -> Sequence[str]:
        """The names of the images of a batch."""
        return self._batches[number]

    def begin(self) -> None:
        """Write files that say that no batch is done. Raises OSError."""
        write_bytes(self.progress, bytes(len(self)))
        write_bytes(self.checksums, bytes(_CHECKSUM * len(self)))

    def checksum(self, number: int, rows: bytes, unreadable: Mapping[str, str]) -> int:
        """That of a batch with these ``rows``.

        ``unreadable``: the reasons by name, also for images of other batches.
        """
        names = self._batches[number]
        said = json.dumps([list(names), [unreadable[name] for name in names if name in unreadable]])
        return zlib.crc32(said.encode(), zlib.crc32(rows))

    def damaged(self, unreadable: Mapping[str, str], numbers: Sequence[int] | None = None) -> list[int]:
        """Those of the batches ``numbers`` (None: of all) whose checksum is not that of what is on the disk.

        Raises ValueError when one of the files is damaged as a whole, and OSError.
        """
        wanted = self._checksums()
        numbers = range(len(self)) if numbers is None else numbers
        return [number for number, found in self._stored(unreadable, numbers) if found != wanted[number]]

    def done(self, unreadable: Mapping[str, str]) -> list[bool]:
        """Whether each batch is marked as done, and is on the disk as it was written.

        Batches that are marked and damaged are named on stderr, and their marks are removed. A store that was begun by
        a release without checksums gets some. Raises ValueError as ``damaged`` does, and OSError.
        """
        written = self.progress.read_bytes() if self.progress.exists() else b""
        marks = bytearray(written[: len(self)].ljust(len(self), b"\0"))
        marked = [number for number, mark in enumerate(marks) if mark]
        if not self.checksums.exists():
            found = np.zeros(len(self), "<u4")
            for number, checksum in self._stored(unreadable, marked if self._trusted else ()):
                found[number] = checksum
            write_bytes(self.checksums, found.tobytes())
        damaged = self.damaged(unreadable, marked)
        if damaged:
            print(
                f"note: {self._features}: {len(damaged)} of {len(self)} batches are damaged and are extracted again",
                file=sys.stderr,
            )
        for number in damaged:
            marks[number] = 0
        if bytes(marks) != written:
            write_bytes(self.progress, bytes(marks))
        return [bool(mark) for mark in marks]

    def mark(self, number: int, checksum: int) -> None:
        """Mark a batch as done. Its rows must be on the disk. Raises OSError.

        If the power fails, the mark may reach the disk and the checksum not. Then the batch counts as damaged.
        """
        for path, place, data in (
            (self.checksums, _CHECKSUM * number, checksum.to_bytes(_CHECKSUM, "little")),
            (self.progress, number, b"\1"),
        ):
            with open(path, "r+b") as file:
                file.seek(place)
                file.write(data)

    def _checksums(self) -> np.ndarray:
        """The checksums that were written, uint32. Missing ones are 0."""
        size = _CHECKSUM * len(self)
        written = self.checksums.read_bytes() if self.checksums.exists() else b""
        return np.frombuffer(written[:size].ljust(size, b"\0"), "<u4")

    def _stored(self, unreadable: Mapping[str, str], numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The number of each batch and the checksum of what is on the disk."""
        places = self.places()
        with open(self._features, "rb") as file, Progress("checking", len(numbers), "batches", last=False) as progress:
            for number in numbers:
                file.seek(places[number])
                rows = file.read(places[number + 1] - places[number])
                yield number, self.checksum(number, rows, unreadable)
                progress.update(1)

    def places(self) -> Sequence[int]:
        """Where the rows of each batch begin in features.npy, in bytes, and then where the last ones end.

        Raises ValueError when the file is damaged.
        """
        layout = map_array(self._features, ("f2", "f4"), 3)
        offset, row = layout.offset, layout.nbytes // max(1, len(layout))
        if len(layout) != self.images:
            raise ValueError(f"{self._features.name} has {len(layout)} rows")
        return [offset + min(number * self.batch_size, self.images) * row for number in range(len(self) + 1)]
