"""Logistic regression with an L2 penalty, by Newton's method. NumPy only.

Legend: N captions, S signals.
"""

from typing import NamedTuple

import numpy as np

FOLDS = 10
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


class Regression(NamedTuple):
    """p = 1 / (1 + exp(-(bias + weights · (x - means) / deviations)))."""

    means: np.ndarray  # (S,)
    deviations: np.ndarray  # (S,)
    weights: np.ndarray  # (S,)
    bias: float


def fit(signals: np.ndarray, right: np.ndarray, penalty: float) -> Regression:
    """The regression of ``right`` bool ``(N,)`` on ``signals`` float ``(N, S)``. Each signal is standardised.

    It minimises the log loss, summed over the captions, plus ``penalty`` / 2 times the squared length of the weights.
    """
    means, deviations = signals.mean(axis=0), signals.std(axis=0)
    deviations = np.where(deviations > 1e-9, deviations, 1.0)
    inputs = np.column_stack([(signals - means) / deviations, np.ones(len(signals))])
    shrink = np.append(np.full(signals.shape[1], penalty), 1e-9)  # practically no penalty on the bias

    def loss(weights: np.ndarray) -> float:
        margin = np.where(right, 1, -1) * (inputs @ weights)
        return float(np.logaddexp(0, -margin).sum() + (shrink * weights**2).sum() / 2)

    weights = np.zeros(inputs.shape[1])
    for _ in range(100):
        p = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (p - right) + shrink * weights
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + np.diag(shrink)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-9:
            step = step / 2  # far from the minimum a whole step may overshoot
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return Regression(means, deviations, weights[:-1], float(weights[-1]))


def folds_of(captions: int) -> list[np.ndarray]:
    """The numbers of the captions in each fold of the cross-validation, as int arrays. The seed is fixed."""
    order = np.random.default_rng(0).permutation(captions)
    return [order[start::FOLDS] for start in range(FOLDS)]


def log_losses(p: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The log loss in nats of each caption, float64 ``(N,)``, from ``p`` float ``(N,)`` and ``right`` bool ``(N,)``.

    ``p`` is clipped by 1e-6 on both sides, so that no loss is infinite.
    """
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -np.where(right, np.log(p), np.log1p(-p))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
