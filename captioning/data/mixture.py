"""Several data sets that are read as one. Each keeps its splits, its ids and its file names.

Images of different data sets may have the same name. So the mixture gives each image a name of its own: that of its
data set, a slash, and its file name, such as coco/000000000009.jpg. Feature stores that are joined know images by these
names (``JoinedStore`` in captioning/features/store.py).
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

from captioning.base.errors import UserError
from captioning.data.records import SPLIT_NAMES, SPLITS, CaptionDataset, ChosenRecords, ImageRecord


def joined_name(dataset: str, file_name: str) -> str:
    """The name of an image in a mixture. ``dataset`` is the name of its data set, which holds no slash."""
    return f"{dataset}/{file_name}"


class MixedRecords(Sequence[ImageRecord]):
    """Records of several data sets, one data set after another. They are not copied. Only their names are others."""

    def __init__(self, parts: Mapping[str, ChosenRecords]):
        """``parts``: the records of each data set, by its name."""
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @overload
    def __getitem__(self, place: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, place: slice) -> list[ImageRecord]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        place = range(len(self))[place]
        for dataset, records in self.parts.items():
            if place < len(records):
                record = records[place]
                return replace(record, file_name=joined_name(dataset, record.file_name))
            place -= len(records)
        raise IndexError(place)

    @property
    def file_names(self) -> Iterator[str]:
        """The names of the records in the mixture, in order."""
        return (joined_name(dataset, name) for dataset, records in self.parts.items() for name in records.file_names)

    def captions(self) -> Iterator[tuple[str, str]]:
        """Name and text of each caption, in order."""
        for dataset, records in self.parts.items():
            for name, text in records.captions():
                yield joined_name(dataset, name), text

    def named(self, names: Container[str]) -> "MixedRecords":
        """Those whose name in the mixture is one of ``names``."""
        return MixedRecords(
            {dataset: records.named(_Within(names, dataset)) for dataset, records in self.parts.items()}
        )


@dataclass(frozen=True)
class _Within(Container[str]):
    """The file names of one data set that are among the ``names`` of a mixture."""

    names: Container[str]
    dataset: str

    def __contains__(self, file_name: object) -> bool:
        return joined_name(self.dataset, str(file_name)) in self.names


@dataclass(frozen=True, eq=False)
class MixedDataset:
    """Several data sets. ``parts`` holds each by its name in tables, which has no slash."""

    parts: Mapping[str, CaptionDataset]

    @property
    def name(self) -> str:
        return "+".join(self.parts)

    def split(self, name: str) -> MixedRecords:
        """The records of a split of all data sets that have it.

        Raises UserError: an unknown split, one that no data set has, or a data set without training images.
        """
        found = {part: dataset.split(name) for part, dataset in self.parts.items() if self.has(part, name)}
        for part in self.parts:
            if name == "train" and part not in found:
                raise UserError(
                    f"split: data set {part} has no training captions; put images of it into the split train, or "
                    "leave it out of dataset"
                )
        if not found:
            sizes = [
                f"{part} has {', '.join(split for split in SPLITS if self.has(part, split)) or 'no split at all'}"
                for part in self.parts
            ]
            raise UserError(f"split: none of the data sets has images in split {name!r}; {'; '.join(sizes)}")
        return MixedRecords(found)

    def has(self, part: str, split: str) -> bool:
        """Whether the data set ``part`` has images in ``split``."""
        return split in SPLIT_NAMES and len(self.parts[part].records.of_split(SPLIT_NAMES[split])) > 0


def captions_of(dataset: CaptionDataset | MixedDataset, split: str) -> Iterator[str]:
    """The captions of a split; none where no data set has it."""
    parts = dataset.parts.values() if isinstance(dataset, MixedDataset) else [dataset]
    return (caption for part in parts for _, caption in part.records.of_split(split).captions())
