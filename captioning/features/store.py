"""Image features on disk: extracted once, read row by row for ever after.

A store is a folder named after its fingerprint (encoder, weights, pixel preprocessing, image list; see ``StoreKey``):

    key.json        what the fingerprint stands for, and the batch size of the extraction
    features.npy    float16 or float32 (N, R, D), rows in the order of the sorted file names; can be memory-mapped
    progress.bin    one byte per batch: 0 to do, 1 done
    index.json      written last: {"rows": {file_name: row}, "unreadable": {file_name: reason}}

Extraction can be killed at any moment. A batch is marked done only after its rows have reached the disk, and every
batch always holds the same images, so the resumed result is byte for byte that of an undisturbed run.
"""

import copy
import errno
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioning.base.errors import UserError
from captioning.base.files import allocate, alone_with, write_atomically
from captioning.base.script import hide_progress
from captioning.pictures.loading import UnreachableImage, load_ahead


@dataclass(frozen=True)
class StoreKey:
    """All that decides the content of a store. Two stores with equal keys hold equal features."""

    encoder: str
    weights: str  # digest of the encoder's weights, and of what it does with them if it is a saved model
    preprocessing: str
    image_size: int
    feature_grid: int
    dtype: str
    images: str  # digest of the image files' names and sizes

    @property
    def fingerprint(self) -> str:
        """20 hex digits that name the store's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]


def digest_images(paths: Mapping[str, Path]) -> str:
    """Digest of the images' names and file sizes, whatever their order: other pictures, another digest.

    Raises UserError for a file that is gone, or a link into nothing.
    """
    try:
        lines = [f"{name}\t{paths[name].stat().st_size}" for name in sorted(paths)]
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); mend it, or take it out of the folder of images"
        ) from None
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class FeatureStore:
    """Read access to a finished store. Safe to share between threads; its memory stays bounded."""

    def __init__(self, folder: Path, key: StoreKey | None = None):
        """Open the store in ``folder``. Raises UserError when it is unfinished, damaged or not the one of ``key``."""
        self.folder = folder
        try:
            found = json.loads((folder / "key.json").read_text())
            index = json.loads((folder / "index.json").read_text())
            features = _map_features(folder)
            self.rows: dict[str, int] = index["rows"]
            self.unreadable: dict[str, str] = index["unreadable"]
            if len(self.rows) + len(self.unreadable) != len(features):
                raise ValueError("features.npy and index.json hold different numbers of images")
            self.regions, self.feature_size = features.shape[1:]
        except FileNotFoundError as error:
            raise UserError(
                f"{folder}: not a finished feature store ({Path(error.filename).name} is missing); run preprocessing.py"
            ) from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{folder}: damaged feature store ({error}); delete it and run preprocessing.py") from None
        if key is not None:
            for name, value in asdict(key).items():
                if found.get(name) != value:
                    raise UserError(
                        f"{folder}: this store's {name} is {found.get(name)!r}, but {value!r} is wanted; "
                        "run preprocessing.py to make the right one"
                    )
        self.dtype = features.dtype
        self._offset = features.offset

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Features ``(len(rows), R, D)`` of the given rows, in the stored dtype.

        Reads by position and not through a mapping, whose pages would count as this process's memory while they stay
        mapped: with large pages that is many times what was asked for, and it grows with the store.
        """
        # Rows in file order keep a cold disk reading forwards; the same image often occurs twice in a batch.
        unique, inverse = np.unique(rows, return_inverse=True)
        features = np.empty((len(unique), self.regions, self.feature_size), self.dtype)
        with open(self.folder / "features.npy", "rb") as file:
            for row, target in zip(unique.tolist(), features, strict=True):
                file.seek(self._offset + row * target.nbytes)
                if file.readinto(target) != target.nbytes:
                    raise UserError(
                        f"{self.folder}: features.npy ends early; delete the store and run preprocessing.py"
                    )
        return features[inverse]

    def without(self, names: Collection[str]) -> "FeatureStore":
        """The same store, knowing no rows of these images. What stands in a row can be read as before."""
        other = copy.copy(self)
        kept = {name: row for name, row in self.rows.items() if name not in names}
        # Made anew, so that what is kept does not hold on to memory among what goes, see preprocessing.py.
        other.rows = json.loads(json.dumps(kept))
        return other


@dataclass(frozen=True)
class View:
    """A store of the training images as they look when cropped, mirrored or both."""

    store: FeatureStore
    mirrored: bool


def _map_features(folder: Path) -> np.ndarray:
    """``features.npy`` as a read-only mapping. Raises OSError when it cannot be opened, ValueError when it is damaged."""
    try:
        return np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
    except EOFError as error:
        raise ValueError(f"features.npy: {error}") from None


def extract(
    folder: Path,
    key: StoreKey,
    file_names: Sequence[str],
    load: Callable[[str], np.ndarray],
    encode: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    batch_size: int,
    workers: int = 2,
    label: str = "features",
) -> FeatureStore:
    """Make or finish the store in ``folder`` and open it.

    ``load(file_name)`` gives uint8 pixels ``(S, S, 3)`` or raises UnreadableImage; ``encode`` maps ``(B, S, S, 3)`` to
    features ``(B, R, D)`` with ``(R, D) = shape``. Images are decoded by ``workers`` threads while the encoder computes.
    An unreadable image gets a row of zeros and a line in ``index.json``. A resumed extraction keeps the batch size it
    was begun with. ``label`` stands beside the progress bar. Raises UserError when the disk is full, the folder cannot be
    written or the system does not give an image's file; what is done stays.
    """
    if (folder / "index.json").exists():
        return FeatureStore(folder, key)
    names = sorted(file_names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_with(folder):
            if not (folder / "index.json").exists():
                batch_size = _begin(folder, key, batch_size, (len(names), *shape))
                unreadable = _run(folder, names, load, encode, key.image_size, batch_size, workers, label)
                rows = {name: row for row, name in enumerate(names) if name not in unreadable}
                write_atomically(folder / "index.json", json.dumps({"rows": rows, "unreadable": unreadable}, indent=0))
            (folder / "unreadable.jsonl").unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            size = np.dtype(key.dtype).itemsize * len(names) * shape[0] * shape[1]
            raise UserError(
                f"{folder}: the disk is full; the features need {size / 1e6:,.1f} MB. "
                "Free some space or choose another --feature-dir, then run the same command to continue"
            ) from None
        raise UserError(f"{folder}: cannot write the feature store: {error.strerror}") from None
    return FeatureStore(folder, key)


def _begin(folder: Path, key: StoreKey, batch_size: int, shape: tuple[int, int, int]) -> int:
    """Lay out the files of a new store, or find those of a begun one. Returns the store's batch size."""
    if (folder / "key.json").exists():
        begun = json.loads((folder / "key.json").read_text())
        other = ", ".join(name for name, value in asdict(key).items() if begun.get(name) != value)
        if other:
            raise UserError(f"{folder}: begun with other settings ({other}); delete it or choose another --feature-dir")
        return begun["batch_size"]
    allocate(folder / "features.npy", key.dtype, shape)
    with open(folder / "progress.bin", "wb") as file:
        file.write(bytes(-(-shape[0] // batch_size)))
        os.fsync(file.fileno())
    # Last: a folder with key.json is complete enough to be resumed.
    write_atomically(folder / "key.json", json.dumps({**asdict(key), "batch_size": batch_size}, indent=2))
    return batch_size


def _run(folder, names, load, encode, image_size, batch_size, workers, label) -> dict[str, str]:
    """Extract the batches that are not done. Returns file name -> reason of all unreadable images."""
    done = bytearray((folder / "progress.bin").read_bytes())
    todo = [i for i, flag in enumerate(done) if not flag]
    bad_lines = folder / "unreadable.jsonl"
    if bad_lines.exists():  # A crash may have cut its last line short; that line's batch is not done.
        whole = bad_lines.read_bytes()
        os.truncate(bad_lines, whole.rfind(b"\n") + 1)
    try:
        header = _map_features(folder)
    except ValueError as error:
        raise UserError(f"{folder}: damaged feature store ({error}); delete it and run the same command") from None
    offset, row_bytes, dtype = header.offset, header.nbytes // max(1, len(header)), header.dtype
    del header
    with (
        ThreadPoolExecutor(workers) as pool,
        open(folder / "features.npy", "r+b") as features,
        open(folder / "progress.bin", "r+b") as progress,
        open(bad_lines, "a", encoding="utf-8") as bad,
        tqdm(total=len(names), desc=label, unit="image", disable=hide_progress()) as bar,
    ):
        bar.update(sum(len(names[i * batch_size : (i + 1) * batch_size]) for i, flag in enumerate(done) if flag))
        batches = [names[i * batch_size : (i + 1) * batch_size] for i in todo]
        ahead = load_ahead(pool, batches, load, image_size, batch_size)
        for i, batch, (pixels, reasons) in zip(todo, batches, ahead, strict=True):
            for reason in reasons.values():
                if isinstance(reason, UnreachableImage):  # the store would be without it for ever
                    raise UserError(
                        f"{reason}; make the file readable and run the same command to continue (without the file in the "
                        "data, extraction begins anew)"
                    )
            encoded = np.asarray(encode(pixels), dtype=dtype)
            encoded[list(reasons)] = 0
            features.seek(offset + i * batch_size * row_bytes)
            features.write(encoded[: len(batch)].tobytes())
            for position, reason in reasons.items():
                bad.write(json.dumps({batch[position]: str(reason)}) + "\n")
            for file in (features, bad):
                file.flush()
                os.fsync(file.fileno())
            progress.seek(i)
            progress.write(b"\1")
            progress.flush()
            bar.update(len(batch))
    lines = bad_lines.read_text(encoding="utf-8").splitlines()
    found = {name: reason for line in lines for name, reason in json.loads(line).items()}
    return dict(sorted(found.items()))
