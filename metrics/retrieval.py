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

    ``scores`` (Q, G), higher is better; item g is right for query q where ``gallery[g] == queries[q]``. Raises ValueError
    for a query without a right item.
    """
    ranks = np.empty(len(queries))
    for number, (line, query) in enumerate(zip(scores, queries, strict=True)):
        line = np.where(np.isnan(line), -np.inf, line)
        is_right = gallery == query
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


def retrieval(image_scores: np.ndarray, text_scores: np.ndarray, image_of: np.ndarray) -> dict[str, Any]:
    """Both directions, from the scores of captions for each image (I, N) and of images for each caption (N, I).

    ``image_of`` int (N,): each caption's image. Gives ``image_to_text`` and ``text_to_image`` as in ``summary``, and
    ``recall``, the sum of their six recalls, at most 600.
    """
    images = np.arange(len(image_scores))
    found = {
        "image_to_text": summary(expected_ranks(image_scores, images, image_of), len(image_of)),
        "text_to_image": summary(expected_ranks(text_scores, image_of, images), len(images)),
    }
    return found | {"recall": sum(found[side][f"r{cut}"] for side in SIDES for cut in CUTS)}
