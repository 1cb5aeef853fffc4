"""Where the training pictures lie in the space of the encoder's features."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.confidence.signals import Subspace
from captioning.data.records import ImageRecord
from captioning.pictures.loading import load_ahead, load_image
from config import EncoderSettings

PICTURES = 2000  # a random sample; more move the subspace little


def training_subspace(
    encode: Callable[[np.ndarray], np.ndarray], records: Sequence[ImageRecord], settings: EncoderSettings
) -> Subspace:
    """The subspace of a sample of the training pictures ``records``. Pictures that cannot be read are left out.

    ``encode``: from RGB pixels uint8 ``(B, S, S, 3)`` to features ``(B, R, D)``. Raises UserError when there are fewer
    than two readable training pictures.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(records))[:PICTURES])
    pooled = _pooled(encode, [records[int(place)].path for place in chosen], settings)
    if len(pooled) < 2:
        raise UserError(
            f"--fit-confidence: only {len(pooled)} training pictures can be read; it needs to know where training "
            "pictures lie, so give the data that the captioner was trained on"
        )
    return Subspace.of(pooled)


def _pooled(encode: Callable[[np.ndarray], np.ndarray], paths: Sequence[Path], settings: EncoderSettings) -> np.ndarray:
    """The features of each readable picture, float32 ``(N, D)``: the mean over the regions."""
    size = settings.extract_batch_size
    batches = [[str(path) for path in paths[start : start + size]] for start in range(0, len(paths), size)]
    found = []
    with ThreadPoolExecutor(settings.workers) as pool:
        ahead = load_ahead(pool, batches, lambda name: load_image(name, settings.image_size), settings.image_size, size)
        for batch, (pixels, reasons) in zip(batches, ahead, strict=True):
            features = encode(pixels).astype("float32").mean(axis=1)
            found += [features[place] for place in range(len(batch)) if place not in reasons]
    return np.asarray(found)
