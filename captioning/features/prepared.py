"""A data set with its features: what training and evaluation start from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras

from captioning.base.errors import UserError
from captioning.data.records import CaptionDataset, ChosenRecords
from captioning.features.store import FeatureStore, View


@dataclass(frozen=True)
class Prepared:
    """A data set, the encoder of its features, and the stores that hold them.

    store: the features of the images as they are.
    views: further stores of some of these images: mirrored, cropped or enlarged ones.
    """

    dataset: CaptionDataset
    encoder: keras.Model
    store: FeatureStore
    views: Sequence[View] = ()

    def usable(self, split: str) -> ChosenRecords:
        """The records of a split whose features exist. Raises UserError when there are none."""
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
