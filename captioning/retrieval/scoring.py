"""Scores of retrieval: how high the right items rank with the towers alone, and in a captioner's order.

Legend: I images, N captions, K candidates, J size of the joint space, R regions, D feature size.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from captioning.data.records import ImageRecord
from captioning.features.batches import FeatureBatches
from captioning.features.store import FeatureStore
from captioning.metrics.recall import CUTS, SIDES, retrieval
from captioning.reports.tables import markdown
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.judge import judgements
from captioning.retrieval.ranking import (
    KINDS,
    TRIED_COSINE_WEIGHTS,
    Reranking,
    background,
    rank,
    reranked_ranks,
    score,
)


@dataclass(frozen=True)
class CaptionerOrder:
    """The captioner's order with which a row was scored (see ``ranking.Reranking``)."""

    captioner: str
    candidates: int
    kind: str
    cosine_weight: float


@dataclass(frozen=True)
class RetrievalScores:
    """The scores of one way to rank: a row of the table, and an entry of the file of scores.

    ``ranking``: the way in words. ``image_to_text`` and ``text_to_image``: see ``metrics.recall.summary``. ``recall``:
    the sum of their six recalls, at most 600. ``reranking``: None for the towers alone.
    """

    ranking: str
    image_to_text: dict[str, float]
    text_to_image: dict[str, float]
    recall: float
    seconds: float
    reranking: CaptionerOrder | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of the file of scores."""
        entry = {name: getattr(self, name) for name in ("ranking", *SIDES, "recall")}
        if self.reranking:
            entry["reranking"] = asdict(self.reranking)
        return entry | {"seconds": self.seconds}


def score_records(
    aligner: Aligner,
    store: FeatureStore,
    records: Sequence[ImageRecord],
    batch_size: int,
    workers: int,
    reranking: Reranking | None = None,
    captioner_store: FeatureStore | None = None,
    choose: bool = False,
) -> list[RetrievalScores]:
    """Score retrieval among the images and captions of ``records``.

    The first row is for the towers alone. ``store`` has the images' features. ``workers`` threads read them in batches
    of ``batch_size``. With ``reranking`` more rows follow (see ``score_reranked``). They need ``captioner_store``,
    which has the features of the same images for the captioner.
    """
    names = [record.file_name for record in records]
    texts = [text for record in records for text in record.captions]
    image_of = np.repeat(np.arange(len(records)), [len(record.captions) for record in records])
    began = time.perf_counter()
    features = FeatureBatches(store, names, batch_size, workers)
    images, captions = aligner.embed_features(features)[: len(names)], aligner.embed_texts(texts)
    found = score(images, captions, image_of)
    rows = [RetrievalScores("two towers", seconds=time.perf_counter() - began, **found)]
    if reranking and captioner_store:
        row_of_image = np.asarray([captioner_store.rows[name] for name in names])

        def read(numbers: np.ndarray) -> np.ndarray:
            return captioner_store.read(row_of_image[numbers])

        rows += score_reranked(images, captions, image_of, texts, read, reranking, choose)
    return rows


def score_reranked(
    images: np.ndarray,
    captions: np.ndarray,
    image_of: np.ndarray,
    texts: Sequence[str],
    read: Callable[[np.ndarray], np.ndarray],
    reranking: Reranking,
    choose: bool,
) -> list[RetrievalScores]:
    """The scores when the captioner orders the first candidates of the towers.

    The first rows are for each kind of opinion without the cosine. The last row is for ``reranking``. With ``choose``
    the last rows are instead for each kind with the best of ``TRIED_COSINE_WEIGHTS``.

    ``images (I, J)``, ``captions (N, J)`` and ``image_of (N,)``: see ``ranking.score``. ``texts`` are the N captions.
    ``read`` takes numbers of images, int ``(some,)``, and gives the captioner's float features ``(some, R, D)``.
    """
    began = time.perf_counter()
    numbers = np.arange(len(images))
    count = min(reranking.candidates, len(images))
    of_image = rank(images, captions, numbers, image_of, count)
    of_caption = rank(captions, images, image_of, numbers, count)
    pairs = np.stack([np.repeat(numbers, count), of_image.candidates.ravel()], axis=1)
    on_captions = judgements(reranking.captioner, read, texts, pairs, background(len(images)))
    pairs = np.stack([of_caption.candidates.ravel(), np.repeat(np.arange(len(captions)), count)], axis=1)
    on_images = judgements(reranking.captioner, read, texts, pairs)
    seconds = time.perf_counter() - began

    def row(kind: str, weight: float) -> RetrievalScores:
        directions = (of_image, on_captions, numbers, image_of), (of_caption, on_images, image_of, numbers)
        ranks = [
            reranked_ranks(ranking, opinion[kind].reshape(-1, count) + weight * ranking.cosines, queries, items)
            for ranking, opinion, queries, items in directions
        ]
        way = f"{count} re-ranked by {reranking.name}: {kind}" + (f" + {weight:g} cosine" if weight else "")
        order = CaptionerOrder(reranking.name, count, kind, weight)
        return RetrievalScores(way, seconds=seconds, reranking=order, **retrieval(*ranks))

    rows = [row(kind, 0) for kind in KINDS]
    if not choose:
        return [*rows, row(reranking.kind, reranking.cosine_weight)]
    return rows + [
        max((row(kind, weight) for weight in TRIED_COSINE_WEIGHTS), key=lambda found: found.recall) for kind in KINDS
    ]


def best_order(rows: Sequence[RetrievalScores]) -> CaptionerOrder:
    """The order with the largest sum of recalls. ``rows`` end with those that ``choose`` adds, one for each kind."""
    chosen = [(row.recall, row.reranking) for row in rows[-len(KINDS) :] if row.reranking]
    return max(chosen, key=lambda pair: pair[0])[1]


def table(aligner: str, split: str, rows: Sequence[RetrievalScores]) -> str:
    """The scores as a Markdown table.

    i2t is image to text, whose gallery is the captions. t2i is text to image, whose gallery is the images.
    """
    lines = []
    for row in rows:
        line = {"aligner": aligner, "split": split, "ranking": row.ranking}
        line |= {"images": f"{row.text_to_image['gallery']:,}", "captions": f"{row.image_to_text['gallery']:,}"}
        for found, short in ((row.image_to_text, "i2t"), (row.text_to_image, "t2i")):
            line |= {f"{short} R@{cut}": f"{found[f'r{cut}']:.1f}" for cut in CUTS}
            line |= {f"{short} median": f"{found['median_rank']:g}", f"{short} MRR": f"{found['mrr']:.1f}"}
        lines.append(line)
    return markdown(lines)
