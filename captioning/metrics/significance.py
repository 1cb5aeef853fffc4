"""How sure a score is: bootstrap intervals, and a paired test between two captioners. Both resample images.

Corpus BLEU is no mean over images, so what is resampled is each image's contribution to the sums that the scores are
computed from. CIDEr's document frequencies stay those of the whole split. An interval says how the score would vary with
other images of the same kind; how it varies with the seed of a training, only more trainings can say.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from captioning.metrics.bleu_rouge import bleu_counts, bleu_score, rouge_l
from captioning.metrics.cider import cider_d
from captioning.metrics.references import Caption

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


def compare(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0) -> list[dict[str, Any]]:
    """Scores of two captioners on the same images, given their ``image_statistics`` (N, 12), and whether they differ.

    Or of two ways of training, each with S seeds, (S, N, 12): then scores are means over the seeds. The seeds count as
    given, interval and p are about images only.

    One row for each of ``NAMES``: ``metric``, ``a``, ``b``, ``difference`` (b - a); ``deviations``: the standard deviation of
    a's and of b's seeds, None of one; ``interval``: the 95% interval of the difference by the paired bootstrap (Koehn,
    2004); ``p``: how often a difference at least as large comes about when chance swaps the captions of each image, all
    seeds' at once (approximate randomisation, two-sided; Riezler and Maxwell, 2005).
    """
    a, b = (each.reshape(-1, *each.shape[-2:]) for each in (a, b))
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
    deviations = np.transpose([each.std(axis=0, ddof=1) for each in (each_a, each_b)]) if len(a) > 1 else None
    return [
        {
            "metric": name,
            "a": float(before[i]),
            "b": float(after[i]),
            "difference": float(after[i] - before[i]),
            "deviations": deviations[i].tolist() if len(a) > 1 else None,
            "interval": bounds[i],
            "p": float(p[i]),
        }
        for i, name in enumerate(NAMES)
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
