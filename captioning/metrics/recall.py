"""Retrieval between images and captions: at which place of the ranked gallery the first right one stands. No Keras.

All captions of an image are right for it, and what counts is the best of them; a caption has one right image. Where
scores are equal, a rank is the one to expect if equals stood in random order. So a model that scores everything alike
ranks the right one in the middle, and what is no number ranks last.
"""

from typing import Any

import numpy as np

CUTS = (1, 5, 10)
SIDES = ("image_to_text", "text_to_image")


def expected_ranks(scores: np.ndarray, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The expected rank, from 1, of the first right item for each query: float64 (Q,).

    ``scores`` (Q, G), higher is better; item g is right for query q where ``gallery[g] == queries[q]``, or, if each query
    has a gallery of its own (Q, G), where ``gallery[q, g] == queries[q]``. Raises ValueError for a query without a right
    item.
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
    """Of ``ranks`` (Q,) in a gallery of so many items: ``r1``, ``r5`` and ``r10`` (per cent of the queries whose rank is
    at most that), ``median_rank``, ``mrr`` (mean reciprocal rank, times 100), ``queries`` and ``gallery``.
    """
    return {
        **{f"r{cut}": 100 * float((ranks <= cut).mean()) for cut in CUTS},
        "median_rank": float(np.median(ranks)),
        "mrr": 100 * float((1 / ranks).mean()),
        "queries": len(ranks),
        "gallery": gallery,
    }


def retrieval(image_ranks: np.ndarray, caption_ranks: np.ndarray) -> dict[str, Any]:
    """Both directions, from the ranks of each image's first right caption (I,) and of each caption's image (N,).

    Gives ``image_to_text`` and ``text_to_image`` as in ``summary``, and ``recall``, the sum of their six recalls, at most
    600.
    """
    found = {
        "image_to_text": summary(image_ranks, gallery=len(caption_ranks)),
        "text_to_image": summary(caption_ranks, gallery=len(image_ranks)),
    }
    return found | {"recall": sum(found[side][f"r{cut}"] for side in SIDES for cut in CUTS)}
