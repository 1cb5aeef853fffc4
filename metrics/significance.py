"""How sure a score is: bootstrap intervals, and a paired test between two captioners. Both resample images.

Corpus BLEU is no mean over images, so what is resampled is each image's contribution to the sums that the scores are
computed from. CIDEr's document frequencies stay those of the whole split. An interval says how the score would vary with
other images of the same kind; how it varies with the seed of a training, only more trainings can say.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from metrics.captions import Caption
from metrics.consensus import cider_d
from metrics.overlap import bleu_counts, bleu_score, rouge_l

NAMES = ("bleu4", "rouge_l", "cider_d")
_CHUNK = 500  # resamples at a time; bounds the memory


def image_statistics(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """What each image adds to the sums behind the scores, float64 (N, 12): ``bleu_counts``, ROUGE-L, CIDEr-D."""
    return np.column_stack(
        [bleu_counts(predictions, references), rouge_l(predictions, references)[1], cider_d(predictions, references)[1]]
    )


def summary(statistics: np.ndarray) -> dict[str, Any]:
    """The corpus scores from ``image_statistics``: bleu (a list of BLEU-1 to BLEU-4), rouge_l and cider_d."""
    rouge, cider = statistics[:, 10:].mean(axis=0).tolist()
    return {"bleu": bleu_score(statistics[:, :10].sum(axis=0)).tolist(), "rouge_l": rouge, "cider_d": cider}


def intervals(statistics: np.ndarray, resamples: int = 2000, seed: int = 0) -> dict[str, list[float]]:
    """The 95% percentile bootstrap interval of each score: name in ``NAMES`` to [low, high]."""
    return dict(zip(NAMES, _percentiles(_bootstrap(statistics, resamples, seed)), strict=True))


def spread(statistics: np.ndarray) -> dict[str, float]:
    """The standard deviation of each score over several captioners, name in ``NAMES`` to deviation; of one, nothing.

    ``statistics``: the ``image_statistics`` of each, float64 (S, N, 12).
    """
    each = _scores(statistics.sum(axis=1), statistics.shape[1])
    return dict(zip(NAMES, each.std(axis=0, ddof=1).tolist(), strict=True)) if len(each) > 1 else {}


def compare(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0) -> list[dict[str, Any]]:
    """Scores of two captioners on the same images, given their ``image_statistics``, and whether they differ.

    The mean of the ``image_statistics`` of several captioners stands for all their captions together, image by image.

    One row for each of ``NAMES``: ``metric``, ``a``, ``b``, ``difference`` (b - a); ``interval``: the 95% interval of the
    difference by the paired bootstrap (Koehn, 2004); ``p``: how often a difference at least as large comes about when
    chance swaps the two captions of each image (approximate randomisation, two-sided; Riezler and Maxwell, 2005).
    """
    count = len(a)
    before, after = _scores(a.sum(axis=0), count), _scores(b.sum(axis=0), count)
    # The same seed draws the same images for both.
    spread = _percentiles(_bootstrap(b, resamples, seed) - _bootstrap(a, resamples, seed))
    rng = np.random.default_rng(seed)
    beyond = np.zeros(len(NAMES))
    for size in _chunks(resamples):
        moved = rng.integers(0, 2, (size, count)).astype(float) @ (b - a)  # (size, 12)
        swapped = _scores(b.sum(axis=0) - moved, count) - _scores(a.sum(axis=0) + moved, count)
        beyond += (np.abs(swapped) >= np.abs(after - before) - 1e-9).sum(axis=0)
    p = (beyond + 1) / (resamples + 1)
    return [
        {"metric": name, "a": was, "b": now, "difference": now - was, "interval": interval, "p": chance}
        for name, was, now, interval, chance in zip(
            NAMES, before.tolist(), after.tolist(), spread, p.tolist(), strict=True
        )
    ]


def _scores(sums: np.ndarray, count: int) -> np.ndarray:
    """Sums over ``count`` images to scores: (..., 12) -> (..., 3), in the order of ``NAMES``."""
    return np.concatenate([bleu_score(sums[..., :10])[..., 3:], sums[..., 10:] / count], axis=-1)


def _bootstrap(statistics: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The scores of ``resamples`` samples of the images, as many as there are, drawn with replacement: (resamples, 3)."""
    count = len(statistics)
    rng = np.random.default_rng(seed)
    times = (rng.multinomial(count, np.full(count, 1 / count), size) for size in _chunks(resamples))
    return np.concatenate([_scores(drawn.astype(float) @ statistics, count) for drawn in times])


def _chunks(resamples: int) -> Iterator[int]:
    return (min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK))


def _percentiles(samples: np.ndarray) -> list[list[float]]:
    return np.percentile(samples, [2.5, 97.5], axis=0).T.tolist()
