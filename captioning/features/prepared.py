"""A data set with its features, or several: what training and evaluation start from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import keras

from captioning.base.errors import UserError
from captioning.data.mixture import MixedDataset, MixedRecords
from captioning.data.records import CaptionDataset, ChosenRecords
from captioning.features.joined_store import JoinedStore
from captioning.features.store import FeatureStore, View


@dataclass(frozen=True)
class Prepared:
    """A data set, the encoder of its features, and the stores that hold them.

    store: the features of the images as they are.
    views: further stores of some of these images: mirrored, cropped or enlarged ones.
    parts: of several data sets each by its name, with the stores that ``store`` and ``views`` join; else none.
    """

    dataset: CaptionDataset | MixedDataset
    encoder: keras.Model
    store: FeatureStore
    views: Sequence[View] = ()
    parts: Mapping[str, "Prepared"] = field(default_factory=dict)

    @classmethod
    def joined(cls, dataset: MixedDataset, parts: Mapping[str, "Prepared"]) -> "Prepared":
        """Several data sets as one. ``parts`` have the same encoder, and views of the same looks in the same order."""
        first = next(iter(parts.values()))
        views = [
            View(JoinedStore({name: part.views[i].store for name, part in parts.items()}), view.mirrored)
            for i, view in enumerate(first.views)
        ]
        store = JoinedStore({name: part.store for name, part in parts.items()})
        return cls(dataset, first.encoder, store, views, parts)

    def usable(self, split: str) -> ChosenRecords | MixedRecords:
        """The records of a split whose features exist.

        Raises UserError when there are none, also of one of several data sets whose data has the split.
        """
        if isinstance(self.dataset, MixedDataset):
            for name, part in self.parts.items():
                if self.dataset.has(name, split):
                    part.usable(split)
        records = self.dataset.split(split).named(self.store.rows)
        if not records:
            raise UserError(
                f"{self.store.folder}: not one image of the split {split!r} could be read; mend the image files, then "
                "delete this folder"
            )
        return records

    def captions(self, split: str) -> Iterator[tuple[str, str]]:
        """File name and text of each caption of the ``usable`` images."""
        return self.usable(split).captions()
