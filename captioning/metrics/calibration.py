"""What probabilities that captions are right are worth: whether they rank, and whether they can be believed.

Legend: N captions. ``confidence`` float ``(N,)`` from 0 to 1, ``right`` bool ``(N,)``.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

COVERAGE = 0.8  # share of the captions that are kept where errors are counted among the surest
GROUPS = 10  # groups of equally many captions, of which a reliability diagram is made


class Group(NamedTuple):
    """Captions with about the same confidence."""

    captions: int
    confidence: float  # the mean
    right: float  # the share that is right


@dataclass(frozen=True, kw_only=True)
class ConfidenceScores:
    """What the confidence of the captions of a split is worth. Shares lie between 0 and 1."""

    right_cider: float  # the CIDEr, times 100, above which a caption can be right
    right: float  # share of captions that are right
    auroc: float | None  # None when all captions are right, or none
    ece: float
    error: float  # share of captions that are wrong
    error_at_80: float  # the same among the 80% of the captions that are surest
    unsure: float  # share of captions below the threshold of the bundle
    mean: float | None = None  # the mean confidence; None in old files
    intervals: "ConfidenceIntervals | None" = None  # None unless they were asked for
    wrong_unsure: float | None = None  # ``unsure`` among the wrong captions; None in old files, or if there are none
    right_unsure: float | None = None  # the same of the right ones


@dataclass(frozen=True, kw_only=True)
class ConfidenceIntervals:
    """95% percentile bootstrap intervals over the captions."""

    right: tuple[float, float]
    mean: tuple[float, float]
    auroc: tuple[float, float] | None  # None when all captions are right, or none
    ece: tuple[float, float]  # chance raises the error of a sample, so this lies rather high


def confidence_scores(
    confidence: np.ndarray, right: np.ndarray, right_cider: float, unsure_below: float
) -> ConfidenceScores:
    """All figures of the captions of a split."""
    unsure = confidence < unsure_below
    return ConfidenceScores(
        right_cider=right_cider,
        right=float(right.mean()),
        auroc=auroc(confidence, right),
        ece=calibration_error(confidence, right),
        error=float(1 - right.mean()),
        error_at_80=error_at(confidence, right),
        unsure=float(unsure.mean()),
        mean=float(confidence.mean()),
        wrong_unsure=None if right.all() else float(unsure[~right].mean()),
        right_unsure=float(unsure[right].mean()) if right.any() else None,
    )


def best_threshold(confidence: np.ndarray, right: np.ndarray) -> float:
    """The threshold that tells wrong captions from right ones best: a multiple of 0.05 between 0 and 1.

    Its index is the highest: the share of the wrong captions below it, less the share of the right ones (Youden, 1950,
    "Index for rating diagnostic tests"). Of equally good thresholds it is the lowest. ``right`` bool ``(N,)`` has both
    kinds.
    """
    thresholds = np.arange(1, 20) / 20
    below = confidence[None] < thresholds[:, None]
    return float(thresholds[np.argmax(below[:, ~right].mean(axis=1) - below[:, right].mean(axis=1))])


def confidence_intervals(
    confidence: np.ndarray, right: np.ndarray, resamples: int = 1000, seed: int = 0
) -> ConfidenceIntervals:
    """The intervals of four figures of ``confidence_scores``. The same seed draws the same captions."""
    rng = np.random.default_rng(seed)
    means, shares, ranks, errors = [], [], [], []
    for _ in range(resamples):
        drawn = rng.integers(len(right), size=len(right))
        sure, is_right = confidence[drawn], right[drawn]
        means.append(sure.mean())
        shares.append(is_right.mean())
        errors.append(calibration_error(sure, is_right))
        if (rank := auroc(sure, is_right)) is not None:
            ranks.append(rank)

    def interval(found: list[float]) -> tuple[float, float]:
        low, high = np.percentile(found, [2.5, 97.5]).tolist()
        return low, high

    return ConfidenceIntervals(
        right=interval(shares),
        mean=interval(means),
        auroc=interval(ranks) if auroc(confidence, right) is not None else None,
        ece=interval(errors),
    )


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The probability that a positive has a higher score than a negative. A tie counts half.

    This is the area under the receiver operating characteristic, by ranks (Mann and Whitney, 1947). ``scores`` are
    float ``(N,)`` and ``positive`` bool ``(N,)``. None if all are positive, or none.
    """
    count = int(positive.sum())
    if count in (0, len(positive)):
        return None
    _, place, times = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(times) - (times - 1) / 2)[place]  # from 1; equal scores share the mean of their ranks
    return float((rank[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def reliability(confidence: np.ndarray, right: np.ndarray, groups: int = GROUPS) -> list[Group]:
    """Groups of equally many captions, from the least sure to the surest."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(groups, len(order)))
    return [Group(len(part), float(confidence[part].mean()), float(right[part].mean())) for part in parts]


def calibration_error(confidence: np.ndarray, right: np.ndarray, groups: int = GROUPS) -> float:
    """The expected calibration error (ECE): how far confidence is from the share that is right, on average.

    Naeini et al. (2015), with groups of equally many captions, so that no group is nearly empty.
    """
    found = reliability(confidence, right, groups)
    return sum(group.captions * abs(group.confidence - group.right) for group in found) / len(confidence)


def risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The share of wrong captions among the 1, 2, ... N surest, float64 ``(N,)``. Equally sure ones keep the order."""
    order = np.argsort(-confidence, kind="stable")
    return np.cumsum(~right[order]) / np.arange(1, len(order) + 1)


def error_at(confidence: np.ndarray, right: np.ndarray, coverage: float = COVERAGE) -> float:
    """The share of wrong captions among the surest. ``coverage``: the share of all captions that these are."""
    return float(risks(confidence, right)[max(1, round(coverage * len(right))) - 1])
