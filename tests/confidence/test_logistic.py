"""Logistic regression: it finds the minimum of its loss, and the penalty draws the weights to zero."""

import numpy as np
import pytest

from captioning.confidence.logistic import FOLDS, fit, folds_of, log_losses


def data(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    signals = rng.normal([5, -2, 0], [10, 0.1, 1], (count, 3))
    p = 1 / (1 + np.exp(-(0.5 + 0.2 * (signals[:, 0] - 5) - 8 * (signals[:, 1] + 2))))
    return signals, rng.random(count) < p


def probabilities(found, signals):
    return 1 / (1 + np.exp(-(found.bias + (signals - found.means) / found.deviations @ found.weights)))


def test_the_weights_that_made_the_data_are_found():
    found = fit(*data(40_000), penalty=1e-3)
    np.testing.assert_allclose(found.weights / found.deviations, [0.2, -8, 0], atol=0.4)
    assert found.bias == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("penalty", [0.1, 10, 1000])
def test_the_loss_is_at_its_minimum(penalty):
    signals, right = data(400)
    found = fit(signals, right, penalty)
    inputs = (signals - found.means) / found.deviations
    error = probabilities(found, signals) - right
    np.testing.assert_allclose(inputs.T @ error + penalty * found.weights, 0, atol=1e-5)
    assert error.sum() == pytest.approx(0, abs=1e-5)  # so the mean probability is the share that is right


def test_a_penalty_shrinks_the_weights():
    sizes = [np.abs(fit(*data(400), penalty).weights).sum() for penalty in (0.1, 10, 1000)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.5 * sizes[0]


def test_signals_that_separate_all_captions_or_never_change():
    signals = np.column_stack([np.r_[-np.ones(30), np.ones(30)] * 1e6, np.full(60, 7.0)])
    right = signals[:, 0] > 0
    found = fit(signals, right, penalty=0.1)
    assert np.isfinite(found.weights).all()
    assert found.weights[1] == pytest.approx(0)
    assert ((probabilities(found, signals) > 0.9) == right).all()


def test_folds_hold_each_caption_once():
    folds = folds_of(103)
    assert len(folds) == FOLDS
    assert sorted(np.concatenate(folds).tolist()) == list(range(103))
    assert {len(fold) for fold in folds} == {10, 11}


def test_log_loss():
    np.testing.assert_allclose(log_losses(np.array([0.8, 0.8]), np.array([True, False])), [-np.log(0.8), -np.log(0.2)])
    assert np.isfinite(log_losses(np.array([0.0, 1.0]), np.array([True, False]))).all()
