"""Batches of the features of images, in order."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from captioning.features.store import FeatureStore


class FeatureBatches(keras.utils.PyDataset):
    """Batches ``(features (B, R, D),)`` of images in order. The last batch repeats its last image until it is full."""

    def __init__(self, store: FeatureStore, file_names: Sequence[str], batch_size: int, workers: int = 1):
        super().__init__(workers=workers, max_queue_size=4)
        self.store, self.batch_size = store, min(batch_size, len(file_names))
        rows = np.asarray([store.rows[name] for name in file_names], dtype=np.int64)
        self.rows = np.pad(rows, (0, -len(rows) % self.batch_size), mode="edge")
        self.file_names = [*file_names, *[file_names[-1]] * (len(self.rows) - len(rows))]

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __getitem__(self, index: int):
        return (self.store.read(self.rows[index * self.batch_size : (index + 1) * self.batch_size]),)

    def names(self, index: int) -> list[str]:
        """The file names of the images of a batch."""
        return self.file_names[index * self.batch_size : (index + 1) * self.batch_size]


class EnsembleBatches(keras.utils.PyDataset):
    """Batches ``((features (B, R, D), ...),)`` of the same images from several stores, one for each member."""

    def __init__(self, members: Sequence[FeatureBatches]):
        super().__init__(workers=members[0].workers, max_queue_size=4)
        self.members = members

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, index: int):
        return (tuple(member[index][0] for member in self.members),)

    def names(self, index: int) -> list[str]:
        """The file names of the images of a batch."""
        return self.members[0].names(index)


class DrawnBatches(keras.utils.PyDataset):
    """Batches ``((features, draws),)``: those of other batches, each with what ``draw`` gives for its file names."""

    def __init__(self, batches: FeatureBatches | EnsembleBatches, draw: Callable[[Sequence[str]], np.ndarray]):
        super().__init__(workers=batches.workers, max_queue_size=4)
        self.batches, self.draw = batches, draw

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int):
        return ((self.batches[index][0], self.draw(self.batches.names(index))),)
