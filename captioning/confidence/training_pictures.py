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

PICTURES = 2000  # size of the random sample; more pictures change the subspace little


def training_subspace(
    encode: Callable[[np.ndarray], np.ndarray], records: Sequence[ImageRecord], settings: EncoderSettings
) -> Subspace:
    """The subspace of a sample of the training pictures ``records``. Pictures that cannot be read are left out.

    ``encode`` turns RGB pixels uint8 ``(B, S, S, 3)`` into float features ``(B, R, D)``. Raises UserError if fewer than
    two training pictures can be read.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(records))[:PICTURES])
    pooled = _pooled(encode, [records[int(place)].path for place in chosen], settings)
    if len(pooled) < 2:
        raise UserError(
            f"--fit-confidence: only {len(pooled)} training pictures can be read; the fit compares pictures with them, "
            "so give the data that the captioner was trained on"
        )
    return Subspace.of(pooled)


def _pooled(encode: Callable[[np.ndarray], np.ndarray], paths: Sequence[Path], settings: EncoderSettings) -> np.ndarray:
    """The mean over the regions of the features of each readable picture, float32 ``(N, D)``."""
    size = settings.extract_batch_size
    batches = [[str(path) for path in paths[start : start + size]] for start in range(0, len(paths), size)]
    found = []
    with ThreadPoolExecutor(settings.workers) as pool:
        ahead = load_ahead(pool, batches, lambda name: load_image(name, settings.image_size), settings.image_size, size)
        for batch, (pixels, reasons) in zip(batches, ahead, strict=True):
            features = encode(pixels).astype("float32").mean(axis=1)
            found += [features[place] for place in range(len(batch)) if place not in reasons]
    return np.asarray(found)
