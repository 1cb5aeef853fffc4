"""Feature stores of several data sets, read as one."""

from collections.abc import Iterator, Mapping
from itertools import accumulate

import numpy as np

from captioning.data.mixture import joined_name
from captioning.features.store import FeatureStore


class JoinedRows(Mapping[str, int]):
    """Name of an image in the mixture -> its row, where the rows of one store follow those of the one before."""

    def __init__(self, stores: Mapping[str, FeatureStore], starts: Mapping[str, int]):
        self._stores, self._starts = stores, starts

    def __len__(self) -> int:
        return sum(len(store.rows) for store in self._stores.values())

    def __iter__(self) -> Iterator[str]:
        return (joined_name(dataset, name) for dataset, store in self._stores.items() for name in store.rows)

    def __getitem__(self, name: str) -> int:
        dataset, _, file_name = name.partition("/")
        if dataset not in self._stores:
            raise KeyError(name)
        return self._starts[dataset] + self._stores[dataset].rows[file_name]


class JoinedStore(FeatureStore):
    """The stores of several data sets as one store. They stay where they are, and nothing is copied."""

    def __init__(self, stores: Mapping[str, FeatureStore]):
        """``stores``: that of each data set by its name. The features of all come from one encoder."""
        first = next(iter(stores.values()))
        self.folder = first.folder.parent
        self.feature_size, self.dtype, self.padded = first.feature_size, first.dtype, first.padded
        self._stores = list(stores.values())
        self.regions = max(store.regions for store in self._stores)
        *starts, self.size = accumulate((store.size for store in self._stores), initial=0)
        self.starts = tuple(starts)
        self.rows = JoinedRows(stores, dict(zip(stores, starts, strict=True)))
        self.unreadable = {
            joined_name(dataset, name): reason
            for dataset, store in stores.items()
            for name, reason in store.unreadable.items()
        }

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Features ``(N, R, D)`` of ``rows`` int ``(N,)``, in the stored dtype."""
        rows = np.asarray(rows)
        make = np.zeros if self.padded else np.empty
        features = make((len(rows), self.regions, self.feature_size), self.dtype)
        parts = self.part_of(rows)
        for part in np.unique(parts):
            store, chosen = self._stores[part], parts == part
            features[chosen, : store.regions] = store.read(rows[chosen] - self.starts[part])
        return features
