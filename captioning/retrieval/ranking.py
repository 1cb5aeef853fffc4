"""Which items of a gallery are nearest to a query, and at which rank the first right item stands. No Keras.

All vectors are unit vectors, so the product of two vectors is their cosine. The first items are the candidates. A
captioner may put them into another order (``Reranking``).
Legend: I images, N captions, Q queries, G items of the gallery, K items found or candidates, J size of the joint space.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from captioning.metrics.recall import expected_ranks, retrieval

if TYPE_CHECKING:
    from model import Captioner

# The kinds of a captioner's opinion on a pair of image and caption (see ``judge``), each with its default weight. The
# weight multiplies the cosine of the towers, which is added to the opinion. Its unit is nats, or nats per word.
DEFAULT_COSINE_WEIGHTS = {"likelihood": 20.0, "per-word": 2.0, "gain": 20.0}
KINDS = tuple(DEFAULT_COSINE_WEIGHTS)
# The weights among which ``retrieve.py --choose`` looks for the best one.
TRIED_COSINE_WEIGHTS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
BACKGROUND = 10  # images over which the gain averages the likelihood of a caption

_BLOCK = 1 << 24  # cosines in memory at a time


@dataclass(frozen=True)
class Reranking:
    """A captioner that puts the first ``candidates`` of a ranking into another order.

    The new order follows the captioner's opinion of this ``kind``, plus ``cosine_weight`` times the cosine.
    """

    captioner: "Captioner"
    name: str
    candidates: int
    kind: str
    cosine_weight: float


class Ranking(NamedTuple):
    """How the towers rank a gallery of G items for each of Q queries. The first K items are the candidates.

    ``ranks`` float64 ``(Q,)``: the rank of the first right item (see ``metrics.recall.expected_ranks``).
    ``candidates`` int ``(Q, K)``: rows of the gallery, best first. ``cosines`` float64 ``(Q, K)``: their cosines.
    ``behind`` float64 ``(Q,)``: the rank of the first right item where no candidate is right.
    """

    ranks: np.ndarray
    candidates: np.ndarray
    cosines: np.ndarray
    behind: np.ndarray


def cosines(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The cosines of ``queries (Q, J)`` with ``gallery (G, J)``, both float32 unit vectors, in blocks of queries.

    Yields the queries of a block, and their cosines float32 ``(some, G)``. So memory does not grow with Q times G.
    """
    step = max(1, _BLOCK // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        chosen = slice(start, start + step)
        yield chosen, queries[chosen] @ gallery.T


def neighbours(queries: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` items of ``gallery (G, J)`` that are nearest to each of ``queries (Q, J)``, best first.

    Both are float32 unit vectors. Returns rows of the gallery, int ``(Q, K)``, and their cosines, float32 ``(Q, K)``. K
    is ``count``, or G if that is less.
    """
    count = min(count, len(gallery))
    found, values = np.empty((len(queries), count), dtype=np.intp), np.empty((len(queries), count), dtype=np.float32)
    for chosen, block in cosines(queries, gallery):
        found[chosen] = nearest(block, count)
        values[chosen] = np.take_along_axis(block, found[chosen], axis=1)
    return found, values


def nearest_others(vectors: np.ndarray, count: int) -> np.ndarray:
    """For each of G ``vectors (G, J)``, float32 unit vectors, the ``count`` nearest others, which must be below G.

    Returns rows, int64 ``(G, count)``, in no order. The work grows with the square of G.
    """
    found = np.empty((len(vectors), count), np.int64)
    step = max(1, _BLOCK // len(vectors))
    for start in range(0, len(vectors), step):
        cosines = vectors[start : start + step] @ vectors.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -np.inf  # nothing is its own other
        found[start : start + step] = np.argpartition(cosines, -count)[:, -count:]
    return found


def nearest(similarities: np.ndarray, count: int) -> np.ndarray:
    """The columns of the ``count`` largest numbers in each row of ``similarities`` float ``(Q, G)``, largest first.

    Returns int ``(Q, K)``. K is ``count``, or G if that is less. Equal numbers keep their order. NaN comes last.
    """
    count = min(count, similarities.shape[1])
    similarities = np.where(np.isnan(similarities), -np.inf, similarities)
    rest = similarities.shape[1] - count
    found = np.argpartition(similarities, rest - 1, axis=1)[:, rest:] if rest else np.arange(count)[None]
    found = np.broadcast_to(found, (len(similarities), count))
    order = np.lexsort((found, -np.take_along_axis(similarities, found, axis=1)), axis=1)
    return np.take_along_axis(found, order, axis=1)


def rank(
    queries: np.ndarray, gallery: np.ndarray, image_of_query: np.ndarray, image_of_item: np.ndarray, count: int
) -> Ranking:
    """How ``gallery (G, J)`` ranks for ``queries (Q, J)``, both float32 unit vectors, with ``count`` candidates.

    An item is right if it belongs to the image of the query: ``image_of_query`` int ``(Q,)``, ``image_of_item`` int
    ``(G,)``.
    """
    count = min(count, len(gallery))
    found = Ranking(
        np.empty(len(queries)),
        np.empty((len(queries), count), dtype=np.intp),
        np.empty((len(queries), count)),
        np.empty(len(queries)),
    )
    for some, block in cosines(queries, gallery):
        found.ranks[some] = expected_ranks(block, image_of_query[some], image_of_item)
        if count:
            found.candidates[some] = nearest(block, count)
            found.cosines[some] = np.take_along_axis(block, found.candidates[some], axis=1)
            # Infinite cosines put all candidates before the other items.
            np.put_along_axis(block, found.candidates[some], np.inf, axis=1)
            found.behind[some] = expected_ranks(block, image_of_query[some], image_of_item)
    return found


def reranked_ranks(
    ranking: Ranking, judged: np.ndarray, image_of_query: np.ndarray, image_of_item: np.ndarray
) -> np.ndarray:
    """The rank of the first right item, float64 ``(Q,)``, after ``judged`` float ``(Q, K)`` has ordered the candidates.

    The highest candidate comes first. The candidates stay before all other items, which keep their order.
    ``image_of_query`` and ``image_of_item``: see ``rank``.
    """
    images = image_of_item[ranking.candidates]
    is_candidate = (images == image_of_query[:, None]).any(axis=1)
    ranks = ranking.behind.copy()
    ranks[is_candidate] = expected_ranks(judged[is_candidate], image_of_query[is_candidate], images[is_candidate])
    return ranks


def score(images: np.ndarray, captions: np.ndarray, image_of: np.ndarray) -> dict[str, Any]:
    """How well the towers retrieve in both directions, as ``metrics.recall.retrieval`` reports it.

    ``images (I, J)`` and ``captions (N, J)`` are float32 unit vectors. ``image_of`` int ``(N,)`` is the number of each
    caption's image.
    """
    numbers = np.arange(len(images))
    of_image = rank(images, captions, numbers, image_of, 0)
    of_caption = rank(captions, images, image_of, numbers, 0)
    return retrieval(of_image.ranks, of_caption.ranks)


def background(images: int) -> np.ndarray:
    """The numbers of at most ``BACKGROUND`` of ``images`` images, evenly spread: int ``(at most BACKGROUND,)``."""
    return np.unique(np.linspace(0, images - 1, BACKGROUND).astype(int))
