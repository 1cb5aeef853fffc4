"""Image features on disk: extracted once, then read row by row as often as they are needed.

A store is a folder. Its name ends in the fingerprint of its ``StoreKey``: encoder, weights, pixel preprocessing,
images.

    key.json        the fields of the StoreKey, batch_size: images per batch of the extraction, and "checksums": true.
                    Stores of earlier releases have no entry "checksums"
    features.npy    float16 or float32 (N, R, D), one row for each image in the order of the sorted file names
    progress.bin    N / batch_size bytes, rounded up: 0 for a batch that is still to do, 1 for one that is done
    checksums.bin   uint32 (little-endian) for each of these batches, see batch_marks.py. Stores of earlier releases
    have
                    none
    index.json      written last: {"rows": {file_name: row from 0}, "unreadable": {file_name: reason}}

Extraction can be killed at any moment. A batch is marked as done only after its rows have reached the disk, and a batch
always holds the same images. So the result of a resumed extraction is byte for byte that of an undisturbed one. All
batches are read back and compared with their checksums before index.json is written.
"""

import errno
import hashlib
import json
import os
import sys
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import allocate, alone_with, map_array, write_atomically
from captioning.base.json_files import from_json, load_json, take
from captioning.base.progress import Progress
from captioning.base.texts import Texts
from captioning.features.batch_marks import Marks
from captioning.pictures.loading import UnreachableImage, UnreadableImage, load_ahead

Store = TypeVar("Store", bound="FeatureStore")
M = TypeVar("M", bound=Marks)


@dataclass(frozen=True)
class Key:
    """All that decides the content of a store, as dataclasses say it. Stores with equal keys hold equal features."""

    @property
    def fingerprint(self) -> str:
        """20 hex digits that name the store's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class StoreKey(Key):
    """The key of a store of features that an encoder has computed."""

    encoder: str  # its name, or the file name of a saved model
    weights: str  # digest of the encoder's weights; of a saved model also of what it does with them
    preprocessing: str  # how pixels were made, see ``Look.preprocessing``
    image_size: int  # pixels per side
    feature_grid: int  # regions per side, 0 for the encoder's own grid
    dtype: str  # float16 or float32
    images: str  # digest of the names and sizes of the image files


def digest_images(images: Iterable[tuple[str, Path]]) -> str:
    """Digest (hex) of the names and file sizes of ``images``, pairs of name and path in any order.

    Raises UserError for a file that is gone, or a link that leads nowhere.
    """
    names, sizes = Texts(), array("Q")
    try:
        for name, path in images:
            names.append(name)
            sizes.append(path.stat().st_size)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); mend it, or take it out of the folder of images"
        ) from None
    digest, separator = hashlib.sha256(), ""
    for place in sorted(range(len(names)), key=names.__getitem__):
        digest.update(f"{separator}{names[place]}\t{sizes[place]}".encode())
        separator = "\n"
    return digest.hexdigest()


class Rows(Mapping[str, int]):
    """File name -> row of a store, in little memory. MS-COCO's 120,000 names take 4 MB here and 17 MB in a dict."""

    def __init__(self, rows: Mapping[str, int]):
        self._names = Texts(sorted(rows))
        self._rows = np.asarray([rows[name] for name in self._names], dtype=np.int64)
        self._near = 0  # the place of the last name that was found; the next one is often the same or the one after

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> int:
        place = self._names.find(name, self._near)
        if place is None:
            raise KeyError(name)
        self._near = place
        return int(self._rows[place])


class FeatureStore:
    """Read access to a finished store. Threads may share it, and its use of memory stays bounded.

    rows: the row of each image that could be read, by file name. unreadable: the reason for each other image.
    size: the number of rows, with those of unreadable images.
    regions, feature_size, dtype: R and D of the features, and their type.
    starts: the first row of each data set in it; of more than one only in a ``JoinedStore``.
    padded: whether images have different numbers of regions, and R is the largest (see ``region_store.py``).
    """

    rows: Mapping[str, int]
    starts: tuple[int, ...] = (0,)
    padded = False
    size: int
    regions: int
    feature_size: int
    dtype: np.dtype

    def __init__(self, folder: Path, key: Key | None = None):
        """Open the store in ``folder``. Raises UserError when it is unfinished, damaged or not that of ``key``."""
        self.folder = folder
        try:
            found, index = load_json(folder / "key.json", dict), load_json(folder / "index.json", dict)
            self._lay_out(found)
            rows, self.unreadable = _checked(index)
            if len(rows) + len(self.unreadable) != self.size:
                raise ValueError("features.npy and index.json hold different numbers of images")
            self.rows = Rows(rows)
        except FileNotFoundError as error:
            raise UserError(
                f"{folder}: not a finished feature store ({Path(error.filename).name} is missing); run preprocessing.py"
            ) from None
        except (ValueError, OSError) as error:
            raise _damaged(folder, error) from None
        if key is not None:
            for name, value in asdict(key).items():
                if found.get(name) != value:
                    raise UserError(
                        f"{folder}: this store's {name} is {found.get(name)!r}, but {value!r} is wanted; "
                        "run preprocessing.py to make the right one"
                    )

    def _lay_out(self, key: dict) -> None:
        """Learn from the files how the features lie. ``key``: what key.json says. Raises OSError and ValueError."""
        features = map_array(self.folder / "features.npy", ("f2", "f4"), 3)
        self.size, self.regions, self.feature_size = features.shape
        self.dtype, self._offset = features.dtype, features.offset

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Features ``(N, R, D)`` of ``rows`` int ``(N,)``, in the stored dtype. Raises UserError for a damaged file.

        Reads from the file and not from a mapping of it. Mapped pages would count as memory of this process. With large
        pages they are many times what was asked for, and they would grow with the store.
        """
        # In the order of the file a disk reads forwards. An image often occurs twice in a batch; it is read once.
        unique, inverse = np.unique(rows, return_inverse=True)
        make = np.zeros if self.padded else np.empty
        features = make((len(unique), self.regions, self.feature_size), self.dtype)
        try:
            with open(self.folder / "features.npy", "rb") as file:
                for row, image in zip(unique.tolist(), features, strict=True):
                    place, target = self._place(row, image)
                    file.seek(place)
                    if file.readinto(target) != target.nbytes:
                        raise UserError(
                            f"{self.folder}: features.npy ends early; delete the store and run preprocessing.py"
                        )
        except OSError as error:
            raise UserError(
                f"{self.folder}: features.npy cannot be read any more ({error.strerror}); bring it back, or delete the "
                "store and run preprocessing.py"
            ) from None
        return features[inverse]

    def _place(self, row: int, image: Any) -> tuple[int, Any]:
        """Where the features of a row begin in the file, in bytes, and the part of ``image (R, D)`` that they fill."""
        return self._offset + row * image.nbytes, image

    def part_of(self, rows: np.ndarray) -> np.ndarray:
        """The number of the data set, from 0, that each of ``rows (N,)`` belongs to: int ``(N,)``."""
        return np.searchsorted(self.starts, rows, side="right") - 1


@dataclass(frozen=True)
class View:
    """A store of images that are cropped, mirrored or both."""

    store: FeatureStore
    mirrored: bool


def _checked(index: dict) -> tuple[dict[str, int], dict[str, str]]:
    """The rows and the unreadable images in ``index``. Raises ValueError when they are not those of a store."""
    rows, unreadable = take(index, "rows", dict), take(index, "unreadable", dict)
    for name in unreadable:
        take(unreadable, name, str)
    # Each image has the row of its place among all names.
    names = sorted([*rows, *unreadable])
    if len(names) != len({*rows, *unreadable}):
        raise ValueError("index.json: an image is both readable and unreadable")
    for row, name in enumerate(names):
        if name in rows and (type(rows[name]) is not int or rows[name] != row):
            raise ValueError(
                f"index.json: the row of {name[:50]!r} is {str(rows[name])[:50]!r}, and {row} is its place"
            )
    return rows, unreadable


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder}: damaged feature store ({error}); delete it and run preprocessing.py")


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Let a ValueError about the files of a store become a UserError that names the folder."""
    try:
        yield
    except ValueError as error:
        raise _damaged(folder, error) from None


# Gives for each of the numbers of batches the features ``(B, R, D)`` of its images, and the reasons, by name, why some
# cannot be read.
Batches = Callable[[Sequence[int]], Generator[tuple[np.ndarray, dict[str, str]], None, None]]


def extract(
    folder: Path,
    key: StoreKey,
    file_names: Iterable[str],
    load: Callable[[str], np.ndarray],
    encode: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    batch_size: int,
    workers: int = 2,
    label: str = "features",
    verify: bool = False,
) -> FeatureStore:
    """Make or finish the store in ``folder`` and open it.

    ``load(file_name)`` gives uint8 pixels ``(S, S, 3)`` or raises UnreadableImage. ``encode`` maps ``(B, S, S, 3)`` to
    features ``(B, R, D)`` with ``(R, D) = shape``. ``workers`` threads decode images while the encoder computes. An
    unreadable image gets a row of zeros and a line in ``index.json``. A resumed extraction keeps its batch size.
    ``label`` stands beside the progress bar. ``verify``: compare a finished store with its checksums, say so on stderr,
    and extract damaged batches again.

    Raises UserError when the disk is full, the folder cannot be written or an image's file cannot be opened. What is
    done stays.
    """
    if (folder / "index.json").exists() and not verify:
        return FeatureStore(folder, key)
    names = sorted(file_names)
    return _complete(
        folder,
        key,
        names,
        shape,
        begin=lambda: _begin(folder, key, batch_size, (len(names), *shape), names),
        fill=lambda marks: _run(folder, marks, load, encode, key.image_size, workers, label),
        verify=verify,
    )


def join(
    folder: Path, key: StoreKey, names: Sequence[str], batches: Batches, shape: tuple[int, int], batch_size: int
) -> FeatureStore:
    """Make or finish the store in ``folder`` of features that others have extracted, and open it.

    ``names``: the sorted file names. ``batches`` gives the features of batches of ``batch_size`` names. For ``shape``
    and errors see ``extract``. A store that was begun with batches of another size raises UserError too.
    """

    def begin() -> Marks:
        marks = _begin(folder, key, batch_size, (len(names), *shape), names)
        if marks.batch_size != batch_size:
            raise UserError(
                f"{folder}: begun with batches of {marks.batch_size}; give --extract-batch-size {marks.batch_size}, or "
                "delete it"
            )
        return marks

    return _complete(
        folder, key, names, shape, begin, fill=lambda marks: _fill(folder, marks, batches, "joining"), verify=False
    )


def _complete(
    folder: Path,
    key: StoreKey,
    names: Sequence[str],
    shape: tuple[int, int],
    begin: Callable[[], Marks],
    fill: Callable[[Marks], None],
    verify: bool,
) -> FeatureStore:
    """``complete`` for a store in which every image has features of the same ``shape``."""
    return complete(
        folder,
        names,
        open_store=lambda: FeatureStore(folder, key),
        marks_of=lambda size: Marks(folder, names, size),
        begin=begin,
        fill=fill,
        size=np.dtype(key.dtype).itemsize * len(names) * shape[0] * shape[1],
        verify=verify,
    )


def complete(
    folder: Path,
    names: Sequence[str],
    open_store: Callable[[], Store],
    marks_of: Callable[[int], M],
    begin: Callable[[], M],
    fill: Callable[[M], None],
    size: int,
    verify: bool,
) -> Store:
    """Make or finish the store in ``folder``, as the only process that does so, and open it.

    ``names``: the sorted file names. ``open_store`` opens a finished store. ``marks_of``: the marks of its batches, for
    a batch size. ``begin`` lays out the files of a new store, or finds those of a begun one. ``fill`` writes batches
    that are not done. ``size``: the bytes of all features. ``verify``: compare a finished store with its checksums, and
    write damaged batches again. Raises UserError when the store is damaged, or when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_with(folder):
            if verify and (folder / "index.json").exists():
                with naming_damage(folder):
                    _verify(open_store(), marks_of)
            if not (folder / "index.json").exists():
                with naming_damage(folder):
                    marks = begin()
                fill(marks)
                with naming_damage(folder):
                    _finish(folder, marks, names)
            (folder / "unreadable.jsonl").unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(folder, error, size) from None
    return open_store()


def _not_written(folder: Path, error: OSError, size: int) -> UserError:
    """The error when a store whose features take ``size`` bytes cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{folder}: the disk is full; the features need {size / 1e6:,.1f} MB. "
            "Free some space or choose another --feature-dir, then run the same command to continue"
        )
    return UserError(f"{folder}: cannot write the feature store: {error.strerror}; choose another --feature-dir")


def _begin(folder: Path, key: StoreKey, batch_size: int, shape: tuple[int, int, int], names: Sequence[str]) -> Marks:
    """Lay out the files of a new store, or find those of a begun one. Raises ValueError when it is damaged."""
    if (folder / "key.json").exists():
        begun = load_json(folder / "key.json", dict)
        other = ", ".join(name for name, value in asdict(key).items() if begun.get(name) != value)
        if other:
            raise UserError(f"{folder}: begun with other settings ({other}); delete it or choose another --feature-dir")
        refuse_other_features(folder, shape, key.dtype)
        return Marks(folder, names, batch_size_in(begun), trusted=not begun.get("checksums"))
    marks = Marks(folder, names, batch_size)
    allocate(folder / "features.npy", key.dtype, shape)
    marks.begin()
    # Last: a folder with key.json holds all that resuming needs.
    write_atomically(
        folder / "key.json", json.dumps({**asdict(key), "batch_size": batch_size, "checksums": True}, indent=2)
    )
    return marks


def refuse_other_features(folder: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Raise ValueError if features.npy in ``folder`` is not an array of this shape and type."""
    features = map_array(folder / "features.npy", ("f2", "f4"), len(shape))
    if (features.shape, features.dtype) != (shape, np.dtype(dtype)):
        raise ValueError(f"features.npy holds {features.dtype} {features.shape}, and {dtype} {shape} is wanted")


def batch_size_in(key: dict) -> int:
    """The batch size in a key.json. Raises ValueError."""
    return take(key, "batch_size", int, lambda size: 0 < size <= _LARGEST_BATCH)


_LARGEST_BATCH = 1 << 16


def _run(
    folder: Path,
    marks: Marks,
    load: Callable[[str], np.ndarray],
    encode: Callable[[np.ndarray], np.ndarray],
    image_size: int,
    workers: int,
    label: str,
) -> None:
    """Extract the batches that are not done."""

    def extracted(todo: Sequence[int]) -> Generator[tuple[np.ndarray, dict[str, str]], None, None]:
        with ThreadPoolExecutor(workers) as pool:
            ahead = load_ahead(pool, [marks.batch(number) for number in todo], load, image_size, marks.batch_size)
            for number, (pixels, reasons) in zip(todo, ahead, strict=True):
                _refuse_unreachable(reasons)
                batch = marks.batch(number)
                encoded = np.asarray(encode(pixels))
                yield encoded[: len(batch)], {batch[place]: str(reason) for place, reason in reasons.items()}

    _fill(folder, marks, extracted, label)


def _fill(folder: Path, marks: Marks, batches: Batches, label: str) -> None:
    """Write the batches that are not done. unreadable.jsonl gets a line for each unreadable image."""
    with naming_damage(folder):
        layout = map_array(folder / "features.npy", ("f2", "f4"), 3)
    offset, row_bytes, dtype = layout.offset, layout.nbytes // max(1, len(layout)), layout.dtype
    known = read_unreadable(folder)
    done = marks.done(known)
    kept = {name for number in range(len(marks)) if done[number] for name in marks.batch(number)}
    write_unreadable(folder, {name: reason for name, reason in known.items() if name in kept})
    todo = [number for number in range(len(marks)) if not done[number]]
    with (
        open(folder / "features.npy", "r+b") as features,
        open(folder / "unreadable.jsonl", "a", encoding="utf-8") as unreadable,
        Progress(label, marks.images, "images", sum(len(marks.batch(n)) for n in range(len(marks)) if done[n])) as bar,
        closing(batches(todo)) as found,
    ):
        for number, (encoded, named) in zip(todo, found, strict=True):
            batch = marks.batch(number)
            encoded = np.array(encoded, dtype=dtype)
            encoded[[place for place, name in enumerate(batch) if name in named]] = 0
            rows = encoded.tobytes()
            features.seek(offset + number * marks.batch_size * row_bytes)
            features.write(rows)
            for name, reason in named.items():
                unreadable.write(json.dumps({name: reason}) + "\n")
            for file in (features, unreadable):
                file.flush()
                os.fsync(file.fileno())
            marks.mark(number, marks.checksum(number, rows, named))
            bar.update(len(batch))


def _finish(folder: Path, marks: Marks, names: Sequence[str]) -> None:
    """Read all batches back, and write index.json. Raises UserError when one is not as it was written."""
    unreadable = read_unreadable(folder)
    if marks.damaged(unreadable):
        raise UserError(
            f"{folder}: the disk gives back other bytes than were written; check the disk, then run the same command to "
            "extract the damaged batches again"
        )
    rows = {name: row for row, name in enumerate(names) if name not in unreadable}
    write_atomically(folder / "index.json", json.dumps({"rows": rows, "unreadable": unreadable}, indent=0))


def _verify(store: FeatureStore, marks_of: Callable[[int], Marks]) -> None:
    """Compare a finished store with its checksums, and say so on stderr. A damaged one becomes a begun one again.

    ``marks_of``: the marks of its batches, for a batch size. Raises ValueError when it is damaged as a whole.
    """
    folder = store.folder
    written = load_json(folder / "key.json", dict)
    if not written.get("checksums") and not (folder / "checksums.bin").exists():
        print(f"note: {folder}: made by a release without checksums, so it cannot be verified", file=sys.stderr)
        return
    marks = marks_of(batch_size_in(written))
    damaged = marks.damaged(store.unreadable)
    if damaged:
        write_unreadable(folder, store.unreadable)
        (folder / "index.json").unlink()
    else:
        print(f"{folder}: verified, all {len(marks)} batches are as they were written", file=sys.stderr)


def write_unreadable(folder: Path, reasons: Mapping[str, str]) -> None:
    """Write unreadable.jsonl anew, without lines that a crash cut short and those of batches that are still to do."""
    lines = (json.dumps({name: reason}) + "\n" for name, reason in reasons.items())
    write_atomically(folder / "unreadable.jsonl", "".join(lines))


def _reason(line: bytes) -> dict[str, str]:
    """The name and the reason in a line of unreadable.jsonl. Nothing if a crash cut it short, or if it is damaged."""
    try:
        found = from_json(line, dict)
    except ValueError:
        return {}
    return found if all(isinstance(reason, str) for reason in found.values()) else {}


def _refuse_unreachable(reasons: Mapping[int, UnreadableImage]) -> None:
    """Raise UserError for a file that could not be opened now: a finished store would lack its features for ever."""
    for reason in reasons.values():
        if isinstance(reason, UnreachableImage):
            raise UserError(
                f"{reason}; make the file readable and run the same command to continue (without the file in the "
                "data, extraction begins anew)"
            )


def read_unreadable(folder: Path) -> dict[str, str]:
    """File name -> reason for each unreadable image, sorted by name."""
    path = folder / "unreadable.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    found = {name: reason for line in lines for name, reason in _reason(line).items()}
    return dict(sorted(found.items()))
