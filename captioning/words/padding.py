"""Rows of word ids made equally long."""

from collections.abc import Sequence

import numpy as np

from captioning.words.vocabulary import PAD


def pad(rows: Sequence[np.ndarray], width: int = 0) -> np.ndarray:
    """``rows`` of ids, each int ``(T,)``, as int32 ``(len(rows), width)`` with ``<pad>`` behind each.

    ``width``: at least that of the longest row, which is the default.
    """
    padded = np.full((len(rows), width or max(map(len, rows))), PAD, dtype=np.int32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
