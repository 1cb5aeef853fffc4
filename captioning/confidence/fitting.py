"""Fits a confidence on the captions of dev. Cross-validation compares sets of signals, and the simplest good set wins.

Legend: N captions, S signals.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.confidence.inputs import INPUTS, places
from captioning.confidence.logistic import PENALTIES, fit, folds_of, log_losses
from captioning.confidence.signals import Subspace
from captioning.confidence.stored import Confidence
from captioning.metrics.calibration import ConfidenceScores, best_threshold, confidence_scores
from captioning.metrics.right import cider_of_people
from captioning.reports.tables import markdown

LEAST = 20  # fewest right captions, and fewest wrong captions, for a fit
_NEAR = 98  # percentile of the distances on dev; a picture beyond it is strange


class Bounds(NamedTuple):
    """The bounds that the user chooses (see ``Confidence``)."""

    right_cider: float
    unsure_below: float | None  # None: ``best_threshold`` of the captions of dev


class Trial(NamedTuple):
    """A set of signals with its best penalty, and its results in cross-validation.

    Each caption is judged by a fit on other captions.
    """

    inputs: str
    penalty: float
    losses: np.ndarray  # float64 (N,): the log loss of each caption, as if no picture were strange
    unsure_below: float
    scores: ConfidenceScores


def bound_of_people(references: Sequence[Sequence[Sequence[list[str]]]]) -> float:
    """The CIDEr, times 100, that three of four captions by people reach. ``references``: words, by data set and image.

    Raises UserError if all images have one reference only.
    """
    reached = np.concatenate([cider_of_people(of_part) for of_part in references])
    if not len(reached):
        raise UserError(
            "--right-cider: each image has only one caption by people, so the CIDEr that people reach is unknown; give "
            "a number, such as 50"
        )
    return round(float(np.percentile(reached, 25)), 1)


def fit_confidence(
    signals: np.ndarray,
    right: np.ndarray,
    subspace: Subspace,
    bounds: Bounds,
    inputs: str | None = None,
    about: dict[str, Any] | None = None,
) -> tuple[Confidence, list[Trial]]:
    """The chosen confidence, and all sets of signals that were tried.

    ``signals`` float32 ``(N, S)``: the signals of one caption for each picture of dev. ``right`` bool ``(N,)``: which
    captions are right. ``inputs``: the set to take, or None to choose one. ``about``: what else the bundle notes about
    the fit. Raises UserError if there are too few right or wrong captions.
    """
    if min(int(right.sum()), int((~right).sum())) < LEAST:
        raise UserError(
            f"--fit-confidence: {int(right.sum())} of {len(right)} captions are right with a CIDEr above "
            f"{bounds.right_cider:.1f}; at least {LEAST} must be right, and {LEAST} wrong. Take more images, or "
            "another --right-cider"
        )
    known = [name for name, names in INPUTS.items() if max(places(names)) < signals.shape[1]]
    if inputs not in (None, *known):
        raise UserError(
            f"--confidence-inputs {inputs}: reads visual concepts, and the captioner has none; train them first with "
            "train.py --stage concepts, or choose other inputs"
        )
    trials = [_try(name, signals, right, subspace, bounds) for name in known]
    chosen = choose(trials) if inputs is None else next(trial for trial in trials if trial.inputs == inputs)
    found = {"captions": len(right), "penalty": chosen.penalty, "cross_validation": vars(chosen.scores)}
    confidence = _fit(chosen.inputs, signals, right, chosen.penalty, subspace, bounds.right_cider)
    return replace(confidence, unsure_below=chosen.unsure_below, fitted={**(about or {}), **found}), trials


def choose(trials: Sequence[Trial]) -> Trial:
    """The simplest trial that is as good as the best. ``trials`` begin with the simplest.

    A trial counts as good if its log loss exceeds the lowest by at most one standard error of the difference. This
    follows the one-standard-error rule (Hastie et al., 2009, "The elements of statistical learning", section 7.10).
    """
    best = min(trials, key=lambda trial: trial.losses.mean())

    def is_as_good(trial: Trial) -> bool:
        worse = trial.losses - best.losses
        return bool(worse.mean() <= worse.std() / np.sqrt(len(worse)))

    return next(trial for trial in trials if is_as_good(trial))


def fit_table(trials: Sequence[Trial], chosen: Confidence) -> str:
    """A Markdown table of the trials, and the set that was chosen."""
    rows = [
        {
            "inputs": trial.inputs,
            "penalty": f"{trial.penalty:g}",
            "log loss": f"{trial.losses.mean():.4f}",
            "AUROC": "none" if trial.scores.auroc is None else f"{trial.scores.auroc:.3f}",
            "ECE": f"{trial.scores.ece:.3f}",
            "wrong": f"{trial.scores.error:.1%}",
            "wrong among the surest 80%": f"{trial.scores.error_at_80:.1%}",
        }
        for trial in trials
    ]
    count, right = chosen.fitted["captions"], trials[0].scores.right
    return (
        f"{markdown(rows)}\n{count:,} captions, {right:.1%} of them right (CIDEr above {chosen.right_cider:g}); "
        f"chosen: {chosen.inputs}; unsure below {chosen.unsure_below:g}\n"
    )


def _try(inputs: str, signals: np.ndarray, right: np.ndarray, subspace: Subspace, bounds: Bounds) -> Trial:
    """Cross-validate the set ``inputs`` with each penalty, and keep the penalty with the lowest log loss."""
    found = []
    for penalty in PENALTIES:
        p, plain = np.zeros(len(right)), np.zeros(len(right))
        for held in folds_of(len(right)):
            rest = np.setdiff1d(np.arange(len(right)), held)
            confidence = _fit(inputs, signals[rest], right[rest], penalty, subspace, bounds.right_cider)
            p[held] = ops.convert_to_numpy(confidence.of_signals(signals[held]))
            plain[held] = ops.convert_to_numpy(confidence.of_regression(signals[held]))
        unsure_below = best_threshold(p, right) if bounds.unsure_below is None else bounds.unsure_below
        scores = confidence_scores(p, right, bounds.right_cider, unsure_below)
        found.append(Trial(inputs, penalty, log_losses(plain, right), unsure_below, scores))
    return min(found, key=lambda trial: trial.losses.mean())


def _fit(
    inputs: str, signals: np.ndarray, right: np.ndarray, penalty: float, subspace: Subspace, right_cider: float
) -> Confidence:
    """A confidence by which no caption is unsure yet."""
    distance = signals[:, places(["distance"])[0]]
    near, far = float(np.percentile(distance, _NEAR)), float(distance.max())
    return Confidence(
        inputs=inputs,
        regression=fit(signals[:, places(INPUTS[inputs])].astype("float64"), right, penalty),
        near=near,
        far=max(far, near + 1e-3),
        subspace=subspace,
        unsure_below=0.0,
        right_cider=right_cider,
        fitted={},
    )
