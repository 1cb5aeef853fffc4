"""How sure a score is: bootstrap intervals, and a paired test between two captioners. Both resample images.

Corpus BLEU is not a mean over images. So each image's contribution to the sums behind the scores is resampled. CIDEr's
document frequencies stay those of the whole split. An interval says how the score would vary with other images of the
same kind. Only more trainings can say how it varies with the seed; ``Seeds`` holds those of one recipe.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from captioning.metrics.bleu_rouge import bleu_counts, bleu_score, rouge_l
from captioning.metrics.cider import cider_d
from captioning.metrics.references import Caption

NAMES = ("bleu4", "rouge_l", "cider_d")
_CHUNK = 500  # resamples at a time; bounds the memory

Interval = tuple[float, float]  # 95%: low, high


class CorpusScores(NamedTuple):
    """The scores of a corpus, times 100."""

    bleu: list[float]  # BLEU-1 to BLEU-4
    rouge_l: float
    cider_d: float


@dataclass(frozen=True)
class Intervals:
    """The 95% percentile bootstrap interval of each score."""

    bleu4: Interval
    rouge_l: Interval
    cider_d: Interval
    chair_s: Interval | None = None  # from 0 to 1; None where CHAIR is not known, and in old files


@dataclass(frozen=True)
class Difference:
    """One score of two captioners A and B on the same images, and whether they differ."""

    metric: str  # one of NAMES
    a: float
    b: float
    difference: float  # b - a
    deviations: tuple[float, float] | None  # standard deviation over the seeds of A and of B; None with one seed
    interval: Interval  # of the difference
    p: float


def image_statistics(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """What each image adds to the sums behind the scores, float64 (N, 12).

    Columns: the ten of ``bleu_counts``, ROUGE-L, CIDEr-D.
    """
    return np.column_stack(
        [bleu_counts(predictions, references), rouge_l(predictions, references)[1], cider_d(predictions, references)[1]]
    )


def corpus_scores(statistics: np.ndarray) -> CorpusScores:
    """The scores of a corpus from its ``image_statistics``, float64 (N, 12)."""
    rouge, cider = statistics[:, 10:].mean(axis=0).tolist()
    return CorpusScores(bleu_score(statistics[:, :10].sum(axis=0)).tolist(), rouge, cider)


def intervals(statistics: np.ndarray, resamples: int = 2000, seed: int = 0) -> Intervals:
    """The interval of each score, from ``image_statistics``, float64 (N, 12)."""
    return mean_intervals([statistics], resamples, seed)


def mean_intervals(corpora: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0) -> Intervals:
    """The interval of the mean of each score over ``corpora``, whose images are drawn apart.

    Each corpus is given by its ``image_statistics``, float64 (N, 12), with an N of its own.
    """
    drawn = [_bootstrap(corpus, resamples, seed + i) for i, corpus in enumerate(corpora)]
    return Intervals(*_percentiles(np.mean(drawn, axis=0)))


def share_interval(share: float, count: int, resamples: int = 2000, seed: int = 0) -> Interval:
    """The interval of the ``share`` of ``count`` images that have some property."""
    # Among images that are drawn with replacement, the number of such images is binomial.
    drawn = np.random.default_rng(seed).binomial(count, share, resamples) / count
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return low, high


def compare(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0) -> list[Difference]:
    """Whether two captioners differ on the same images. One ``Difference`` for each of ``NAMES``.

    ``a`` and ``b``: their ``image_statistics``, float64 (N, 12). Or those of two ways of training with S seeds each,
    (S, N, 12): the scores then are means over the seeds. Interval and p are about the images; the seeds are taken as
    given.

    The interval of the difference comes from the paired bootstrap (Koehn, 2004). p comes from approximate
    randomisation, two-sided (Riezler and Maxwell, 2005): chance swaps the two captions of each image, those of all
    seeds at once. p is the share of such swaps whose difference is at least as large as the observed one.
    """
    a, b = (each.reshape(-1, *each.shape[-2:]) for each in (a, b))  # (S, N, 12)
    count = a.shape[1]
    each_a, each_b = _scores(a.sum(axis=1), count), _scores(b.sum(axis=1), count)  # (S, 3)
    before, after = each_a.mean(axis=0), each_b.mean(axis=0)
    # The same seed draws the same images for all.
    resampled = [_bootstrap(y, resamples, seed) - _bootstrap(x, resamples, seed) for x, y in zip(a, b, strict=True)]
    bounds = _percentiles(np.mean(resampled, axis=0))
    rng = np.random.default_rng(seed)
    beyond = np.zeros(len(NAMES))
    for size in _chunks(resamples):
        moved = np.tensordot(rng.integers(0, 2, (size, count)).astype(float), b - a, axes=(1, 1))  # (size, S, 12)
        swapped = _scores(b.sum(axis=1) - moved, count) - _scores(a.sum(axis=1) + moved, count)  # (size, S, 3)
        beyond += (np.abs(swapped.mean(axis=1)) >= np.abs(after - before) - 1e-9).sum(axis=0)
    p = (beyond + 1) / (resamples + 1)
    deviations: list[tuple[float, float] | None] = [None] * len(NAMES)
    if len(a) > 1:
        deviations = [*zip(each_a.std(axis=0, ddof=1).tolist(), each_b.std(axis=0, ddof=1).tolist(), strict=True)]
    return [
        Difference(
            metric=name,
            a=float(before[i]),
            b=float(after[i]),
            difference=float(after[i] - before[i]),
            deviations=deviations[i],
            interval=bounds[i],
            p=float(p[i]),
        )
        for i, name in enumerate(NAMES)
    ]


@dataclass(frozen=True)
class Seeds:
    """The CIDEr-D of each image by each of S trainings of one recipe, which differ in their seeds.

    ``parts``: float64 (S, N) for each data set, with an N of its own. The score is the mean over the images, then over
    the data sets, then over the seeds.
    """

    parts: tuple[np.ndarray, ...]

    @property
    def mean(self) -> float:
        """The score."""
        return float(np.mean([part.mean() for part in self.parts]))

    def interval(self, resamples: int = 2000) -> Interval:
        """The 95% interval of the score over images and seeds."""
        return _percentiles(self._drawn(resamples, 0)[:, None])[0]

    def difference(self, other: "Seeds", resamples: int = 2000) -> Interval:
        """The 95% interval of ``other`` less this, on the same images, over images and seeds.

        Both meet the same drawn images. Their seeds are drawn apart.
        """
        return _percentiles((other._drawn(resamples, 1) - self._drawn(resamples, 0))[:, None])[0]

    def p(self, other: "Seeds", resamples: int = 10_000, seed: int = 0) -> float:
        """The p of the difference from ``other`` on the same images, by the test of ``compare``, two-sided.

        Chance swaps the two scores of an image, each the mean over the seeds. So p is about images, with these seeds.
        """
        gaps = [theirs.mean(axis=0) - own.mean(axis=0) for own, theirs in zip(self.parts, other.parts, strict=True)]
        observed = np.mean([gap.mean() for gap in gaps])
        rng = np.random.default_rng(seed)
        beyond = 0
        for size in _chunks(resamples):
            moved = [rng.integers(0, 2, (size, len(gap))).astype(float) @ gap / len(gap) for gap in gaps]
            swapped = observed - 2 * np.mean(moved, axis=0)
            beyond += int((np.abs(swapped) >= abs(observed) - 1e-9).sum())
        return (beyond + 1) / (resamples + 1)

    def _drawn(self, resamples: int, side: int) -> np.ndarray:
        """The scores of ``resamples`` samples of images and seeds, float64 (resamples,).

        A sample takes N of the N images of each data set with replacement, and scores the mean over the seeds on them.
        Apart from that it takes S - 1 of the S seeds with replacement. What this changes in the score is added. S of S
        would make the variance between seeds too small, by the factor (S - 1) / S (McCarthy and Snowden, 1985). With
        one seed that part is 0. ``side``: another one draws other seeds.
        """
        levels = np.mean([part.mean(axis=1) for part in self.parts], axis=0)  # (S,)
        count = len(levels)
        taken = max(count - 1, 1)
        seeds = np.random.default_rng([1, side]).multinomial(taken, np.full(count, 1 / count), resamples) / taken
        rng = np.random.default_rng([0])
        drawn = []
        for part in self.parts:
            size, images = part.shape[1], part.mean(axis=0)
            times = (rng.multinomial(size, np.full(size, 1 / size), chunk) for chunk in _chunks(resamples))
            drawn.append(np.concatenate([times_of @ images / size for times_of in times]))
        return np.mean(drawn, axis=0) + seeds @ levels - levels.mean()


def holm(ps: Sequence[float]) -> list[float]:
    """The ``ps`` of several tests, adjusted for their number (Holm, 1979).

    Where nothing differs, chance makes the smallest of them fall below x with a probability of at most x.
    """
    adjusted, worst = [0.0] * len(ps), 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, (len(ps) - place) * ps[i]))
        adjusted[i] = worst
    return adjusted


def _scores(sums: np.ndarray, count: int) -> np.ndarray:
    """Sums over ``count`` images to scores: (..., 12) -> (..., 3), in the order of ``NAMES``."""
    return np.concatenate([bleu_score(sums[..., :10])[..., 3:], sums[..., 10:] / count], axis=-1)


def _bootstrap(statistics: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The scores of ``resamples`` samples of N images, drawn with replacement: (resamples, 3)."""
    count = len(statistics)
    rng = np.random.default_rng(seed)
    times = (rng.multinomial(count, np.full(count, 1 / count), size) for size in _chunks(resamples))
    return np.concatenate([_scores(drawn.astype(float) @ statistics, count) for drawn in times])


def _chunks(resamples: int) -> Iterator[int]:
    return (min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK))


def _percentiles(samples: np.ndarray) -> list[Interval]:
    """The 95% interval of each column of ``samples`` (resamples, 3)."""
    return [(low, high) for low, high in np.percentile(samples, [2.5, 97.5], axis=0).T.tolist()]
