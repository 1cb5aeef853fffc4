"""Searches: images for captions, captions for images, and images for images.

The towers find the nearest items. The first of them are the candidates. A captioner may put these into another order.
Images for an image are also compared with it by their pixels, which shows near-duplicates (``pictures.likeness``).
Legend: Q queries, K results or candidates, S pixels per side, B images, R regions, D feature size.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from captioning.base.errors import UserError
from captioning.pictures.likeness import BOUND, grey, likeness, outlines, thumbnail
from captioning.pictures.loading import UnreachableImage, UnreadableImage, load_image, open_source
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.index import ImageIndex
from captioning.retrieval.judge import judgements
from captioning.retrieval.ranking import Reranking, background, nearest, neighbours
from captioning.words.vocabulary import Vocabulary
from model import Captioner


@dataclass(frozen=True)
class Match:
    """One result of a query.

    ``found``: the path of an image, or a caption. ``cosine``: of the towers' vectors. ``log_prob``: log p(caption |
    image) in nats, or None if no captioner has read the pair. ``likeness``: that of an image with a query image, or
    None for other queries.
    """

    kind: Literal["image", "caption"]
    found: str
    cosine: float
    log_prob: float | None
    likeness: float | None = None

    @property
    def is_near_duplicate(self) -> bool:
        """Whether this is a copy of the query image, changed a little perhaps."""
        return self.likeness is not None and self.likeness >= BOUND

    def to_json(self) -> dict[str, Any]:
        """``{"image" or "caption": ..., "cosine": ..., "log_prob": ...}``. A ``log_prob`` of None is left out.

        For a query image also ``"likeness"`` and ``"near_duplicate"``.
        """
        found: dict[str, Any] = {self.kind: self.found, "cosine": self.cosine}
        if self.log_prob is not None:
            found["log_prob"] = self.log_prob
        if self.likeness is not None:
            found |= {"likeness": self.likeness, "near_duplicate": self.is_near_duplicate}
        return found


def unknown_words(query: str, vocabulary: Vocabulary) -> list[str]:
    """The words of ``query`` that the model does not know. Raises UserError if it knows none of them."""
    words = vocabulary.split(query)
    unknown = [word for word in words if not vocabulary.knows(word)]
    if len(unknown) == len(words):
        raise UserError(f"query {query!r}: the model knows none of these words; say it in other words")
    return unknown


def search_images(
    queries: Sequence[str],
    aligner: Aligner,
    index: ImageIndex,
    paths: Mapping[str, Path],
    best: int,
    reranking: Reranking | None = None,
    report: Callable[[UnreadableImage], None] = lambda error: None,
) -> list[list[Match]]:
    """The ``best`` images of the index for each query, best first.

    ``paths`` has the path of each image of the index. An image is left out if it has vanished, or if a captioner cannot
    read it. ``report`` gets the error of each.
    """
    count = max(best, reranking.candidates if reranking else 0)
    judged = reranking.candidates if reranking else 0
    pixels: dict[int, np.ndarray] = {}

    def look(path: Path, row: int, rows: np.ndarray) -> None:
        if reranking and row not in pixels and row in rows[:, :judged]:
            pixels[row] = load_image(path, reranking.captioner.config.image_size)

    rows, cosines = _reachable(index, aligner.embed_texts(queries), count, paths, look, report)
    candidates = rows[:, :judged]
    found = _Found(rows, cosines, np.full(rows.shape, np.nan))
    if reranking and rows.size:
        images, image = np.unique(candidates, return_inverse=True)
        features = _encode(reranking.captioner, (pixels[row] for row in images.tolist()))
        pairs = np.stack([image.ravel(), np.repeat(np.arange(len(queries)), candidates.shape[1])], axis=1)
        opinions = judgements(reranking.captioner, features.__getitem__, queries, pairs)
        found = _reordered(found, reranking, opinions)
    return _matches("image", found, lambda row: str(paths[index.images[row]]), best)


# So many of the nearest images are compared with a query image. Copies are nearly always among the first few.
COMPARED = 50


def search_by_images(
    photos: Sequence[str],
    pixels: np.ndarray,
    aligner: Aligner,
    index: ImageIndex,
    paths: Mapping[str, Path],
    best: int,
    batch_size: int,
    report: Callable[[UnreadableImage], None] = lambda error: None,
) -> list[list[Match]]:
    """The near-duplicates of each of ``photos`` in the index, then the ``best`` other images, both most similar first.

    ``photos`` are paths and addresses. ``pixels``: their RGB pixels, uint8 ``(Q, S, S, 3)``. They are encoded
    ``batch_size`` at a time. ``paths``: see ``search_images``. A photo that is itself in the index is not among its
    results. An image that has vanished or cannot be read any more is left out, and ``report`` gets its error.
    """
    vectors = aligner.embed_pixels(pixels, batch_size)
    known: dict[int, np.ndarray] = {}

    def look(path: Path, row: int, rows: np.ndarray) -> None:
        if row not in known:
            known[row] = thumbnail(path)

    found: list[list[Match]] = []
    for photo, picture, vector in zip(photos, pixels, vectors, strict=True):
        rows, cosines = _reachable(index, vector[None], max(best, COMPARED) + 1, paths, look, report)
        asked, drawn = os.path.realpath(photo), outlines(grey(picture))
        matches = [
            Match("image", str(path), float(cosine), None, likeness(drawn, outlines(known[row])))
            for row, cosine in zip(rows[0].tolist(), cosines[0], strict=True)
            if os.path.realpath(path := paths[index.images[row]]) != asked
        ]
        copies = [match for match in matches if match.is_near_duplicate]
        found.append([*copies, *[match for match in matches if not match.is_near_duplicate][:best]])
    return found


def search_captions(
    photos: Sequence[str],
    pixels: np.ndarray,
    aligner: Aligner,
    texts: Sequence[str],
    best: int,
    batch_size: int,
    reranking: Reranking | None = None,
) -> list[list[Match]]:
    """The ``best`` of the captions ``texts`` for each of ``photos``, best first.

    ``pixels``: RGB pixels of the photos, uint8 ``(Q, S, S, 3)``. They are encoded ``batch_size`` at a time. The gain
    compares a photo with the average of the photos. Raises UnreadableImage if a captioner cannot read a photo.
    """
    count = max(best, reranking.candidates if reranking else 0)
    rows, cosines = neighbours(aligner.embed_pixels(pixels, batch_size), aligner.embed_texts(texts), count)
    found = _Found(rows, cosines, np.full(rows.shape, np.nan))
    if reranking:
        candidates = rows[:, : reranking.candidates]
        size = reranking.captioner.config.image_size
        features = _encode(reranking.captioner, (load_image(open_source(photo), size) for photo in photos))
        pairs = np.stack([np.repeat(np.arange(len(photos)), candidates.shape[1]), candidates.ravel()], axis=1)
        others = background(len(photos)) if reranking.kind == "gain" else ()
        opinions = judgements(reranking.captioner, features.__getitem__, texts, pairs, others)
        found = _reordered(found, reranking, opinions)
    return _matches("caption", found, lambda row: texts[row], best)


class _Found(NamedTuple):
    """What was found for each of Q queries, best first.

    ``rows`` int ``(Q, K)``: rows of the gallery. ``cosines`` float32 ``(Q, K)``. ``log_probs`` float64 ``(Q, K)``, NaN
    where no captioner has read the pair.
    """

    rows: np.ndarray
    cosines: np.ndarray
    log_probs: np.ndarray


def _reordered(found: _Found, reranking: Reranking, opinions: Mapping[str, np.ndarray]) -> _Found:
    """``found`` with the first candidates in the captioner's order. ``opinions``: float64 ``(Q * K,)`` of each kind."""
    count = min(reranking.candidates, found.rows.shape[1])
    log_probs = found.log_probs.copy()
    log_probs[:, :count] = opinions["likelihood"].reshape(-1, count)
    judged = opinions[reranking.kind].reshape(-1, count) + reranking.cosine_weight * found.cosines[:, :count]
    order = np.tile(np.arange(found.rows.shape[1]), (len(found.rows), 1))
    order[:, :count] = nearest(judged, count)
    return _Found(*(np.take_along_axis(part, order, axis=1) for part in (found.rows, found.cosines, log_probs)))


def _matches(
    kind: Literal["image", "caption"], found: _Found, name: Callable[[int], str], best: int
) -> list[list[Match]]:
    """The first ``best`` results of each query. ``name`` gives the path or caption of a row."""
    return [
        [
            Match(kind, name(row), float(cosine), None if np.isnan(log_prob) else float(log_prob))
            for row, cosine, log_prob in zip(*line, strict=True)
        ]
        for line in zip(*(part[:, :best] for part in found), strict=True)
    ]


def _reachable(
    index: ImageIndex,
    vectors: np.ndarray,
    count: int,
    paths: Mapping[str, Path],
    look: Callable[[Path, int, np.ndarray], None],
    report: Callable[[UnreadableImage], None],
) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` images of the index that are nearest to ``vectors (Q, J)``, without those that cannot be read now.

    ``look`` gets the path and row of each image that was found, and all rows int ``(Q, K)``. It may read the image, and
    raise UnreadableImage. ``report`` gets that error, or that of an image that has vanished. Returns rows int ``(Q,
    K)`` and cosines float32 ``(Q, K)``.
    """
    gone: set[int] = set()
    while True:
        rows, cosines = _without(gone, *index.search(vectors, count + len(gone)), count)
        before = len(gone)
        for row in np.unique(rows).tolist():
            path = paths[index.images[row]]
            try:
                look(path, row, rows)
                if not path.is_file():
                    raise UnreachableImage(f"{path}: has vanished since it was indexed")
            except UnreadableImage as error:
                report(error)
                gone.add(row)
        if len(gone) == before:
            return rows, cosines


def _without(gone: set[int], rows: np.ndarray, cosines: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` of ``rows`` int ``(Q, K)`` that are not ``gone``, and their ``cosines`` float32 ``(Q, K)``.

    All queries get equally many. If one query has fewer rows left, all get that number.
    """
    if not gone:
        return rows, cosines
    left = [np.flatnonzero(~np.isin(line, list(gone))) for line in rows]
    chosen = np.stack([places[: min(count, *map(len, left))] for places in left])
    return np.take_along_axis(rows, chosen, axis=1), np.take_along_axis(cosines, chosen, axis=1)


def _encode(captioner: Captioner, pictures: Iterator[np.ndarray]) -> np.ndarray:
    """The captioner's features ``(B, R, D)`` of B pictures, uint8 RGB ``(S, S, 3)`` each."""
    step, batches = captioner.config.extract_batch_size, []
    while batch := list(islice(pictures, step)):
        batches.append(captioner.encode(np.stack(batch)))
    return np.concatenate(batches)
