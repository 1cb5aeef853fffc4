"""All that training and evaluation start from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import keras

from captioning.base.errors import UserError
from captioning.data.aside import _return_memory, put_aside
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.features.store import FeatureStore, View


@dataclass
class Prepared:
    """All that training and evaluation start from."""

    dataset: CaptionDataset
    encoder: keras.Model
    store: FeatureStore
    # The training images mirrored and cropped (settings mirror and crops), or those of a split in further ways.
    views: Sequence[View] = ()

    def usable(self, split: str) -> list[ImageRecord]:
        """The images of a split whose features exist. Raises UserError when there are none."""
        records = [record for record in self.dataset.split(split) if record.file_name in self.store.rows]
        if not records:
            raise UserError(f"{self.store.folder}: not one image of the split {split!r} could be read")
        return records

    def captions(self, split: str) -> Iterator[tuple[str, str]]:
        """File name and text of each caption of the ``usable`` images."""
        return ((record.file_name, text) for record in self.usable(split) for text in record.captions)

    def release(self, split: str) -> None:
        """Let go of the images of a split, their captions and where their features lie: half a million captions take 150 MB."""
        gone = {record.file_name for record in self.dataset.records if record.split == split}
        others = tuple(record for record in self.dataset.records if record.split != split)
        aside = put_aside(replace(self.dataset, records=others))
        del others
        self.dataset = replace(self.dataset, records=())
        self.store = self.store.without(gone)
        self.views = [replace(view, store=view.store.without(gone)) for view in self.views]
        del gone
        self.dataset = aside()
        del aside
        _return_memory()
