"""Region features that another program has computed, in the layouts that are widespread. No Keras.

    ID.npz, ID.npy     a file for each image, as ruotianluo's ImageCaptioning.pytorch has them
    FILE.h5            HDF5 with a dataset for each image (``hdf5_source.py``)
    FOLDER.lmdb        LMDB with a .npz or .npy file for each image (``lmdb_source.py``)
    FILE.tsv           the tables of bottom-up attention (``tsv_source.py``)

Features of an image are ``(R, D)``. A grid ``(H, W, D)`` has R = H * W regions, and a vector ``(D,)`` is one region.
Boxes are ``(R, 4)``: left, top, right and bottom in pixels of the picture. Where the name of the source ends in _att,
boxes may lie beside it under the same name with _box, such as cocobu_att and cocobu_box.
Legend: R regions of an image, D feature size, H x W cells of a grid.
"""

import hashlib
import io
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captioning.base.errors import UserError, first_line

# The names of the arrays in a .npz file: of the features, of the boxes, and of the picture's width and height.
_FEATURES = ("feat", "features", "x", "z")
_BOXES = ("bbox", "boxes", "box")
_SIZES = (("image_w", "image_h"), ("img_w", "img_h"), ("width", "height"))
_LARGEST = 1 << 20  # of each axis of an array
LARGEST_ARRAY = 1 << 30  # bytes of an array of one image
_SLACK = 1.0  # pixels by which a box may stick out of its picture; detectors round


class Unusable(ValueError):
    """Why the features of an image cannot be used."""


@dataclass(frozen=True)
class Outline:
    """What is known of an image's features without reading them.

    regions, width: R and D. boxes: float32 ``(R, 4)``, or None. size: width and height of the picture in pixels, or
    None.
    """

    regions: int
    width: int
    boxes: np.ndarray | None = None
    size: tuple[int, int] | None = None


class Source(ABC):
    """Region features in one layout. ``place`` is where a user finds them. ``paths`` are the files that hold them."""

    layout: str
    place: Path
    paths: Sequence[Path]

    @property
    @abstractmethod
    def keys(self) -> Mapping[str, Any] | frozenset[str]:
        """What the images are called here: an id or the stem of a file name. Raises UserError."""

    @abstractmethod
    def outline(self, key: str) -> Outline:
        """The ``Outline`` of an image. Raises Unusable."""

    @abstractmethod
    def read(self, key: str) -> np.ndarray:
        """The features of an image, float ``(R, D)``. Raises Unusable. Threads may call it."""

    def stamp(self) -> str:
        """A digest (hex) that changes when the files do: of their names, sizes and times of change."""
        return stamp_of(self.paths)


def stamp_of(paths: Iterable[Path]) -> str:
    """A digest (hex) of the names, sizes and times of change of files. Raises UserError if one is gone."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"features: {path}: cannot be read ({error.strerror}); bring it back") from None
        digest.update(f"{path.name}\t{found.st_size}\t{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def shape_of(shape: Sequence[int], dtype: np.dtype) -> tuple[int, int]:
    """``(R, D)`` of an array of features with this shape and type. Raises Unusable."""
    if np.dtype(dtype).kind != "f":
        raise Unusable(f"holds {dtype}, and features are floating-point numbers")
    if not 1 <= len(shape) <= 3 or not all(0 < size <= _LARGEST for size in shape):
        raise Unusable(f"has the shape {tuple(shape)}, and features are (D,), (R, D) or (H, W, D)")
    return int(np.prod(shape[:-1])), int(shape[-1])


def as_regions(array: np.ndarray) -> np.ndarray:
    """An array of features as ``(R, D)``. Raises Unusable."""
    return np.asarray(array).reshape(shape_of(array.shape, array.dtype))


def with_boxes(outline: Outline, boxes: np.ndarray | None, size: tuple[int, int] | None = None) -> Outline:
    """``outline`` with these boxes, which are checked. Raises Unusable."""
    if boxes is None:
        return Outline(outline.regions, outline.width, None, size)
    boxes = np.asarray(boxes)
    if boxes.dtype.kind not in "fiu" or boxes.ndim != 2 or boxes.shape[1] < 4:
        raise Unusable(f"its boxes are {boxes.dtype} {boxes.shape}, and ({outline.regions}, 4) numbers are wanted")
    boxes = boxes[:, :4].astype("float32")
    if len(boxes) != outline.regions:
        raise Unusable(f"has {outline.regions} regions and {len(boxes)} boxes")
    if not np.isfinite(boxes).all():
        raise Unusable("has boxes with NaN or infinite numbers")
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise Unusable("has boxes whose right or lower side is before the left or upper one")
    limits = (*size, *size) if size else (np.inf,) * 4
    outside = ((boxes < -_SLACK) | (boxes > np.asarray(limits, "float32") + _SLACK)).any(axis=1)
    if outside.any():
        box = ", ".join(f"{side:g}" for side in boxes[outside.argmax()])
        picture = f"the picture of {size[0]} x {size[1]} pixels" if size else "the picture"
        raise Unusable(f"has {int(outside.sum())} boxes outside {picture}, such as {box}")
    return Outline(outline.regions, outline.width, boxes, size)


# One .npy or .npz file ------------------------------------------------------------------------------------------------


def npy_shape(file: BinaryIO, length: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in an open .npy file of ``length`` bytes. Raises Unusable; also for a cut file."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise Unusable(f"is damaged, or no .npy file ({error})") from None
    if dtype.hasobject:
        raise Unusable("holds Python objects, which are never read")
    held = length - file.tell()
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != held:
        raise Unusable(f"is cut short or damaged: {held:,} bytes for {dtype} {shape}")
    return shape, dtype


class Arrays:
    """The arrays of a .npz or .npy file, given as a path or as its bytes. ``features`` names that of the features."""

    def __init__(self, content: Path | bytes):
        """Raises Unusable."""
        self._content = content
        try:
            with self._open() as file:
                self._zipped = file.read(4)[:2] == b"PK"
            if self._zipped:
                with self._open() as file, zipfile.ZipFile(file) as archive:
                    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
                    if any(member.file_size > LARGEST_ARRAY for member in members):
                        raise Unusable(f"holds an array of more than {LARGEST_ARRAY:,} bytes")
                    self._names = {Path(member.filename).stem: member.filename for member in members}
        except Unusable:
            raise
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise Unusable(f"cannot be read ({error})") from None
        self.features = ""
        if self._zipped:
            named = [name for name in _FEATURES if name in self._names]
            if not named and len(self._names) != 1:
                there = ", ".join(sorted(self._names)) or "none"
                raise Unusable(f"has no array named {', '.join(_FEATURES[:-1])} or {_FEATURES[-1]} (it has {there})")
            self.features = named[0] if named else next(iter(self._names))

    def _open(self) -> BinaryIO:
        return io.BytesIO(self._content) if isinstance(self._content, bytes) else open(self._content, "rb")

    def shape(self) -> tuple[int, int]:
        """``(R, D)`` of the features, from the header alone. Raises Unusable."""
        try:
            with self._open() as file:
                if not self._zipped:
                    length = file.seek(0, io.SEEK_END)
                    file.seek(0)
                    return shape_of(*npy_shape(file, length))
                with zipfile.ZipFile(file) as archive:
                    member = archive.getinfo(self._names[self.features])
                    with archive.open(member) as array:
                        return shape_of(*npy_shape(array, member.file_size))  # type: ignore[arg-type]
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise Unusable(f"cannot be read ({error})") from None

    def array(self, name: str = "") -> np.ndarray:
        """An array of a .npz file by its name, or that of the features. Raises Unusable."""
        try:
            with self._open() as file:
                found = np.load(file, allow_pickle=False)
                return found[name or self.features] if self._zipped else found
        except Exception as error:  # zipfile and NumPy raise errors of many kinds on damaged files
            raise Unusable(f"cannot be read ({first_line(error)})") from None

    def read(self) -> np.ndarray:
        """The features, ``(R, D)``. Raises Unusable."""
        return as_regions(self.array())

    def outline(self) -> Outline:
        """The ``Outline``, with the boxes if they are in the same file. Raises Unusable."""
        outline = Outline(*self.shape())
        if not self._zipped:
            return outline
        boxes = [self.array(name) for name in _BOXES if name in self._names]
        sizes = [pair for pair in _SIZES if all(name in self._names for name in pair)]
        size = None
        if sizes:
            across, down = (np.ravel(self.array(name)) for name in sizes[0])
            if len(across) != 1 or len(down) != 1 or not (across[0] > 0 and down[0] > 0):
                raise Unusable("has no sensible picture size")
            size = int(across[0]), int(down[0])
        return with_boxes(outline, boxes[0] if boxes else None, size)


class ArraySource(Source):
    """A source whose images are .npz or .npy files, wherever they lie. ``boxes``: the source of boxes, if any."""

    boxes: "ArraySource | None" = None

    @abstractmethod
    def arrays(self, key: str) -> Arrays:
        """The file of an image. Raises Unusable."""

    def outline(self, key: str) -> Outline:
        found = self.arrays(key).outline()
        if found.boxes is None and self.boxes is not None and key in self.boxes.keys:
            return with_boxes(found, self.boxes.arrays(key).array(), found.size)
        return found

    def read(self, key: str) -> np.ndarray:
        return self.arrays(key).read()


class FolderSource(ArraySource):
    """A folder with ID.npz or ID.npy for each image."""

    layout = "files"

    def __init__(self, folder: Path, boxes: ArraySource | None = None):
        self.place, self.boxes = folder, boxes

    @cached_property
    def keys(self) -> Mapping[str, Path]:
        """The path of each image's file. A .npz file comes before a .npy file of the same stem."""
        found = sorted(path for path in self.place.iterdir() if path.suffix in (".npy", ".npz"))
        return {path.stem: path for path in found if not path.name.startswith(".")}

    @property
    def paths(self) -> Sequence[Path]:  # type: ignore[override]
        return [*self.keys.values(), *(self.boxes.paths if self.boxes else ())]

    def arrays(self, key: str) -> Arrays:
        return Arrays(self.keys[key])


# Which layout? --------------------------------------------------------------------------------------------------------

_TABLE = re.compile(r"\.tsv(\.\d+)?$")
_HDF5 = (".h5", ".hdf5", ".hdf")
_LAYOUTS = (
    "a folder of .npz or .npy files, one for each image; an HDF5 file (.h5, .hdf5); an LMDB (.lmdb); or the tables of "
    "bottom-up attention (.tsv)"
)


def open_source(name: str) -> Source:
    """The source that the setting ``features`` names, in whatever layout. Raises UserError."""
    path = Path(name)
    if not path.exists():
        beside = path.with_name(f"{path.name}_att")
        if not beside.is_dir():
            raise UserError(f"features: {path}: there is no such file or folder; name the one that holds the features")
        path = beside
    try:
        return _source(path)
    except OSError as error:
        raise UserError(f"features: {path}: cannot be read ({error.strerror or error})") from None


def _source(path: Path, with_boxes_beside: bool = True) -> Source:
    """The source ``path``, and its boxes if they lie beside it. Raises UserError and OSError."""
    from captioning.features import hdf5_source, lmdb_source, tsv_source

    boxes = None
    if with_boxes_beside and (beside := _boxes_beside(path)):
        boxes = _source(beside, with_boxes_beside=False)
    if path.is_file():
        if _TABLE.search(path.name):
            return tsv_source.TsvSource(path, [path])
        if path.suffix in _HDF5:
            return hdf5_source.Hdf5Source(path, boxes)
        if path.suffix == ".lmdb":
            return lmdb_source.LmdbSource(path, _arrays_of(boxes))
        advice = "; .pth files are pickles, which are never read" if path.suffix in (".pth", ".pt", ".pkl") else ""
        raise UserError(f"features: {path}: is in no known layout{advice}; known are {_LAYOUTS}")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if not entries:
        raise UserError(f"features: {path}: is empty; name a folder with features: {_LAYOUTS}")
    if (path / "data.mdb").exists():
        return lmdb_source.LmdbSource(path, _arrays_of(boxes))
    if tables := [entry for entry in entries if _TABLE.search(entry.name)]:
        return tsv_source.TsvSource(path, tables)
    if any(entry.suffix in (".npz", ".npy") for entry in entries):
        return FolderSource(path, _arrays_of(boxes))
    others = [entry for entry in entries if entry.suffix in (*_HDF5, ".lmdb") or entry.name.endswith("_att")]
    others = [entry for entry in others if not re.search(r"_(box|fc)$", entry.stem)]
    if len(others) == 1:
        return _source(others[0])
    if others:
        names = ", ".join(entry.name for entry in others[:5])
        raise UserError(f"features: {path}: holds several sources ({names}); name one of them")
    names = ", ".join(entry.name for entry in entries[:3])
    raise UserError(f"features: {path}: is in no known layout (it holds {names}); known are {_LAYOUTS}")


def _boxes_beside(path: Path) -> Path | None:
    """Where the boxes of the source ``path`` lie, if its name ends in _att and they are there."""
    if not path.stem.endswith("_att"):
        return None
    beside = path.with_name(f"{path.stem.removesuffix('_att')}_box{path.suffix}")
    return beside if beside.exists() else None


def _arrays_of(boxes: Source | None) -> ArraySource | None:
    """``boxes`` as a source of arrays. Raises UserError if they are in another layout."""
    if boxes is None or isinstance(boxes, ArraySource):
        return boxes
    raise UserError(f"features: {boxes.place}: these boxes are in another layout than the features; convert one")


# Which image is meant? ------------------------------------------------------------------------------------------------

_COCO = re.compile(r"(?:^|_)(\d{12})$")


def match_images(file_names: Iterable[str], source: Source) -> dict[str, str]:
    """The key in ``source`` of each image that has features there, by file name.

    It is the stem of the file name. A stem that is a number may have no zeros in front there. For COCO's names of 12
    digits it is also the image id, with or without zeros in front.
    Raises UserError if two images have the same stem, or if the source is empty.
    """
    keys, found, taken = source.keys, {}, dict[str, str]()
    if not keys:
        raise UserError(f"features: {source.place}: holds no image's features; name the one that does")
    for file_name in file_names:
        for key in _keys_of(file_name):
            if key in keys:
                found[file_name] = key
                if taken.setdefault(key, file_name) != file_name:
                    raise UserError(
                        f"features: {source.place}: the images {taken[key]} and {file_name} both mean {key!r} there; "
                        "give the images names that differ"
                    )
                break
    return found


def _keys_of(file_name: str) -> Iterator[str]:
    stem = Path(file_name).stem
    yield stem
    if stem.isdecimal() and stem.isascii():
        yield str(int(stem))
    if number := _COCO.search(stem):
        yield number[1]
        yield str(int(number[1]))
