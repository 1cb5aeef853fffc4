"""The figure of a confidence: its curves are those of the metrics."""

import numpy as np

from captioning.metrics.calibration import reliability, risks
from captioning.reports.reliability import confidence_figure


def test_the_curves_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    sure = rng.random(200)
    right = rng.random(200) < sure
    figure = confidence_figure(sure, right, "200 captions, $")
    left, other = figure.axes
    ideal, groups = left.lines
    np.testing.assert_array_equal(ideal.get_xydata(), [[0, 0], [1, 1]])
    expected = [(group.confidence, group.right) for group in reliability(sure, right)]
    np.testing.assert_allclose(groups.get_xydata(), expected)
    by_sureness, best, chance = (line.get_ydata() for line in other.lines)
    np.testing.assert_allclose(by_sureness, risks(sure, right))
    np.testing.assert_allclose(chance, 1 - right.mean())
    assert (best <= by_sureness + 1e-9).all()
    assert best[right.sum() - 1] == 0  # the right ones come first
    assert other.lines[0].get_xdata()[-1] == 1
    assert [text.get_text() for text in left.get_legend().get_texts()][1] == "groups of about 20 captions"


def test_one_caption_can_be_drawn(tmp_path):
    confidence_figure(np.array([0.3]), np.array([False]), "one").savefig(tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 0
