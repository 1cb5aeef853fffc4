"""Rows of word ids, filled up to one length. No Keras."""

from collections.abc import Sequence

import numpy as np

from captioning.words.vocabulary import PAD


def pad(rows: Sequence[np.ndarray], width: int = 0) -> np.ndarray:
    """``rows`` of ids, each int ``(T,)``, as one array int32 ``(len(rows), width)``. Rows end with ``<pad>``.

    ``width``: columns of the array, at least as many as the longest row has; 0: exactly as many.
    """
    padded = np.full((len(rows), width or max(map(len, rows))), PAD, dtype=np.int32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
