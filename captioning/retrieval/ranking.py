"""Images for captions and captions for images: by the cosine of the two towers, and in a captioner's order if one is given.

Legend: I images, N captions, Q queries, G gallery, K found, S pixels per side, J joint size.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from captioning.metrics.recall import expected_ranks, retrieval
from captioning.pictures.loading import load_image, open_source
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.index import ImageIndex, cosines, nearest, neighbours
from captioning.retrieval.judge import BACKGROUND, COSINE_WEIGHTS, KINDS, judgements
from model import Captioner


@dataclass(frozen=True)
class Reranking:
    """A captioner that puts the first ``candidates`` into a new order: by its likelihood, in one of the kinds, to which the
    cosine is added, times ``cosine_weight``."""

    captioner: Captioner
    name: str
    candidates: int
    kind: str
    cosine_weight: float


class Ranking(NamedTuple):
    """How the towers rank a gallery of G for each of Q queries, and its first K, the candidates for another order.

    ``ranks`` float64 (Q,): where the first right one stands (``metrics.retrieval.expected_ranks``). ``candidates`` int
    (Q, K) and their ``cosines`` (Q, K), best first. ``behind`` float64 (Q,): where the first right one stands when it is not
    among the candidates.
    """

    ranks: np.ndarray
    candidates: np.ndarray
    cosines: np.ndarray
    behind: np.ndarray


def rank(
    queries: np.ndarray, gallery: np.ndarray, image_of_query: np.ndarray, image_of_item: np.ndarray, count: int
) -> Ranking:
    """The ranking of unit vectors ``gallery`` (G, J) for ``queries`` (Q, J), with ``count`` candidates.

    An item is right when it belongs to the query's image: ``image_of_query`` int (Q,), ``image_of_item`` int (G,).
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
            np.put_along_axis(block, found.candidates[some], np.inf, axis=1)
            found.behind[some] = expected_ranks(block, image_of_query[some], image_of_item)
    return found


def reranked_ranks(
    ranking: Ranking, judged: np.ndarray, image_of_query: np.ndarray, image_of_item: np.ndarray
) -> np.ndarray:
    """The ranks (Q,) when the candidates come first, by their ``judged`` (Q, K), and then all others as before."""
    images = image_of_item[ranking.candidates]
    there = (images == image_of_query[:, None]).any(axis=1)
    ranks = ranking.behind.copy()
    ranks[there] = expected_ranks(judged[there], image_of_query[there], images[there])
    return ranks


def score(images: np.ndarray, captions: np.ndarray, image_of: np.ndarray) -> dict[str, Any]:
    """How the towers alone retrieve, given their vectors (I, J) and (N, J), and int (N,) the image of each caption."""
    numbers = np.arange(len(images))
    found = rank(images, captions, numbers, image_of, 0), rank(captions, images, image_of, numbers, 0)
    return {"ranking": "two towers", **retrieval(*(each.ranks for each in found))}


def score_reranked(
    images: np.ndarray,
    captions: np.ndarray,
    image_of: np.ndarray,
    texts: Sequence[str],
    read: Callable[[np.ndarray], np.ndarray],
    reranking: Reranking,
    choose: bool,
) -> list[dict[str, Any]]:
    """The same of their first candidates in the captioner's order: by each kind of likelihood alone, then as asked for.

    ``texts``: the captions in words. ``read`` gives the captioner's features of images by number. To ``choose``, each kind
    is given the weight of the cosine that is best here, instead.
    """
    began = time.perf_counter()
    numbers = np.arange(len(images))
    count = min(reranking.candidates, len(images))
    of_image = rank(images, captions, numbers, image_of, count)
    of_caption = rank(captions, images, image_of, numbers, count)
    pairs = np.stack([np.repeat(numbers, count), of_image.candidates.ravel()], axis=1)
    of_captions = judgements(reranking.captioner, read, texts, pairs, _background(len(images)))
    pairs = np.stack([of_caption.candidates.ravel(), np.repeat(np.arange(len(captions)), count)], axis=1)
    of_images = judgements(reranking.captioner, read, texts, pairs)
    seconds = time.perf_counter() - began

    def row(kind: str, weight: float) -> dict[str, Any]:
        sides = (of_image, of_captions, numbers, image_of), (of_caption, of_images, image_of, numbers)
        ranks = [
            reranked_ranks(ranking, judged[kind].reshape(-1, count) + weight * ranking.cosines, queries, items)
            for ranking, judged, queries, items in sides
        ]
        found = {"captioner": reranking.name, "candidates": count, "kind": kind, "cosine_weight": weight}
        ranking = f"{count} re-ranked by {reranking.name}: {kind}" + (f" + {weight:g} cosine" if weight else "")
        return {"ranking": ranking, **retrieval(*ranks), "reranking": found, "seconds": seconds}

    rows = [row(kind, 0) for kind in KINDS]
    if not choose:
        return [*rows, row(reranking.kind, reranking.cosine_weight)]
    return rows + [
        max((row(kind, weight) for weight in COSINE_WEIGHTS), key=lambda found: found["recall"]) for kind in KINDS
    ]


def search_images(
    queries: Sequence[str],
    aligner: Aligner,
    index: ImageIndex,
    paths: Mapping[str, Path],
    best: int,
    reranking: Reranking | None = None,
) -> list[list[dict[str, Any]]]:
    """For each query the ``best`` images of the index, best first: ``image`` (its path), ``cosine`` and ``log_prob``.

    The last, log p(query | image), is there where the captioner has read the image. Raises UnreadableImage.
    """
    count = max(best, reranking.candidates if reranking else 0)
    found, similarities = index.search(aligner.embed_texts(queries), count)

    def judge(candidates: np.ndarray) -> dict[str, np.ndarray]:
        images, image = np.unique(candidates, return_inverse=True)
        features = _features(reranking.captioner, [str(paths[index.images[i]]) for i in images])
        pairs = np.stack([image.ravel(), np.repeat(np.arange(len(queries)), candidates.shape[1])], axis=1)
        return judgements(reranking.captioner, features.__getitem__, queries, pairs)

    results = _in_order(found, similarities, judge, reranking)
    return [[{"image": str(paths[index.images[i]]), **scores} for i, scores in line[:best]] for line in results]


def search_captions(
    photos: Sequence[str],
    pixels: np.ndarray,
    aligner: Aligner,
    texts: Sequence[str],
    best: int,
    batch_size: int,
    reranking: Reranking | None = None,
) -> list[list[dict[str, Any]]]:
    """For each of ``photos``, whose ``pixels`` (Q, S, S, 3) are given and encoded in batches, the ``best`` of ``texts``, best first: ``caption``,
    ``cosine`` and, as in ``search_images``, ``log_prob``. A gain is taken over the average of the photos.
    """
    count = max(best, reranking.candidates if reranking else 0)
    found, similarities = neighbours(aligner.embed_pixels(pixels, batch_size), aligner.embed_texts(texts), count)

    def judge(candidates: np.ndarray) -> dict[str, np.ndarray]:
        features = _features(reranking.captioner, photos)
        pairs = np.stack([np.repeat(np.arange(len(photos)), candidates.shape[1]), candidates.ravel()], axis=1)
        background = _background(len(photos)) if reranking.kind == "gain" else ()
        return judgements(reranking.captioner, features.__getitem__, texts, pairs, background)

    results = _in_order(found, similarities, judge, reranking)
    return [[{"caption": texts[i], **scores} for i, scores in line[:best]] for line in results]


def _in_order(
    found: np.ndarray,
    similarities: np.ndarray,
    judge: Callable[[np.ndarray], dict[str, np.ndarray]],
    reranking: Reranking | None,
) -> list[list[tuple[int, dict[str, float]]]]:
    """What was ``found`` (Q, K), with its ``similarities``, the first candidates in the order that the captioner wants."""
    log_p = np.full(found.shape, np.nan)
    if reranking:
        count = min(reranking.candidates, found.shape[1])
        kinds = {name: part.reshape(-1, count) for name, part in judge(found[:, :count]).items()}
        log_p[:, :count] = kinds["likelihood"]
        judged = kinds[reranking.kind] + reranking.cosine_weight * similarities[:, :count]
        order = np.tile(np.arange(found.shape[1]), (len(found), 1))
        order[:, :count] = nearest(judged, count)
        found, similarities, log_p = (np.take_along_axis(part, order, axis=1) for part in (found, similarities, log_p))
    return [
        [
            (int(i), {"cosine": float(cosine)} | ({"log_prob": float(log)} if log == log else {}))
            for i, cosine, log in zip(*line, strict=True)
        ]
        for line in zip(found, similarities, log_p, strict=True)
    ]


def _background(images: int) -> np.ndarray:
    """The numbers of the images, out of so many, that averages are taken over."""
    return np.unique(np.linspace(0, images - 1, BACKGROUND).astype(int))


def _features(captioner: Captioner, photos: Sequence[str]) -> np.ndarray:
    """The captioner's features ``(B, R, D)`` of photos."""
    size, step = captioner.config.image_size, captioner.config.extract_batch_size
    batches = [photos[start : start + step] for start in range(0, len(photos), step)]
    return np.concatenate(
        [captioner.encode([load_image(open_source(photo), size) for photo in batch]) for batch in batches]
    )
