"""The record that every layout gives, the compact list of them, and how records are joined from what a layout reads."""

import os
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np

from captioning.base.errors import UserError
from captioning.base.texts import Texts
from captioning.data.markup import clean
from captioning.data.names import match, nearest
from captioning.words.splitting import is_unspaced
from config import DataSettings

SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {"train": "train", "dev": "dev", "val": "dev", "validation": "dev", "test": "test"}
# What folders with the images of a split are called besides.
FOLDER_NAMES = SPLIT_NAMES | {"training": "train", "valid": "dev", "eval": "dev", "testing": "test"}
# A record in no split has "".
_SPLIT_CODES = ("", *SPLITS)


class Warts(defaultdict[str, list[str]]):
    """What is wrong with the data: a description -> its examples. Each description becomes one warning.

    notes: further warnings, about the whole data set.
    """

    def __init__(self) -> None:
        super().__init__(list)
        self.notes: list[str] = []

    def lines(self) -> tuple[str, ...]:
        """The notes, and one line for each description that has examples: how many they are, and the first three."""
        described = (
            f"{what}: {len(examples)}, e.g. {'; '.join(examples[:3])}" for what, examples in self.items() if examples
        )
        return (*self.notes, *described)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image with its captions.

    image_id: the official id in MS-COCO. In other data the position, from 0, among the sorted file names of the
        captions file. A file that is missing on disk changes no other id.
    file_name: as the captions file spells it. It is unique, and the key in the feature store.
    captions: one or more, in the order of the captions file. Only markup and the white space around them are removed.
    split: "train", "dev", "test", or "" for an image in no split.
    """

    image_id: int
    file_name: str
    path: Path
    captions: tuple[str, ...]
    split: str


class Records(Sequence[ImageRecord]):
    """Many records in little memory. Arrays and bytes hold them; an ImageRecord is made whenever one is read.

    A few large pieces of memory go back to the operating system as soon as nothing uses them. Half a million small
    objects would not: Python returns a block of memory only when all of it is free.
    """

    def __init__(self, records: Iterable[ImageRecord] = ()):
        self.file_names = Texts()
        self._ids = array("q")
        self._captions = Texts()  # of all images, one image after another
        self._ends = array("Q", [0])  # the captions of image i are _captions[_ends[i] : _ends[i + 1]]
        self._splits = bytearray()  # places in _SPLIT_CODES
        self._files = Texts()  # the last part of each path
        self._folder_of = array("I")  # the place of each path's folder in _folders
        folders: dict[str, int] = {}
        for record in records:
            self.file_names.append(record.file_name)
            self._ids.append(record.image_id)
            for caption in record.captions:
                self._captions.append(caption)
            self._ends.append(len(self._captions))
            self._splits.append(_SPLIT_CODES.index(record.split))
            folder, file = os.path.split(record.path)
            self._files.append(file)
            self._folder_of.append(folders.setdefault(folder, len(folders)))
        self._folders = [*map(Path, folders)]

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, place: slice) -> "ChosenRecords": ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return ChosenRecords(self, np.arange(len(self))[place])
        i = range(len(self))[place]
        return ImageRecord(
            self._ids[i],
            self.file_names[i],
            self._folders[self._folder_of[i]] / self._files[i],
            tuple(self.captions_of(i)),
            _SPLIT_CODES[self._splits[i]],
        )

    def captions_of(self, place: int) -> list[str]:
        """The captions of the record at ``place``, which must not be negative."""
        return self._captions[self._ends[place] : self._ends[place + 1]]

    def of_split(self, split: str) -> "ChosenRecords":
        """The records of "train", "dev" or "test"."""
        codes = np.frombuffer(self._splits, np.uint8)
        return ChosenRecords(self, np.flatnonzero(codes == _SPLIT_CODES.index(split)))


class ChosenRecords(Sequence[ImageRecord]):
    """Some of the records of a list, which it shares. ``Records(chosen)`` makes a list of its own of them."""

    def __init__(self, records: Records, places: np.ndarray):
        """``places`` int ``(N,)``: where the chosen ones are in ``records``."""
        self._records, self._places = records, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, place: slice) -> "ChosenRecords": ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return ChosenRecords(self._records, self._places[place])
        return self._records[int(self._places[place])]

    @property
    def file_names(self) -> Iterator[str]:
        """The file names of the chosen records, in order."""
        return (self._records.file_names[place] for place in self._places.tolist())

    def captions(self) -> Iterator[tuple[str, str]]:
        """File name and text of each caption of the chosen records, in order."""
        for place in self._places.tolist():
            name = self._records.file_names[place]
            for text in self._records.captions_of(place):
                yield name, text

    def named(self, names: Container[str]) -> "ChosenRecords":
        """Those whose file name is one of ``names``."""
        return ChosenRecords(self._records, self._places[[name in names for name in self.file_names]])


@dataclass(frozen=True, eq=False)
class CaptionDataset:
    """All usable images of a data set, sorted by file name.

    records: given as any sequence, kept as Records.
    warnings: one line for each kind of fault that was found in the data.
    coco_subsets: only of MS-COCO. It maps each split whose images all come from one official part to that part's name,
        such as "val2014".
    """

    name: str
    records: Records
    warnings: tuple[str, ...]
    coco_subsets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.records, Records):
            object.__setattr__(self, "records", Records(self.records))

    def split(self, name: str) -> ChosenRecords:
        """The records of "train", "dev" (or "val", "validation") or "test". Raises UserError: unknown or empty."""
        if name.startswith("val") and self.coco_subsets.get("dev", "").startswith("train"):
            raise UserError(
                "split: all of COCO's val is the split test here, and dev is part of train; say test or dev"
            )
        if name in SPLIT_NAMES and (found := self.records.of_split(SPLIT_NAMES[name])):
            return found
        sizes = {split: len(self.records.of_split(split)) for split in SPLITS}
        there = ", ".join(f"{split} ({size} images)" for split, size in sizes.items() if size) or "no split at all"
        raise UserError(f"split: data set {self.name} has no images in split {name!r}; it has {there}")


def join(
    dataset: str,
    captions: Mapping[str, list[str]],
    splits: Mapping[str, str],
    images: Mapping[str, Path],
    folder: str,
    warts: Warts,
    ids: Mapping[str, int] | None = None,
    coco_subsets: Mapping[str, str] | None = None,
) -> CaptionDataset:
    """Join captions, splits, image paths and ``ids``, all by file name, and note in ``warts`` what does not fit.

    Names of images that are spelled otherwise on disk are matched (``names.match``). Markup is taken out of the
    captions (``markup.clean``).

    ``folder`` says where the images were looked for. Raises UserError when no image is left, or two share an id.
    """
    shared = [image_id for image_id, times in Counter((ids or {}).values()).items() if times > 1]
    if shared:
        raise UserError(
            f"data_dir: the captions files of {dataset} give id {shared[0]} to more than one image; mend them"
        )
    spelled, told = match(captions, images, images)
    for what, examples in told.items():
        warts[what].extend(examples)
    renamed = {name: images[other] for name, other in spelled.items()}
    records = Records(_usable(captions, splits, {**images, **renamed} if renamed else images, folder, warts, ids))
    if not records:
        first = min(captions, default="")
        raise UserError(
            f"data_dir: {len(images)} images were found in {folder}, and none of the {len(captions)} in the captions "
            f"file has both a file there and a caption. The first name looked for is {first!r}{nearest(first, images)}; "
            "check the folder and the names"
        )
    uncaptioned = sorted(images.keys() - captions.keys() - {*spelled.values()})
    missing = sorted(captions.keys() - images.keys() - spelled.keys()) if uncaptioned else []
    near = [(name, found) for name in missing[:3] if (found := nearest(name, uncaptioned, 0.85))]
    warts["missing images whose name is like one on disk"].extend(f"{name}{found}" for name, found in near)
    warts[f"images in {folder} without captions (left out)"].extend(uncaptioned)
    return CaptionDataset(dataset, records, warts.lines(), coco_subsets or {})


def _usable(
    captions: Mapping[str, list[str]],
    splits: Mapping[str, str],
    images: Mapping[str, Path],
    folder: str,
    warts: Warts,
    ids: Mapping[str, int] | None,
) -> Iterator[ImageRecord]:
    """A record for each image that has a file and a caption, sorted by file name. The others go into ``warts``."""
    for position, name in enumerate(sorted(captions)):
        texts = [clean(caption) for caption in captions[name]]
        warts["captions with markup, such as <start>, &amp; or <br> (cleaned)"].extend(
            f"{name}: {caption}" for caption, text in zip(captions[name], texts, strict=True) if caption is not text
        )
        kept = [text.strip() for text in texts if text.strip()]
        warts["empty captions (dropped)"].extend([name] * (len(captions[name]) - len(kept)))
        if len(set(kept)) < len(kept):
            repeated = [caption for caption, times in Counter(kept).items() for _ in range(times - 1)]
            warts["captions that repeat another of the same image (kept)"].extend(
                f"{name}: {text}" for text in repeated
            )
        warts["captions of a single word (kept)"].extend(
            f"{name}: {text}" for text in kept if len(text.split()) == 1 and not is_unspaced(text)
        )
        split = splits.get(name, "")
        if not kept:
            what = "with empty captions only" if captions[name] else "listed without captions"
            warts[f"images {what} (dropped)"].append(name)
        elif name not in images:
            where = f"of split {split}" if split else "in no split"
            warts[f"images {where} with captions but no file in {folder} (dropped)"].append(name)
        else:
            yield ImageRecord(position if ids is None else ids[name], name, images[name], tuple(kept), split)


def splits_or_drawn(
    captions: Mapping[str, list[str]], splits: dict[str, str], settings: DataSettings, warts: Warts
) -> dict[str, str]:
    """``splits``, or drawn ones if there are none. Notes in ``warts`` which of several images has no split."""
    if not splits:
        return draw_splits(sorted(captions), settings)
    warts["images in no split, though others are in one"].extend(sorted(captions.keys() - splits.keys()))
    return splits


def folder_split(name: str) -> str:
    """The split that the folders in the name of an image tell, such as "dev" of "validation/a.jpg"; else empty."""
    for folder in PurePosixPath(name).parts[:-1]:
        if split := FOLDER_NAMES.get(folder.lower()):
            return split
    return ""


def draw_splits(names: list[str], settings: DataSettings) -> dict[str, str]:
    """Draw a split for each of the sorted ``names``, from the seed ``split_seed``. Raises UserError: too few names.

    All captioned images take part, also those whose file is missing. So a missing file moves no other image to another
    split.
    """
    shuffled = names.copy()
    random.Random(settings.split_seed).shuffle(shuffled)
    splits = {}
    for split, fraction in (("dev", settings.dev_fraction), ("test", settings.test_fraction)):
        for _ in range(max(1, round(fraction * len(names))) if fraction else 0):
            if len(shuffled) <= 1:
                raise UserError(
                    f"captions_file: {len(names)} images are too few to draw splits from; add images, give a split for "
                    "each, or set dev_fraction and test_fraction to 0"
                )
            splits[shuffled.pop()] = split
    return splits | dict.fromkeys(shuffled, "train")
