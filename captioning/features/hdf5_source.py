"""Region features in one HDF5 file. No Keras.

ID                           dataset (R, D), (H, W, D) or (D,): as ruotianluo's ImageCaptioning.pytorch writes it
ID_features and ID_boxes     datasets (R, D) and (R, 4): as the meshed-memory transformer reads them
ID/features and ID/boxes     the same in a group for each image
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from captioning.base.errors import UserError
from captioning.features.region_sources import (
    LARGEST_ARRAY,
    Outline,
    Source,
    Unusable,
    as_regions,
    shape_of,
    with_boxes,
)


class Hdf5Source(Source):
    """An HDF5 file. ``boxes``: the source of boxes, if they are in another file."""

    layout = "hdf5"

    def __init__(self, path: Path, boxes: Source | None = None):
        """Raises UserError if it is no HDF5 file."""
        import h5py

        if boxes is not None and not isinstance(boxes, Hdf5Source):
            raise UserError(f"features: {boxes.place}: these boxes are in another layout than {path}; convert one")
        self.place, self.boxes, self._lock = path, boxes, Lock()
        self.paths = [path, *(boxes.paths if boxes else ())]
        try:
            self._file: Any = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"features: {path}: is damaged, cut short or no HDF5 file ({error})") from None

    @cached_property
    def keys(self) -> Mapping[str, tuple[str, str]]:
        """For each image the names of its two datasets: of the features, and of the boxes or ``""``."""
        import h5py

        names, found = [*self._file], {}
        there = set(names)
        for name in names:
            key = name.removesuffix("_features")
            if key != name:
                found[key] = name, f"{key}_boxes" if f"{key}_boxes" in there else ""
            elif self._file.get(name, getclass=True) is h5py.Group:
                if "features" in self._file[name]:
                    found[name] = f"{name}/features", f"{name}/boxes" if "boxes" in self._file[name] else ""
            elif not name.endswith(("_boxes", "_cls_prob")):
                found.setdefault(name, (name, ""))
        return found

    def outline(self, key: str) -> Outline:
        features, boxes = self.keys[key]
        try:
            with self._lock:
                dataset = self._file[features]
                outline = Outline(*shape_of(dataset.shape, dataset.dtype))
                found = _whole(self._file[boxes]) if boxes else None
        except (OSError, KeyError, RuntimeError, AttributeError) as error:
            raise Unusable(f"cannot be read ({error})") from None
        if found is None and self.boxes is not None and key in self.boxes.keys:
            found = self.boxes.array(key)
        return with_boxes(outline, found)

    def array(self, key: str) -> np.ndarray:
        """The first dataset of an image as it is. Raises Unusable."""
        try:
            with self._lock:
                return np.asarray(_whole(self._file[self.keys[key][0]]))
        except (OSError, KeyError, RuntimeError) as error:
            raise Unusable(f"cannot be read ({error})") from None

    def read(self, key: str) -> np.ndarray:
        return as_regions(self.array(key))


def _whole(dataset: Any) -> Any:
    """All of a dataset. Raises Unusable if it claims to be too large, which a small file may."""
    if getattr(dataset, "nbytes", 0) > LARGEST_ARRAY:
        raise Unusable(f"holds an array of more than {LARGEST_ARRAY:,} bytes")
    return dataset[()]
