"""Similar images: those whose features lie nearest to one another.

Legend: I images, K similar ones of each, R regions, D feature size.
"""

import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.base.progress import track
from captioning.base.regions import mean_over_regions, region_mask
from captioning.features.store import FeatureStore
from captioning.retrieval.ranking import nearest_others

_READ = 512  # images that are read at once


def most_similar(store: FeatureStore, rows: np.ndarray, count: int) -> np.ndarray:
    """For each image in ``rows (I,)`` of the store, the places in ``rows`` of the ``count`` most similar others.

    Similarity is the cosine of the mean of an image's features over its regions, less the mean over all images. Returns
    int64 ``(I, count)``, in no order. The work grows with the square of I: 45,000 images take about two minutes on two
    cores, and memory for I x D numbers and some more. Raises UserError where there are not more than ``count``
    images.
    """
    if len(rows) <= count:
        raise UserError(
            f"similar_images: {count} similar ones of each image are wanted, and {len(rows)} images are trained on; "
            "choose a smaller number, or --similar-weight 0"
        )
    vectors = np.empty((len(rows), store.feature_size), "float32")
    starts = track(range(0, len(rows), _READ), "similar images", "batches")
    for start in starts:
        chosen = slice(start, start + _READ)
        vectors[chosen] = _pooled(store.read(rows[chosen]), store.padded)
    vectors -= vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return nearest_others(vectors, count)


def _pooled(features: np.ndarray, padded: bool) -> np.ndarray:
    """The mean over the regions, float32 ``(B, D)``, of ``features (B, R, D)``, some of which may be ``padded``."""
    if padded:
        return ops.convert_to_numpy(mean_over_regions(features.astype("float32"), region_mask(features)))
    return features.mean(axis=1, dtype="float32")
