"""Searches that take candidates from faiss, and compute their cosines from the index's own vectors.

faiss (the extra "faiss", https://github.com/facebookresearch/faiss) does not compare a query with all pictures. So it
may miss some of the nearest. The recall says how many of them it finds. There are two kinds:

    hnsw     a graph that links near vectors, in 8 bits per number (Malkov and Yashunin, arXiv 1603.09320)
    ivfpq    lists of near vectors, in 2 bits per number (Jégou, Douze and Schmid, Product quantization, PAMI 2011)

``index_types`` keeps them on the disk. No Keras.
Legend: Q queries, K pictures found, F candidates, I pictures, J size of the joint space, P positions in faiss.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from captioning.retrieval.ranking import nearest, neighbours

QUERIES = 200  # of each sort, when the recall is measured; one half chooses the effort, the other gives the recall
_BEST = 10  # of recall@10
_WANTED = 0.99  # recall that the effort is chosen for
_ROUNDING = 1e-6  # cosines that differ by less are equal


class Kind(NamedTuple):
    """What one kind does its own way.

    ``type_name``: the class in faiss. ``settings``: what it is built with. ``efforts``: how far a search may look,
    smallest first. ``growth``: times as many pictures as it was made for, above which it is made anew.
    ``candidates``: F for K. ``make``: an empty faiss index for vectors ``(I, J)``, which has learned from them.
    ``parameters``: those of a search with an effort, a selector of positions, and F.
    """

    type_name: str
    settings: dict[str, int]
    efforts: tuple[int, ...]
    growth: float
    candidates: Callable[[int], int]
    make: Callable[[np.ndarray], Any]
    parameters: Callable[[int, Any, int], Any]


def _make_hnsw(vectors: np.ndarray) -> Any:
    import faiss

    settings, eight_bits = KINDS["hnsw"].settings, faiss.ScalarQuantizer.QT_8bit
    found = faiss.IndexHNSWSQ(vectors.shape[1], eight_bits, settings["links"], faiss.METRIC_INNER_PRODUCT)
    found.hnsw.efConstruction = settings["ef_construction"]
    found.train(_some(vectors, 100_000))  # learns the range of each of the J numbers
    return found


def _make_ivfpq(vectors: np.ndarray) -> Any:
    import faiss

    size, settings = vectors.shape[1], KINDS["ivfpq"].settings
    lists = max(1, round(settings["lists_per_root"] * math.sqrt(len(vectors))))
    parts = next(parts for parts in range(max(1, size // settings["numbers_per_byte"]), 0, -1) if size % parts == 0)
    found = faiss.IndexIVFPQ(faiss.IndexFlatIP(size), size, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
    for clustering in (found.cp, found.pq.cp):
        clustering.min_points_per_centroid = 1  # with fewer than 39, faiss would print a warning
        clustering.max_points_per_centroid = settings["pictures_per_centre"]
        clustering.niter = settings["rounds"]
    found.train(_some(vectors, max(lists, 256) * settings["pictures_per_centre"]))
    return found


def _hnsw_parameters(effort: int, selector: Any, count: int) -> Any:
    import faiss

    return faiss.SearchParametersHNSW(efSearch=max(effort, count), sel=selector)


def _ivfpq_parameters(effort: int, selector: Any, count: int) -> Any:
    import faiss

    return faiss.SearchParametersIVF(nprobe=effort, sel=selector)


KINDS: dict[str, Kind] = {
    "hnsw": Kind(
        "IndexHNSWSQ",
        {"links": 16, "ef_construction": 40},
        (16, 32, 64, 128, 256, 512, 1024),
        math.inf,
        lambda count: 2 * count + 10,
        _make_hnsw,
        _hnsw_parameters,
    ),
    "ivfpq": Kind(
        "IndexIVFPQ",
        {"lists_per_root": 2, "numbers_per_byte": 4, "pictures_per_centre": 64, "rounds": 10},
        (4, 8, 16, 32, 64, 128, 256),
        4,
        lambda count: 10 * count + 100,
        _make_ivfpq,
        _ivfpq_parameters,
    ),
}


def _some(vectors: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of ``vectors (I, J)``, drawn with a fixed seed, in their order and in memory."""
    if len(vectors) <= count:
        return np.ascontiguousarray(vectors)
    return vectors[np.sort(np.random.default_rng(0).choice(len(vectors), count, replace=False))]


@dataclass
class Approximate:
    """Searches with candidates from faiss.

    ``found``: the faiss index of this ``kind``, with P positions. ``keys`` uint64 ``(P,)``: what ``keys_of`` says of
    their vectors. ``rows`` int64 ``(P,)``: their rows in ``vectors`` float32 ``(I, J)``, -1 if a picture is gone.
    ``made_for``: for how many pictures ``found`` was made. ``effort`` and ``recall`` are measured, with ``measured``
    pictures. ``recall`` is empty before. ``fingerprint``: that of the index of the ``vectors``.
    """

    kind: str
    found: Any
    keys: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray
    made_for: int
    effort: int = 0
    measured: int = 0
    recall: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""

    @classmethod
    def made(cls, kind: str, vectors: np.ndarray) -> "Approximate":
        """One that has learned from ``vectors (I, J)`` and holds none of them yet."""
        empty = np.empty(0, np.uint64), np.empty(0, np.int64)
        return cls(kind, KINDS[kind].make(vectors), *empty, vectors, len(vectors))

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` pictures that are nearest to ``queries`` float32 ``(Q, J)``, in the form of ``neighbours``.

        Where faiss finds too few, and where it would gain nothing because so many are wanted, the search is exact.
        """
        queries, count = np.ascontiguousarray(queries, dtype=np.float32), min(count, len(self.vectors))
        wanted = KINDS[self.kind].candidates(count)
        if 4 * wanted > len(self.vectors):
            return neighbours(queries, self.vectors, count)
        rows, cosines = np.empty((len(queries), count), np.intp), np.empty((len(queries), count), np.float32)
        for number, candidates in enumerate(self._candidates(queries, wanted)):
            if len(candidates) < count:
                exact = neighbours(queries[number : number + 1], self.vectors, count)
                rows[number], cosines[number] = exact[0][0], exact[1][0]
            else:
                values = self.vectors[candidates] @ queries[number]
                order = nearest(values[None], count)[0]
                rows[number], cosines[number] = candidates[order], values[order]
        return rows, cosines

    def _candidates(self, queries: np.ndarray, wanted: int) -> Iterator[np.ndarray]:
        """For each of ``queries (Q, J)`` at most ``wanted`` rows, int64 and in ascending order."""
        parameters = KINDS[self.kind].parameters(self.effort, self._selector, wanted)
        for line in self.found.search(queries, wanted, params=parameters)[1]:
            yield np.sort(self.rows[line[line >= 0]])

    @cached_property
    def _selector(self) -> Any:
        """faiss' selector of the positions whose pictures are there, or None if all are."""
        import faiss

        if (self.rows >= 0).all():
            return None
        return faiss.IDSelectorBitmap(np.packbits(self.rows >= 0, bitorder="little"))

    def place(self, keys: np.ndarray) -> np.ndarray:
        """Set ``rows`` by the ``keys`` uint64 ``(I,)`` of the vectors. Returns the rows that faiss has not learned.

        Each of several equal vectors has a position of its own.
        """
        _, positions, rows = np.intersect1d(_unlike(self.keys), _unlike(keys), return_indices=True)
        self.rows = np.full(len(self.keys), -1, np.int64)
        self.rows[positions] = rows
        self.__dict__.pop("_selector", None)
        return np.setdiff1d(np.arange(len(keys)), rows)

    def add(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """Let faiss learn the vectors of ``rows`` int64 ``(n,)``. ``keys`` uint64 ``(n,)`` are theirs."""
        self.found.add(np.ascontiguousarray(self.vectors[rows]))
        self.rows, self.keys = np.concatenate([self.rows, rows]), np.concatenate([self.keys, keys])
        self.__dict__.pop("_selector", None)

    def measure(self, sorts: Mapping[str, np.ndarray]) -> None:
        """Choose the effort by queries, and set the recall of other queries.

        ``sorts``: for each sort of queries, unit vectors float32 ``(Q, J)``. Pictures of the index are a sort too. The
        effort is the smallest with which each sort finds 99% of the ten nearest pictures.
        """
        drawn = np.sort(
            np.random.default_rng(1).choice(len(self.vectors), min(QUERIES, len(self.vectors)), replace=False)
        )
        queries = {"photos": self.vectors[drawn], **sorts}
        own = {sort: drawn if sort == "photos" else np.full(len(found), -1) for sort, found in queries.items()}
        # A picture finds itself, which is no merit. So one more is looked for, and it is not counted.
        counts = {sort: _BEST + (sort == "photos") for sort in queries}
        bounds = {sort: neighbours(queries[sort], self.vectors, counts[sort])[1][:, -1] for sort in queries}

        def recall(sort: str, half: slice) -> float:
            rows, cosines = self.search(queries[sort][half], counts[sort])
            hits = (cosines >= bounds[sort][half, None] - _ROUNDING) & (rows != own[sort][half, None])
            return float(np.minimum(hits.sum(axis=1), _BEST).mean() / _BEST)

        choosing, telling = slice(0, None, 2), slice(1, None, 2)
        for effort in KINDS[self.kind].efforts:
            self.effort = effort
            if all(recall(sort, choosing) >= _WANTED for sort in queries):
                break
        self.recall = {sort: round(recall(sort, telling), 4) for sort in queries}
        self.measured = len(self.vectors)


def keys_of(vectors: np.ndarray) -> np.ndarray:
    """A number for each of ``vectors`` float32 ``(I, J)`` that follows from its bits: uint64 ``(I,)``."""
    factors = np.random.default_rng(2).integers(2**63, size=vectors.shape[1], dtype=np.uint64) * 2 + 1
    keys = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), 4096):
        keys[start : start + 4096] = (vectors[start : start + 4096].view(np.uint32) * factors).sum(axis=1)
    return keys


def _unlike(keys: np.ndarray) -> np.ndarray:
    """``keys`` uint64 ``(n,)``, where those that come again are changed by how often they have come."""
    order = np.argsort(keys, kind="stable")
    found = keys[order]
    begins = np.concatenate([[True], found[1:] != found[:-1]])[: len(found)]
    places = np.arange(len(found))
    times = places - np.maximum.accumulate(np.where(begins, places, 0))
    unlike = np.empty_like(keys)
    unlike[order] = found + times.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return unlike
