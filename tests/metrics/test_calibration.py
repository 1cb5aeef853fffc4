"""What probabilities are worth: ranking, calibration and errors among the surest, counted by hand."""

import numpy as np
import pytest

from captioning.metrics.calibration import (
    Group,
    auroc,
    best_threshold,
    calibration_error,
    confidence_intervals,
    confidence_scores,
    error_at,
    reliability,
    risks,
)

SURE = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
RIGHT = np.array([True, False, True, True, False])


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    # Of the six pairs of a right and a wrong caption, four have the right one before: 0.9 twice, 0.7 and 0.6 once each.
    assert auroc(SURE, RIGHT) == pytest.approx(4 / 6)
    assert auroc(-SURE, RIGHT) == pytest.approx(2 / 6)
    assert auroc(np.array([0.2, 0.2, 0.5]), np.array([True, False, False])) == pytest.approx(0.25)  # a tie counts half
    assert auroc(SURE, np.ones(5, bool)) is None
    assert auroc(SURE, np.zeros(5, bool)) is None


def test_auroc_equals_the_count_over_all_pairs():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 80) / 9, rng.random(80) < 0.3
    pairs = scores[positive][:, None] - scores[~positive][None]
    assert auroc(scores, positive) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_groups_of_equally_many_from_the_least_sure():
    groups = reliability(SURE, RIGHT, groups=2)
    assert groups == [
        Group(3, pytest.approx(0.6), pytest.approx(2 / 3)),
        Group(2, pytest.approx(0.85), pytest.approx(0.5)),
    ]
    assert calibration_error(SURE, RIGHT, groups=2) == pytest.approx((3 * (2 / 3 - 0.6) + 2 * 0.35) / 5)
    assert len(reliability(SURE, RIGHT, groups=10)) == 5  # no group is empty


def test_errors_among_the_surest():
    np.testing.assert_allclose(risks(SURE, RIGHT), [0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    assert error_at(SURE, RIGHT) == 1 / 4  # four of five are kept
    assert error_at(SURE[:1], RIGHT[:1]) == 0


def test_all_figures_of_a_split():
    found = confidence_scores(SURE, RIGHT, right_cider=40.0, unsure_below=0.65)
    assert (found.right_cider, found.right, found.error, found.unsure) == (40.0, 0.6, pytest.approx(0.4), 0.4)
    assert (found.auroc, found.error_at_80) == (auroc(SURE, RIGHT), 0.25)
    assert found.ece == calibration_error(SURE, RIGHT)
    assert (found.wrong_unsure, found.right_unsure) == (0.5, pytest.approx(1 / 3))
    assert confidence_scores(SURE, RIGHT | True, 40.0, 0.65).wrong_unsure is None
    assert confidence_scores(SURE, RIGHT & False, 40.0, 0.65).right_unsure is None


@pytest.mark.parametrize(("confidence", "right", "threshold"), [
    ([0.2, 0.31, 0.66, 0.9], [False, False, True, True], 0.35),  # all from 0.35 to 0.65 part them: the lowest
    ([0.2, 0.58, 0.61, 0.62, 0.9], [False, False, True, False, True], 0.6),  # a later one costs more than it catches
    ([0.9, 0.8, 0.1], [False, False, True], 0.05),  # nothing tells them apart: no caption is unsure
])  # fmt: skip
def test_the_best_threshold_parts_wrong_captions_from_right_ones(confidence, right, threshold):
    assert best_threshold(np.array(confidence), np.array(right)) == threshold


def test_intervals_lie_around_the_figures_and_shrink_with_more_captions():
    rng = np.random.default_rng(0)
    widths = []
    for count in (50, 800):
        confidence = rng.random(count)
        right = rng.random(count) < confidence
        scores, bounds = confidence_scores(confidence, right, 33.0, 0.5), confidence_intervals(confidence, right, 200)
        for name in ("right", "mean", "auroc"):
            low, high = getattr(bounds, name)
            assert low < getattr(scores, name) < high
        assert 0 < bounds.ece[0] < bounds.ece[1]
        assert bounds == confidence_intervals(confidence, right, 200), "the same draws again"
        widths.append(bounds.mean[1] - bounds.mean[0])
    assert widths[1] == pytest.approx(2 * 1.96 * (1 / 12 / 800) ** 0.5, rel=0.2)
    assert widths[1] < widths[0] / 3
    assert confidence_intervals(SURE, np.ones(5, bool), 20).auroc is None
