"""What is scored: the images of a split, for each data set that has it. No Keras."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from captioning.data.coco_instances import outlined_objects
from captioning.data.mixture import MixedDataset
from captioning.data.records import CaptionDataset, ImageRecord
from config import Config, DataSettings

if TYPE_CHECKING:
    from captioning.features.store import FeatureStore


@dataclass(frozen=True)
class Part:
    """The scored part of one data set.

    ``name``: of the data set; empty for a captioner of a single one. ``stores``: the features, one store for each
    member and view. ``records``: the images that all stores hold. ``subset``: the subset of MS-COCO that they belong
    to, if any. ``outlined``: the classes of the objects that COCO outlines in each image, if they are known.
    """

    name: str
    data: DataSettings
    stores: list["FeatureStore"]
    records: list[ImageRecord]
    subset: str | None
    outlined: list[frozenset[str]] | None


class NamedSet(NamedTuple):
    """A data set that is scored.

    ``name``: in tables; empty for a captioner of a single one. ``key``: its name among the parts of several.
    """

    name: str
    key: str
    dataset: CaptionDataset
    data: DataSettings


def named_sets(
    dataset: CaptionDataset | MixedDataset, config: Config, own: Sequence[str], wanted: Sequence[str], split: str
) -> list[NamedSet]:
    """The data sets of ``dataset`` that have the ``split``, with the settings ``config``. Raises UserError if none has.

    ``own``: the names of the captioner's own data sets. ``wanted``: the names that the user typed.
    """
    dataset.split(split)
    sets = dataset.parts if isinstance(dataset, MixedDataset) else {config.data_names()[0]: dataset}
    chosen = wanted if len(own) > 1 and set(wanted) <= set(own) else []
    names = chosen or (list(sets) if len(sets) > 1 else [""])
    found = []
    for name, key, data in zip(names, sets, config.data_sets(), strict=True):
        if isinstance(dataset, MixedDataset) and not dataset.has(key, split):
            print(f"note: {name}: has no split {split}, so it is not scored", file=sys.stderr)
        else:
            found.append(NamedSet(name, key, sets[key], data))
    return found


def part_of(named: NamedSet, records: list[ImageRecord], stores: Sequence["FeatureStore"] = ()) -> Part:
    """The part of these ``records`` of a data set, whose features are in ``stores``."""
    subset = named.dataset.coco_subsets.get(records[0].split)
    return Part(named.name, named.data, list(stores), records, subset, outlined_of(named.data, named.dataset, records))


def outlined_of(
    data: DataSettings, dataset: CaptionDataset, records: Sequence[ImageRecord]
) -> list[frozenset[str]] | None:
    """The classes of the objects that COCO outlines in each image, if these are COCO's and its file is at hand."""
    subset = dataset.coco_subsets.get(records[0].split)
    return outlined_objects(Path(data.data_dir), subset, records) if subset else None
