"""Recall of retrieval between images and captions: the place of the first right item in the ranked gallery. No Keras.

An image has several right captions, and the best of them counts. A caption has one right image. Items with equal
scores share the rank that is expected if they stood in random order. So a model that scores everything alike ranks the
right item in the middle. NaN ranks last.
"""

from typing import Any

import numpy as np

CUTS = (1, 5, 10)  # the k of R@k
SIDES = ("image_to_text", "text_to_image")


def expected_ranks(scores: np.ndarray, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The expected rank, from 1, of the first right item for each query: float64 ``(Q,)``.

    ``scores`` float ``(Q, G)``: higher is better. ``queries`` int ``(Q,)`` and ``gallery`` int ``(G,)``: item g is
    right for query q if ``gallery[g] == queries[q]``. Each query may have a gallery of its own, int ``(Q, G)``. Then
    item g is right if ``gallery[q, g] == queries[q]``. Raises ValueError for a query without a right item.
    """
    ranks = np.empty(len(queries))
    galleries = np.broadcast_to(gallery, np.shape(scores))
    for number, (line, query, items) in enumerate(zip(scores, queries, galleries, strict=True)):
        line = np.where(np.isnan(line), -np.inf, line)
        is_right = items == query
        best = line[is_right].max()
        level = line == best
        right = np.count_nonzero(level & is_right)
        wrong = np.count_nonzero(level) - right
        # The first of ``right`` among ``wrong`` others in random order has wrong / (right + 1) of them before it.
        ranks[number] = np.count_nonzero(line > best) + 1 + wrong / (right + 1)
    return ranks


def summary(ranks: np.ndarray, gallery: int) -> dict[str, float]:
    """One direction of retrieval, from ``ranks`` float ``(Q,)`` in a gallery of ``gallery`` items.

    ``r1``, ``r5`` and ``r10``: per cent of the queries whose rank is at most 1, 5 and 10. ``mrr``: mean reciprocal
    rank, times 100. ``median_rank``, and the numbers of ``queries`` and of items in the ``gallery``.
    """
    return {
        **{f"r{cut}": 100 * float((ranks <= cut).mean()) for cut in CUTS},
        "median_rank": float(np.median(ranks)),
        "mrr": 100 * float((1 / ranks).mean()),
        "queries": len(ranks),
        "gallery": gallery,
    }


def retrieval(image_ranks: np.ndarray, caption_ranks: np.ndarray) -> dict[str, Any]:
    """Both directions of retrieval.

    ``image_ranks`` float ``(I,)``: the rank of each image's first right caption. ``caption_ranks`` float ``(N,)``: the
    rank of each caption's image. The result has ``image_to_text`` and ``text_to_image`` as ``summary`` gives them.
    ``recall`` is the sum of their six recalls, at most 600.
    """
    found: dict[str, Any] = {
        "image_to_text": summary(image_ranks, gallery=len(caption_ranks)),
        "text_to_image": summary(caption_ranks, gallery=len(image_ranks)),
    }
    return found | {"recall": sum(found[side][f"r{cut}"] for side in SIDES for cut in CUTS)}
