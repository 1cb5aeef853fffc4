"""Images for captions and captions for images: by the cosine of the two towers, and in a captioner's order if one is given.

Legend: I images, N captions, Q queries, G gallery, K found, S pixels per side, J joint size.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aligner import Aligner
from images import load_image, open_source
from index import ImageIndex, nearest
from metrics.retrieval import retrieval
from model import Captioner
from reranking import BACKGROUND, COSINE_WEIGHTS, KINDS, judgements, promoted


@dataclass(frozen=True)
class Reranking:
    """A captioner that puts the first ``candidates`` into a new order: by its likelihood, in one of the kinds, to which the
    cosine is added, times ``cosine_weight``."""

    captioner: Captioner
    name: str
    candidates: int
    kind: str
    cosine_weight: float


def score(similarities: np.ndarray, image_of: np.ndarray) -> dict[str, Any]:
    """How the towers alone retrieve, given their ``similarities`` (I, N), and (N,) the image of each caption."""
    return {"ranking": "two towers", **retrieval(similarities, similarities.T, image_of)}


def score_reranked(
    similarities: np.ndarray,
    image_of: np.ndarray,
    texts: Sequence[str],
    read: Callable[[np.ndarray], np.ndarray],
    reranking: Reranking,
    choose: bool,
) -> list[dict[str, Any]]:
    """The same of their first candidates in the captioner's order: by each kind of likelihood alone, then as asked for.

    ``read`` gives the captioner's features of images by number. To ``choose``, each kind is given the weight of the cosine
    that is best here, instead.
    """
    began = time.perf_counter()
    images, captions = similarities.shape
    count = min(reranking.candidates, images)
    captions_of, images_of = nearest(similarities, count), nearest(similarities.T, count)  # (I, K), (N, K)
    pairs = np.stack([np.repeat(np.arange(images), count), captions_of.ravel()], axis=1)
    of_captions = judgements(reranking.captioner, read, texts, pairs, _background(images))
    pairs = np.stack([images_of.ravel(), np.repeat(np.arange(captions), count)], axis=1)
    of_images = judgements(reranking.captioner, read, texts, pairs)
    seconds = time.perf_counter() - began

    def row(kind: str, weight: float) -> dict[str, Any]:
        sides = (similarities, captions_of, of_captions), (similarities.T, images_of, of_images)
        scores = []
        for cosines, candidates, judged in sides:
            judged = judged[kind].reshape(candidates.shape)
            judged = judged + weight * np.take_along_axis(cosines, candidates, axis=1)
            scores.append(promoted(cosines, candidates, judged))
        found = {"captioner": reranking.name, "candidates": count, "kind": kind, "cosine_weight": weight}
        ranking = f"{count} re-ranked by {reranking.name}: {kind}" + (f" + {weight:g} cosine" if weight else "")
        return {"ranking": ranking, **retrieval(*scores, image_of), "reranking": found, "seconds": seconds}

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
    found, cosines = index.search(aligner.embed_texts(queries), max(best, reranking.candidates if reranking else 0))

    def judge(candidates: np.ndarray) -> dict[str, np.ndarray]:
        images, image = np.unique(candidates, return_inverse=True)
        features = _features(reranking.captioner, [str(paths[index.images[i]]) for i in images])
        pairs = np.stack([image.ravel(), np.repeat(np.arange(len(queries)), candidates.shape[1])], axis=1)
        return judgements(reranking.captioner, features.__getitem__, queries, pairs)

    results = _in_order(found, cosines, judge, reranking)
    return [[{"image": str(paths[index.images[i]]), **scores} for i, scores in line[:best]] for line in results]


def search_captions(
    photos: Sequence[str],
    pixels: np.ndarray,
    aligner: Aligner,
    texts: Sequence[str],
    best: int,
    reranking: Reranking | None = None,
) -> list[list[dict[str, Any]]]:
    """For each of ``photos``, whose ``pixels`` (Q, S, S, 3) are given, the ``best`` of ``texts``, best first: ``caption``,
    ``cosine`` and, as in ``search_images``, ``log_prob``. A gain is taken over the average of the photos.
    """
    similarities = aligner.embed_pixels(pixels) @ aligner.embed_texts(texts).T
    found = nearest(similarities, max(best, reranking.candidates if reranking else 0))

    def judge(candidates: np.ndarray) -> dict[str, np.ndarray]:
        features = _features(reranking.captioner, photos)
        pairs = np.stack([np.repeat(np.arange(len(photos)), candidates.shape[1]), candidates.ravel()], axis=1)
        background = _background(len(photos)) if reranking.kind == "gain" else ()
        return judgements(reranking.captioner, features.__getitem__, texts, pairs, background)

    results = _in_order(found, np.take_along_axis(similarities, found, axis=1), judge, reranking)
    return [[{"caption": texts[i], **scores} for i, scores in line[:best]] for line in results]


def _in_order(
    found: np.ndarray,
    cosines: np.ndarray,
    judge: Callable[[np.ndarray], dict[str, np.ndarray]],
    reranking: Reranking | None,
) -> list[list[tuple[int, dict[str, float]]]]:
    """What was ``found`` (Q, K), with its scores, the first candidates in the order that the captioner wants."""
    log_p = np.full(found.shape, np.nan)
    if reranking:
        count = min(reranking.candidates, found.shape[1])
        kinds = {name: part.reshape(-1, count) for name, part in judge(found[:, :count]).items()}
        log_p[:, :count] = kinds["likelihood"]
        judged = kinds[reranking.kind] + reranking.cosine_weight * cosines[:, :count]
        order = np.tile(np.arange(found.shape[1]), (len(found), 1))
        order[:, :count] = nearest(judged, count)
        found, cosines, log_p = (np.take_along_axis(part, order, axis=1) for part in (found, cosines, log_p))
    return [
        [
            (int(i), {"cosine": float(cosine)} | ({"log_prob": float(log)} if log == log else {}))
            for i, cosine, log in zip(*line, strict=True)
        ]
        for line in zip(found, cosines, log_p, strict=True)
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
