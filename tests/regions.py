"""Small region features in all layouts, for tests. Needs no Keras."""

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np

WIDTH = 6
SIZE = (40, 30)  # width and height of each picture


def some_regions(keys: list[str], most: int = 4, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each image features float32 ``(R, 6)`` and boxes float32 ``(R, 4)`` within ``SIZE``; R goes from 1 to most."""
    rng = np.random.default_rng(seed)
    found = {}
    for i, key in enumerate(keys):
        count = i % most + 1
        corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * SIZE
        found[key] = rng.normal(size=(count, WIDTH)).astype("float32"), corners.reshape(count, 4).astype("float32")
    return found


Regions = Mapping[str, tuple[np.ndarray, np.ndarray]]


def write_files(place: Path, regions: Regions) -> Path:
    """NAME_att/ID.npz and NAME_box/ID.npy, as ImageCaptioning.pytorch has them. Gives NAME_att."""
    att, box = (place.with_name(f"{place.name}_{kind}") for kind in ("att", "box"))
    for folder in (att, box):
        folder.mkdir(parents=True)
    for key, (features, boxes) in regions.items():
        np.savez_compressed(att / f"{key}.npz", feat=features)
        np.save(box / f"{key}.npy", boxes)
    return att


def write_table(path: Path, regions: Regions, size: tuple[int, int] = SIZE) -> Path:
    """A table of bottom-up attention."""
    lines = []
    for key, (features, boxes) in regions.items():
        encoded = [base64.b64encode(part.tobytes()).decode() for part in (boxes, features)]
        lines.append("\t".join([key, *map(str, size), str(len(boxes)), *encoded]))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_hdf5(path: Path, regions: Regions, suffix: str = "") -> Path:
    """A dataset for each image, and with the ``suffix`` _features also boxes."""
    import h5py

    with h5py.File(path, "w") as file:
        for key, (features, boxes) in regions.items():
            file[f"{key}{suffix}"] = features
            if suffix:
                file[f"{key}_boxes"] = boxes
    return path


def write_lmdb(path: Path, regions: Regions) -> Path:
    """A .npz file for each image, and two of the keys that lmdbdict adds."""
    import io

    import lmdb

    with lmdb.open(str(path), subdir=False, map_size=1 << 22) as environment, environment.begin(write=True) as writing:
        for key, (features, _) in regions.items():
            file = io.BytesIO()
            np.savez_compressed(file, feat=features)
            writing.put(key.encode(), file.getvalue())
        writing.put(b"__keys__", b"a pickle")
        writing.put(b"__key_dumps__", b"a pickle")
    return path
