"""The index holds the vectors of many pictures on disk. Each picture is embedded once. Every search reads the vectors.

An index is a folder with two files:

    index.json          {"format": 1, "model": fingerprint, "source": whose pictures they are, "version": N,
                        "images": [[name, size, mtime], ...], "unreadable": {name: [size, mtime, reason]},
                        "checksums": [one for each 1,024 images, ...]}
    vectors-N.npy       float32 (at least as many rows as images, J): unit vectors in the order of ``images``

A checksum is the CRC-32 of the vectors of its images, followed by the JSON text of the list of their names. All are
compared when an index is opened. Indexes of earlier releases have none.

A picture is embedded again if its size in bytes or its time of change in nanoseconds has changed.

An index is valid at any moment. The vectors reach the disk first, and then index.json, which names them, is replaced as
a whole. An interrupted update leaves an index of fewer pictures, and the next update goes on from there.
Legend: Q queries, K pictures found, J size of the joint space.
"""

import contextlib
import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import allocate, alone_with, cache_folder, map_array, write_atomically
from captioning.base.json_files import MAX_BYTES, load_json, take
from captioning.base.progress import Progress
from captioning.pictures.loading import UnreachableImage, UnreadableImage
from captioning.retrieval.approximate import Approximate
from captioning.retrieval.ranking import neighbours
from config import PRETRAINED, SEARCH

FORMAT = 1
_TRY_AGAIN = (-1, -1)  # a stamp that no file has, so the next update tries the picture again
_CHUNK = 1024  # pictures between two versions of index.json
_BLOCK = 1024  # pictures of a checksum

Stamp = tuple[int, int]  # size in bytes, time of change in nanoseconds
# Takes names of pictures. Gives for each batch all names, vectors float32 (B, J) and reasons. The vectors belong to the
# readable pictures, in the order of the names. The reasons say why the other pictures cannot be read, by name.
Embed = Callable[[Sequence[str]], Iterator[tuple[Sequence[str], np.ndarray, Mapping[str, UnreadableImage]]]]


class ImageIndex:
    """Read access to an index."""

    def __init__(self, folder: Path):
        """Open the index in ``folder``. Raises UserError if it is missing or damaged."""
        self.folder = folder
        self.approximate: Approximate | None = None
        try:
            about = load_json(folder / "index.json", dict)
            if take(about, "format", int) > FORMAT:
                raise UserError(f"{folder}: written by a newer release; update this software, or delete the folder")
            self.model, self.source = take(about, "model", str), take(about, "source", str)
            self.version = take(about, "version", int, lambda version: version > 0)
            images, unreadable = take(about, "images", list), take(about, "unreadable", dict)
            if not all(_is_line(line, str, int, int) for line in images):
                raise ValueError("a line of images is not a name, a size and a time")
            if not all(_is_line(line, int, int, str) for line in unreadable.values()):
                raise ValueError("a line of unreadable images is not a size, a time and a reason")
            self.images = [name for name, _, _ in images]
            if len({*self.images, *unreadable}) != len(self.images) + len(unreadable):
                raise ValueError("a picture is named twice")
            self.stamps: list[Stamp] = [(size, changed) for _, size, changed in images]
            self.unreadable: dict[str, tuple[int, int, str]] = {name: tuple(line) for name, line in unreadable.items()}
            vectors = map_array(_vectors(folder, self.version), ("f4",), 2)
            if len(vectors) < len(self.images) or not vectors.shape[1]:
                raise ValueError("index.json and the vectors do not belong together")
            self.vectors = vectors[: len(self.images)]
            self.checksums = self._checksums()
            if "checksums" in about:
                self._refuse_changed(take(about, "checksums", list))
        except FileNotFoundError as error:
            raise UserError(
                f"{folder}: not an index ({Path(error.filename).name} is missing); name another --index"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: damaged index ({error}); delete it, and the next search builds it again"
            ) from None

    def _checksums(self) -> list[int]:
        """The checksums of the vectors and names as they are."""
        return [
            _checksum(
                zlib.crc32(np.ascontiguousarray(self.vectors[start : start + _BLOCK]).data),
                self.images[start : start + _BLOCK],
            )
            for start in range(0, len(self.images), _BLOCK)
        ]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) that follows from the towers, the names and the vectors."""
        return hashlib.sha256(json.dumps([self.model, len(self.images), self.checksums]).encode()).hexdigest()

    def _refuse_changed(self, checksums: list[Any]) -> None:
        """Raise ValueError unless the vectors and names are those of which the ``checksums`` were taken."""
        if len(checksums) != len(self.checksums):
            raise ValueError(f"there are {len(checksums)} checksums for {len(self.checksums)} blocks of vectors")
        for number, (written, found) in enumerate(zip(checksums, self.checksums, strict=True)):
            if found != written:
                names = self.images[number * _BLOCK : (number + 1) * _BLOCK]
                where = f"{_vectors(self.folder, self.version).name}: the vectors of {names[0]} to {names[-1]}"
                raise ValueError(f"{where} are not what was written")

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` pictures that are nearest to each of ``queries``, float unit vectors ``(Q, J)``, best first.

        Returns their positions in ``images``, int ``(Q, K)``, and their cosines, float32 ``(Q, K)``. K is ``count``, or
        the number of pictures if that is less. All are compared, unless ``index_types.attach`` has set ``approximate``.
        Then some may be missed.
        """
        queries = np.asarray(queries, dtype=np.float32)
        if self.approximate:
            return self.approximate.search(queries, count)
        return neighbours(queries, self.vectors, count)


def _checksum(rows: int, names: Sequence[str]) -> int:
    """The checksum of images with these ``names``. ``rows``: the CRC-32 of their vectors."""
    return zlib.crc32(json.dumps(list(names)).encode(), rows)


def _is_line(line: Any, *kinds: type) -> bool:
    return isinstance(line, list) and [type(part) for part in line] == list(kinds)


def shipped_towers(option: str) -> Path:
    """The towers that are taken if ``option`` names no others. Raises UserError if they are missing."""
    if not SEARCH.is_file():
        raise UserError(
            f"{SEARCH}: there are no towers here; name some with {option} RUN (python train.py --preset flickr8k-align "
            "trains them), or make the file from them with tools/halve_bundle.py"
        )
    return SEARCH


def default_folder(towers: Path, model: str, name: str, source: str) -> Path:
    """The folder of an index if the user names none: in ``index/`` in the run folder ``towers`` or beside that bundle.

    The towers of this repository keep their indexes in the user's cache instead, one for each ``model``. The folder is
    named after the ``name`` of the pictures and 8 hex digits that follow from their ``source``.
    """

    def named(source: str) -> str:
        return f"{name}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"

    folder = towers if towers.is_dir() else towers.parent
    if folder.resolve() == PRETRAINED.resolve():
        return cache_folder() / "index" / named(f"{source}\n{model}")
    return folder / "index" / named(source)


def update(
    folder: Path, model: str, source: str, paths: Mapping[str, Path], embed: Embed, dimension: int
) -> ImageIndex:
    """Bring the index in ``folder`` up to date with the pictures ``paths`` (by name), or build it.

    ``embed`` gives vectors of ``dimension`` numbers. ``model`` says which towers made the vectors. ``source`` says
    where the pictures come from. Raises UserError if the index is of another model or source, or cannot be written.
    Finished work stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_with(folder):
            return _update(folder, model, source, paths, embed, dimension)
    except OSError as error:
        raise _unwritable(folder, error, dimension, len(paths)) from None


def create(
    folder: Path,
    model: str,
    source: str,
    images: Sequence[tuple[str, Stamp]],
    unreadable: Mapping[str, tuple[int, int, str]],
    blocks: Iterable[np.ndarray],
    dimension: int,
) -> ImageIndex:
    """Write a new index of ``images``: names with their stamps. ``blocks`` give their vectors, float32 ``(some, J)``.

    J is the ``dimension``. ``model``, ``source``: see ``update``. ``unreadable``: size, time and reason by name. What
    fails leaves no index. Raises UserError.
    """
    new = _Contents(model, source, 1, [[name, *stamp] for name, stamp in images], dict(unreadable))
    if len(json.dumps(new.images, indent=0)) > 0.99 * MAX_BYTES:
        raise UserError(
            f"{folder}: {len(images):,} pictures are too many for one index, whose index.json may have "
            f"{MAX_BYTES >> 20} MiB; keep several"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_with(folder):
            if (folder / "index.json").exists():
                raise UserError(f"{folder}: holds an index already; name another folder")
            with _whole_or_gone(_vectors(folder, 1)) as path:
                offset = allocate(path, "float32", (len(images), dimension))
                with open(path, "r+b") as file, Progress("index", len(images), "images") as bar:
                    file.seek(offset)
                    for block in blocks:
                        file.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
                        bar.update(len(block))
                    file.flush()
                    os.fsync(file.fileno())
                    new.add_checksums(file, offset, 4 * dimension)
                new.save(folder)
            return ImageIndex(folder)
    except OSError as error:
        raise _unwritable(folder, error, dimension, len(images)) from None


@contextlib.contextmanager
def _whole_or_gone(path: Path) -> Iterator[Path]:
    """Gives ``path``, a file that is removed if the body fails."""
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _unwritable(folder: Path, error: OSError, dimension: int, pictures: int) -> UserError:
    """What to tell the user of an index that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    needed = f"; it needs {4 * dimension * pictures / 1e6:,.1f} MB" if full else ""
    return UserError(f"{folder}: the index cannot be written: {error.strerror or error}{needed}; name another --index")


@dataclass
class _Contents:
    """The contents of a new index.json. ``images``: name, size and time of change, in the order of the vectors."""

    model: str
    source: str
    version: int
    images: list[list]
    unreadable: dict[str, tuple[int, int, str]]
    checksums: list[int] = field(default_factory=list)
    _summed: int = 0  # how many of the images the checksums are of

    def add_checksums(self, file: BinaryIO, offset: int, row: int) -> None:
        """Read the vectors that are new in ``file``, of ``row`` bytes each, from ``offset``, for their checksums."""
        names, place = [name for name, *_ in self.images], file.tell()
        del self.checksums[self._summed // _BLOCK :]  # the last block may have grown
        for start in range(len(self.checksums) * _BLOCK, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            file.seek(offset + start * row)
            self.checksums.append(_checksum(zlib.crc32(file.read(len(block) * row)), block))
        self._summed = len(names)
        file.seek(place)

    def save(self, folder: Path) -> None:
        about: dict[str, Any] = {"format": FORMAT, "model": self.model, "source": self.source, "version": self.version}
        about |= {"images": self.images, "unreadable": self.unreadable, "checksums": self.checksums}
        write_atomically(folder / "index.json", json.dumps(about, indent=0))  # ASCII: not all file names are UTF-8


def _update(
    folder: Path, model: str, source: str, paths: Mapping[str, Path], embed: Embed, dimension: int
) -> ImageIndex:
    stamps = _stamps(paths)
    new = _Contents(model, source, 1, [], {})
    kept: list[int] = []
    old = ImageIndex(folder) if (folder / "index.json").exists() else None
    if old:
        refuse_other(old, model, source)
        if old.vectors.shape[1] != dimension:
            raise UserError(
                f"{folder}: damaged index (its vectors have {old.vectors.shape[1]} numbers, and {dimension} are wanted); "
                "delete it, and the next search builds it again"
            )
        kept = [
            row
            for row, (name, stamp) in enumerate(zip(old.images, old.stamps, strict=True))
            if stamps.get(name) == stamp
        ]
        new.version = old.version + 1
        new.images = [[old.images[row], *old.stamps[row]] for row in kept]
        new.unreadable = {name: line for name, line in old.unreadable.items() if stamps.get(name) == line[:2]}
    todo = sorted(set(stamps) - {name for name, *_ in new.images} - set(new.unreadable))
    if old and len(kept) == len(old.images) and len(new.unreadable) + len(todo) == len(old.unreadable):
        # All pictures left to do may be ones that could not be opened before. If they still cannot, nothing is written.
        again = {name for name, line in old.unreadable.items() if line[:2] == _TRY_AGAIN}
        if set(todo) <= again and not any(len(vectors) for _, vectors, _ in (embed(todo) if todo else ())):
            return old
    _write(folder, new, old, kept, todo, stamps, embed, dimension)
    return ImageIndex(folder)


def refuse_other(old: ImageIndex, model: str, source: str) -> None:
    """Raise UserError if the index is of another model or source."""
    for what, found, wanted in (("model", old.model, model), ("source", old.source, source)):
        if found != wanted:
            raise UserError(
                f"{old.folder}: this index was built with another {what} ({found}, and now it is {wanted}); "
                "delete it, and the next search builds it again; or name another --index"
            )


def _write(
    folder: Path,
    new: _Contents,
    old: ImageIndex | None,
    kept: Sequence[int],
    todo: Sequence[str],
    stamps: Mapping[str, Stamp],
    embed: Embed,
    dimension: int,
) -> None:
    """Write the rows ``kept`` of ``old`` and the vectors of ``todo`` into the next version of the index."""
    path = _vectors(folder, new.version)
    offset = allocate(path, "float32", (len(new.images) + len(todo), dimension))

    def commit() -> None:
        file.flush()
        os.fsync(file.fileno())
        new.add_checksums(file, offset, 4 * dimension)
        new.save(folder)

    with (
        open(path, "r+b") as file,
        Progress("index", len(todo), "images") as bar,
    ):
        file.seek(offset)
        if old:
            for start in range(0, len(kept), _CHUNK):
                file.write(np.ascontiguousarray(old.vectors[kept[start : start + _CHUNK]]).tobytes())
            del old.vectors  # Windows cannot remove a file that is mapped into memory
        committed = 0
        try:
            for names, vectors, reasons in embed(todo) if todo else ():
                file.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
                new.images += [[name, *stamps[name]] for name in names if name not in reasons]
                for name, reason in reasons.items():
                    stamp = _TRY_AGAIN if isinstance(reason, UnreachableImage) else stamps[name]
                    new.unreadable[name] = (*stamp, str(reason))
                bar.update(len(names))
                if len(new.images) >= committed + _CHUNK:
                    commit()
                    committed = len(new.images)
        finally:
            commit()
    for other in folder.glob("vectors-*.npy"):
        if other != path:
            with contextlib.suppress(OSError):  # Windows: another process has it open
                other.unlink()


def _vectors(folder: Path, version: int) -> Path:
    return folder / f"vectors-{version}.npy"


def stamp(path: Path) -> Stamp:
    """The size of a file, and its time of change. Raises OSError."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _stamps(paths: Mapping[str, Path]) -> dict[str, Stamp]:
    """The stamp of each file that exists, by name."""
    found = {}
    for name, path in paths.items():
        try:
            found[name] = stamp(path)
        except OSError:  # the file was deleted after it was listed, or is a link to nothing
            continue
    return found
