"""Regions that only fill up a batch, where images have different numbers of regions: how they are known and left out.

Such a region holds zeros only. This is the one place that says so. Features ``(B, R, D)`` so carry their own mask, and
a region of an image that holds zeros only is left out too.
Legend: B images, R regions, D feature size, X any size.
"""

from typing import Any


def region_mask(features: Any) -> Any:
    """Bool ``(B, R)``, false where a region of ``features (B, R, D)`` only fills up."""
    from keras import ops

    return ops.any(ops.not_equal(features, 0), axis=-1)


def mean_over_regions(values: Any, mask: Any = None) -> Any:
    """The mean ``(B, X)`` of float ``values (B, R, X)`` over the regions where bool ``mask (B, R)`` is true.

    No mask: over all regions. An image without regions has zeros.
    """
    from keras import ops

    if mask is None:
        return ops.mean(values, axis=1)
    counted = ops.cast(mask, values.dtype)
    return ops.sum(values * counted[..., None], axis=1) / ops.maximum(ops.sum(counted, axis=1, keepdims=True), 1)


def masked(scores: Any, mask: Any = None) -> Any:
    """Float ``scores`` with -3e4 where bool ``mask``, which broadcasts to them, is false. No mask: as they are.

    Softmax gives such a score the weight 0. Float16 holds it, and no number below -65,504.
    """
    from keras import ops

    return scores if mask is None else ops.where(mask, scores, -3e4)
