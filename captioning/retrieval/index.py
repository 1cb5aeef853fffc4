"""The index: the vectors of many pictures on disk, embedded once and searched ever after.

A folder with

    index.json          {"format": 1, "model": fingerprint, "source": whose pictures they are, "version": N,
                        "images": [[name, size, mtime], ...], "unreadable": {name: [size, mtime, reason]}}
    vectors-N.npy       float32 (at least as many rows as images, J): unit vectors in the order of ``images``

A picture is embedded again when its size in bytes or its time of change, in nanoseconds, is another. index.json is
replaced whole, after the rows it speaks of have reached the disk, so an index is valid at any moment: one that was
interrupted holds fewer pictures, and the next update goes on from there.
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioning.base.errors import UserError
from captioning.base.files import allocate, alone_with, write_atomically
from captioning.base.script import hide_progress
from captioning.pictures.loading import UnreachableImage, UnreadableImage

FORMAT = 1
_AGAIN = (-1, -1)  # a stamp that no file has, so that the next update tries the picture again
_BLOCK = 1 << 24  # cosines at a time
_CHUNK = 1024  # pictures between two versions of index.json

Stamp = tuple[int, int]  # size in bytes, time of change in nanoseconds
# Names of pictures to, for one batch of them after another: their names, the vectors float32 (B, J) of those that can be
# read, in order, and the reasons why others cannot.
Embed = Callable[[Sequence[str]], Iterator[tuple[Sequence[str], np.ndarray, Mapping[str, UnreadableImage]]]]


class ImageIndex:
    """Read access to an index."""

    def __init__(self, folder: Path):
        """Open the index in ``folder``. Raises UserError when there is none, or a damaged one."""
        self.folder = folder
        try:
            about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if about["format"] > FORMAT:
                raise UserError(f"{folder}: written by a newer release; update this software, or delete the folder")
            self.model, self.source, self.version = str(about["model"]), str(about["source"]), int(about["version"])
            self.images = [str(name) for name, *_ in about["images"]]
            self.stamps: list[Stamp] = [(int(size), int(changed)) for _, size, changed in about["images"]]
            self.unreadable = {
                str(name): (int(size), int(changed), str(reason))
                for name, (size, changed, reason) in about["unreadable"].items()
            }
            vectors = np.load(_vectors(folder, self.version), mmap_mode="r", allow_pickle=False)
            if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) < len(self.images):
                raise ValueError("index.json and the vectors do not go together")
            self.vectors = vectors[: len(self.images)]
        except FileNotFoundError as error:
            raise UserError(f"{folder}: not an index ({Path(error.filename).name} is missing)") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder}: damaged index ({error}); delete it to have it built anew") from None

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest pictures of unit vectors ``queries`` (Q, J), best first.

        Their places in ``images``, int (Q, K), and cosines, float32 (Q, K); K is less than ``count`` where the index is.
        """
        return neighbours(np.asarray(queries, dtype=np.float32), self.vectors, count)


def cosines(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Products of unit vectors ``queries`` (Q, J) with all of ``gallery`` (G, J), a block of queries after another, so that
    memory does not grow with Q times G. Yields which queries, and their products (some, G).
    """
    step = max(1, _BLOCK // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        chosen = slice(start, start + step)
        yield chosen, queries[chosen] @ gallery.T


def neighbours(queries: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` of ``gallery`` (G, J) that are nearest each of unit vectors ``queries`` (Q, J), best first.

    Their rows, int (Q, K), and cosines (Q, K); K is less than ``count`` where G is.
    """
    count = min(count, len(gallery))
    found, values = np.empty((len(queries), count), dtype=np.intp), np.empty((len(queries), count), dtype=np.float32)
    for chosen, block in cosines(queries, gallery):
        found[chosen] = nearest(block, count)
        values[chosen] = np.take_along_axis(block, found[chosen], axis=1)
    return found, values


def nearest(similarities: np.ndarray, count: int) -> np.ndarray:
    """Of each row of ``similarities`` (Q, G) the ``count`` largest, as columns, largest first: int (Q, count), or (Q, G)."""
    count = min(count, similarities.shape[1])
    similarities = np.where(np.isnan(similarities), -np.inf, similarities)  # what is no number comes last
    rest = similarities.shape[1] - count
    found = np.argpartition(similarities, rest - 1, axis=1)[:, rest:] if rest else np.arange(count)[None]
    found = np.broadcast_to(found, (len(similarities), count))
    order = np.lexsort((found, -np.take_along_axis(similarities, found, axis=1)), axis=1)  # equals from left to right
    return np.take_along_axis(found, order, axis=1)


def update(
    folder: Path, model: str, source: str, paths: Mapping[str, Path], embed: Embed, dimension: int
) -> ImageIndex:
    """Bring the index in ``folder`` up to date with the pictures ``paths`` (by name), or build it.

    Vectors have ``dimension`` numbers. ``model`` and ``source`` say what the vectors and the names mean. Raises UserError
    when the index is of another model or source, or cannot be written; what is done by then stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_with(folder):
            return _update(folder, model, source, paths, embed, dimension)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        needed = f"; it needs {4 * dimension * len(paths) / 1e6:,.1f} MB" if full else ""
        raise UserError(
            f"{folder}: the index cannot be written: {error.strerror or error}{needed}; name another --index"
        ) from None


def _update(folder, model, source, paths, embed, dimension) -> ImageIndex:
    stamps: dict[str, Stamp] = {name: (found.st_size, found.st_mtime_ns) for name, found in _stats(paths).items()}
    kept: list[int] = []
    images: list[list] = []
    unreadable: dict[str, tuple[int, int, str]] = {}
    old = ImageIndex(folder) if (folder / "index.json").exists() else None
    if old:
        for what, found, wanted in (("model", old.model, model), ("source", old.source, source)):
            if found != wanted:
                raise UserError(
                    f"{folder}: this index was built with another {what} ({found}, and now it is {wanted}); "
                    "delete it to have it built anew, or name another --index"
                )
        kept = [
            row
            for row, (name, stamp) in enumerate(zip(old.images, old.stamps, strict=True))
            if stamps.get(name) == stamp
        ]
        images = [[old.images[row], *old.stamps[row]] for row in kept]
        unreadable = {name: line for name, line in old.unreadable.items() if stamps.get(name) == line[:2]}
    known = {name for name, *_ in images} | set(unreadable)
    todo = sorted(set(stamps) - known)
    if old and len(kept) == len(old.images) and len(unreadable) + len(todo) == len(old.unreadable):
        again = {name for name, line in old.unreadable.items() if line[:2] == _AGAIN}
        if set(todo) <= again and not any(len(vectors) for _, vectors, _ in (embed(todo) if todo else ())):
            return old

    version = old.version + 1 if old else 1
    path = _vectors(folder, version)
    offset = allocate(path, "float32", (len(images) + len(todo), dimension))

    def commit() -> None:
        file.flush()
        os.fsync(file.fileno())
        about = {"format": FORMAT, "model": model, "source": source, "version": version, "images": images}
        text = json.dumps({**about, "unreadable": unreadable}, ensure_ascii=False, indent=0)
        write_atomically(folder / "index.json", text)

    with (
        open(path, "r+b") as file,
        tqdm(total=len(todo), desc="index", unit="image", disable=hide_progress()) as bar,
    ):
        file.seek(offset)
        for start in range(0, len(kept), _CHUNK):
            file.write(np.ascontiguousarray(old.vectors[kept[start : start + _CHUNK]]).tobytes())
        del old  # Windows removes no file that is mapped
        committed = 0
        try:
            for names, vectors, reasons in embed(todo) if todo else ():
                file.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
                images += [[name, *stamps[name]] for name in names if name not in reasons]
                for name, reason in reasons.items():
                    stamp = _AGAIN if isinstance(reason, UnreachableImage) else stamps[name]
                    unreadable[name] = (*stamp, str(reason))
                bar.update(len(names))
                if len(images) >= committed + _CHUNK:
                    commit()
                    committed = len(images)
        finally:
            commit()
    for other in folder.glob("vectors-*.npy"):
        if other != path:
            with contextlib.suppress(OSError):  # on Windows, where another process searches it
                other.unlink()
    return ImageIndex(folder)


def _vectors(folder: Path, version: int) -> Path:
    return folder / f"vectors-{version}.npy"


def _stats(paths: Mapping[str, Path]) -> dict[str, os.stat_result]:
    """Of the files that are there."""
    found = {}
    for name, path in paths.items():
        try:
            found[name] = path.stat()
        except OSError:  # gone since it was listed, or a link into nothing
            continue
    return found
