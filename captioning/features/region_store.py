"""Region features from elsewhere on disk, in a store like that of our own encoders. Images have any number of regions.

A store is a folder. Its files are those of ``store.py``, with these differences:

    key.json       the fields of the RegionKey, and "tables": the CRC-32 of each of the next three files
    regions.npy    int32 (N,): the regions of each image, in the order of the sorted file names; 0 for one without any
    boxes.npy      float32 (M, 4): left, top, right and bottom in pixels, NaN where unknown; only if there are boxes
    sizes.npy      int32 (N, 2): width and height of each picture, 0 where unknown; only if there are boxes
    features.npy   float16 or float32 (M, D): the regions of all images, one image after another

The source is looked through before anything is written: shapes, boxes, files that are cut short. Then the features are
copied batch by batch. A kill loses at most one batch.
Legend: N images, M regions of all images, R regions of the image with most of them, D feature size.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import allocate, map_array, write_atomically
from captioning.base.json_files import load_json, take
from captioning.base.progress import Progress, track
from captioning.base.texts import printable
from captioning.features.batch_marks import Marks
from captioning.features.region_sources import Outline, Source, Unusable, with_boxes
from captioning.features.store import (
    FeatureStore,
    Key,
    batch_size_in,
    complete,
    naming_damage,
    read_unreadable,
    refuse_other_features,
    write_unreadable,
)
from captioning.pictures.loading import UnreadableImage, measure

_TABLES = ("regions.npy", "boxes.npy", "sizes.npy")
_NAMED = 5  # so many images are named in an error


@dataclass(frozen=True)
class RegionKey(Key):
    """The key of a store of features from elsewhere."""

    layout: str  # that of the source, see region_sources.py
    source: str  # its digest, see ``Source.stamp``
    dtype: str  # float16 or float32
    images: str  # digest of the names of the images


class RegionStore(FeatureStore):
    """A finished store of features from elsewhere. ``read`` fills up with regions of zeros."""

    padded = True

    def _lay_out(self, key: dict) -> None:
        features = map_array(self.folder / "features.npy", ("f2", "f4"), 2)
        self._tables = take(key, "tables", dict)
        counts = self._table("regions.npy", "i4", 1)
        self._ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        if (counts < 0).any() or self._ends[-1] != len(features) or not len(features):
            raise ValueError("features.npy and regions.npy hold different numbers of regions")
        self.size, self.regions, self.feature_size = len(counts), int(counts.max()), features.shape[1]
        self.dtype, self._offset = features.dtype, features.offset

    def _table(self, name: str, dtype: str, axes: int) -> np.ndarray:
        """One of ``_TABLES``. Raises ValueError if it is not what was written."""
        table = np.array(map_array(self.folder / name, (dtype,), axes))
        if _checksum(table) != self._tables.get(name):
            raise ValueError(f"{name} is not what was written")
        return table

    def _place(self, row: int, image: Any) -> tuple[int, Any]:
        start, end = int(self._ends[row]), int(self._ends[row + 1])
        return self._offset + start * image[0].nbytes, image[: end - start]

    @property
    def has_boxes(self) -> bool:
        """Whether the boxes of some regions are known."""
        return "boxes.npy" in self._tables

    @cached_property
    def _boxes(self) -> tuple[np.ndarray, np.ndarray]:
        with naming_damage(self.folder):
            return self._table("boxes.npy", "f4", 2), self._table("sizes.npy", "i4", 2)

    def boxes(self, name: str) -> tuple[np.ndarray, tuple[int, int] | None] | None:
        """The boxes of an image by its file name, and the picture's width and height where they are known.

        The boxes are float32 ``(regions of the image, 4)``: left, top, right, bottom in pixels. None: they are unknown.
        Raises UserError if the store is damaged.
        """
        if not self.has_boxes or name not in self.rows:
            return None
        row = self.rows[name]
        boxes, sizes = self._boxes
        found = boxes[self._ends[row] : self._ends[row + 1]]
        width, height = sizes[row].tolist()
        return None if np.isnan(found).any() else (found, (width, height) if width else None)


class _RegionMarks(Marks):
    """The batches of a store whose images have different numbers of regions."""

    def __init__(self, folder: Path, names: Sequence[str], batch_size: int, counts: np.ndarray):
        """``counts`` int ``(N,)``: the regions of each image."""
        super().__init__(folder, names, batch_size)
        self._ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def places(self) -> Sequence[int]:
        layout = map_array(self._features, ("f2", "f4"), 2)
        if len(layout) != self._ends[-1]:
            raise ValueError(f"{self._features.name} has {len(layout)} rows")
        row = layout.nbytes // max(1, len(layout))
        ends = [self._ends[min(number * self.batch_size, self.images)] for number in range(len(self) + 1)]
        return [layout.offset + int(end) * row for end in ends]


@dataclass(frozen=True)
class _Survey:
    """What is known of all images before their features are read."""

    counts: np.ndarray  # int32 (N,)
    width: int
    boxes: np.ndarray | None  # float32 (M, 4)
    sizes: np.ndarray  # int32 (N, 2)

    def tables(self) -> dict[str, np.ndarray]:
        """The tables of a store, by the names of their files."""
        boxes = {} if self.boxes is None else {"boxes.npy": self.boxes, "sizes.npy": self.sizes}
        return {"regions.npy": self.counts, **boxes}


def import_regions(
    folder: Path,
    key: RegionKey,
    source: Source,
    matched: Mapping[str, str],
    names: Sequence[str],
    batch_size: int,
    workers: int = 2,
    width: int | None = None,
    verify: bool = False,
    pictures: Mapping[str, Path] | None = None,
) -> RegionStore:
    """Make or finish the store in ``folder`` and open it.

    ``names``: the sorted file names of the images. ``matched``: what those with features are called in ``source``.
    ``pictures``: where the images lie, by name. Their sizes bound the boxes where ``source`` does not tell them.
    ``width``: the D that is wanted. ``verify``: compare a finished store with its checksums, and copy damaged batches
    again.

    Raises UserError, before anything is written, for features that cannot be used. Raises it at the end for those that
    only reading shows, such as NaN. All other batches are kept then. Also if the disk is full or cannot be written.
    """
    if (folder / "index.json").exists() and not verify:
        return RegionStore(folder, key)
    survey = _survey(source, names, matched, workers, width, pictures or {})

    def fill(marks: _RegionMarks) -> None:
        missing = f"no features in {source.place}"
        write_unreadable(folder, {name: missing for name in names if name not in matched})
        _copy(folder, marks, source, matched, survey, workers)

    return complete(
        folder,
        names,
        open_store=lambda: RegionStore(folder, key),
        marks_of=lambda size: _marks(folder, names, size, survey),
        begin=lambda: _begin(folder, key, batch_size, names, survey),
        fill=fill,
        size=int(survey.counts.sum()) * survey.width * np.dtype(key.dtype).itemsize,
        verify=verify,
    )


def _marks(folder: Path, names: Sequence[str], batch_size: int, survey: _Survey) -> _RegionMarks:
    return _RegionMarks(folder, names, batch_size, survey.counts)


def _survey(
    source: Source,
    names: Sequence[str],
    matched: Mapping[str, str],
    workers: int,
    width: int | None,
    pictures: Mapping[str, Path],
) -> _Survey:
    """Look at the features of all images without reading them. Raises UserError that names those that are bad."""
    there = [name for name in names if name in matched]
    found: dict[str, Outline] = {}
    bad: dict[str, str] = {}

    def look(name: str) -> Outline | Unusable:
        try:
            outline = source.outline(matched[name])
            if outline.boxes is not None and outline.size is None and name in pictures:
                _refuse_outside(outline, pictures[name])
        except Unusable as error:
            return error
        return outline

    with ThreadPoolExecutor(workers) as pool:
        for name, outline in zip(track(there, "looking at features"), pool.map(look, there), strict=True):
            if isinstance(outline, Unusable):
                bad[name] = str(outline)
            else:
                found[name] = outline
    _refuse(source, bad, len(names))
    widths: dict[int, str] = {}
    for name, outline in found.items():
        widths.setdefault(outline.width, name)
    if len(widths) > 1:
        (one, first), (other, second), *_ = widths.items()
        raise UserError(
            f"features: {source.place}: features of {first} have {one:,} numbers per region, and those of {second} "
            f"have {other:,}; all must be alike"
        )
    refuse_width(source.place, next(iter(widths)), width)
    counts = np.array([found[name].regions if name in found else 0 for name in names], np.int32)
    sizes = np.array([(name in found and found[name].size) or (0, 0) for name in names], np.int32).reshape(-1, 2)
    boxes = None
    if any(outline.boxes is not None for outline in found.values()):
        unknown = {name: np.full((found[name].regions, 4), np.nan, "float32") for name in there}
        boxes = np.concatenate([_or(found[name].boxes, unknown[name]) for name in there])
    return _Survey(counts, next(iter(widths)), boxes, sizes)


def _refuse_outside(outline: Outline, picture: Path) -> None:
    """Raise Unusable if boxes lie outside the ``picture``. Cameras store some pictures lying on their side."""
    try:
        _, (across, down) = measure(picture, 1)
    except UnreadableImage:
        return  # whoever reads the picture says so
    try:
        with_boxes(outline, outline.boxes, (across, down))
    except Unusable as error:
        try:
            with_boxes(outline, outline.boxes, (down, across))
        except Unusable:
            raise error from None


def _or(boxes: np.ndarray | None, unknown: np.ndarray) -> np.ndarray:
    return unknown if boxes is None else boxes


def refuse_width(path: Path, found: int, wanted: int | None) -> None:
    """Raise UserError if features in ``path`` have ``found`` numbers per region, and a captioner wants others."""
    if wanted is not None and found != wanted:
        raise UserError(
            f"features: {path}: has {found:,} numbers per region, and this captioner was trained with {wanted:,}; name "
            "features of the detector that it was trained with"
        )


def _refuse(source: Source, bad: Mapping[str, str], images: int) -> None:
    """Raise UserError if there are ``bad`` features: reasons by the names of their images."""
    if not bad:
        return
    named = "; ".join(printable(f"{name} {reason}") for name, reason in [*bad.items()][:_NAMED])
    more = f"; and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
    raise UserError(
        f"features: {source.place}: the features of {len(bad):,} of {images:,} images cannot be used: "
        f"{named}{more}. Mend them, or take them away, then run the same command"
    )


def _checksum(table: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(table).tobytes())


def _begin(folder: Path, key: RegionKey, batch_size: int, names: Sequence[str], survey: _Survey) -> _RegionMarks:
    """Lay out the files of a new store, or find those of a begun one. Raises ValueError when it is damaged."""
    tables = survey.tables()
    sums = {name: _checksum(table) for name, table in tables.items()}
    shape = int(survey.counts.sum()), survey.width
    if (folder / "key.json").exists():
        begun = load_json(folder / "key.json", dict)
        if any(begun.get(name) != value for name, value in {**asdict(key), "tables": sums}.items()):
            raise ValueError("begun with other features")
        refuse_other_features(folder, shape, key.dtype)
        return _marks(folder, names, batch_size_in(begun), survey)
    marks = _marks(folder, names, batch_size, survey)
    allocate(folder / "features.npy", key.dtype, shape)
    for name, table in tables.items():
        np.save(folder / name, table)
    marks.begin()
    # Last: a folder with key.json holds all that resuming needs.
    about = {**asdict(key), "tables": sums, "batch_size": batch_size, "checksums": True}
    write_atomically(folder / "key.json", json.dumps(about, indent=2))
    return marks


def _copy(
    folder: Path, marks: _RegionMarks, source: Source, matched: Mapping[str, str], survey: _Survey, workers: int
) -> None:
    """Copy the batches that are not done. Raises UserError at the end if some features cannot be used."""
    with naming_damage(folder):
        places, dtype = marks.places(), map_array(folder / "features.npy", ("f2", "f4"), 2).dtype
        missing = read_unreadable(folder)
        done = marks.done(missing)
    todo = [number for number in range(len(marks)) if not done[number]]
    rows_done = sum(len(marks.batch(number)) for number in range(len(marks)) if done[number])
    bad: dict[str, str] = {}

    def read(place: int, name: str) -> np.ndarray:
        try:
            return _checked(source.read(matched[name]), (int(survey.counts[place]), survey.width), dtype)
        except Unusable as error:
            bad[name] = str(error)
            return np.empty((0, survey.width), dtype)

    with (
        ThreadPoolExecutor(workers) as pool,
        open(folder / "features.npy", "r+b") as file,
        Progress("copying features", marks.images, "images", rows_done) as bar,
    ):
        for number in todo:
            batch, start = marks.batch(number), number * marks.batch_size
            chosen = [(start + i, name) for i, name in enumerate(batch) if name in matched]
            parts = list(pool.map(lambda one: read(*one), chosen))
            if any(name in bad for _, name in chosen):
                continue
            rows = b"".join(part.tobytes() for part in parts)
            file.seek(places[number])
            file.write(rows)
            file.flush()
            os.fsync(file.fileno())
            marks.mark(number, marks.checksum(number, rows, missing))
            bar.update(len(batch))
    _refuse(source, bad, marks.images)


def _checked(features: np.ndarray, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """``features`` as they are stored. Raises Unusable."""
    if features.shape != shape:
        raise Unusable(f"has features {features.shape}, and they were {shape} a moment ago")
    if not np.isfinite(features).all():
        raise Unusable(f"has features that are NaN or infinite ({int((~np.isfinite(features)).sum()):,} numbers)")
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if not np.isfinite(stored).all():
        raise Unusable(f"has numbers that {dtype} cannot hold; set --feature-dtype float32")
    if not stored.any():
        raise Unusable("has features that are all 0")
    return stored
