"""A confidence is fitted on captions of dev: the simplest good set of signals, and none for strange pictures."""

import numpy as np
import pytest
from keras import ops

from captioning.base.errors import UserError
from captioning.confidence import fitting
from captioning.confidence.fitting import Bounds, Trial, choose, fit_confidence, fit_table
from captioning.confidence.inputs import INPUTS, PLAIN, SIGNALS, places
from captioning.confidence.signals import Subspace
from captioning.metrics.calibration import auroc, confidence_scores

BOUNDS = Bounds(right_cider=40.0, unsure_below=0.5)
SUBSPACE = Subspace(np.zeros(4, "float16"), np.eye(4, 2, dtype="float16"), np.ones(2, "float32"))


def made(needs: str, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Signals, and captions that are right as the signal ``needs`` says."""
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(count, len(SIGNALS))).astype("float32")
    p = 1 / (1 + np.exp(-2 * signals[:, places([needs])[0]]))
    return signals, rng.random(count) < p


@pytest.mark.parametrize(("needs", "chosen"), [("mean_log_p", "log-p"), ("log_entropy", "entropy"), ("length", "words"),
                                               ("spread", "distance"), ("coverage", "concepts"),
                                               ("direction_3", "directions")])  # fmt: skip
def test_the_simplest_set_that_is_as_good_as_the_best_is_chosen(needs, chosen):
    confidence, trials = fit_confidence(*made(needs), SUBSPACE, BOUNDS)
    assert [trial.inputs for trial in trials] == list(INPUTS)
    assert confidence.inputs == chosen
    assert confidence.fitted["cross_validation"]["auroc"] > 0.8
    assert f"chosen: {chosen}" in fit_table(trials, confidence)


def test_a_trial_within_one_standard_error_of_the_best_is_as_good():
    scores = confidence_scores(np.array([0.2, 0.8]), np.array([False, True]), right_cider=40.0, unsure_below=0.5)
    best = Trial("rich", 1.0, np.array([0.5, 0.5, 0.5, 0.5]), 0.5, scores)
    close = Trial("close", 1.0, np.array([0.4, 0.7, 0.4, 0.6]), 0.5, scores)  # worse by 0.025 on average, error 0.065
    poor = Trial("poor", 1.0, np.array([0.7, 0.7, 0.7, 0.8]), 0.5, scores)
    assert choose([poor, close, best]).inputs == "close"
    assert choose([poor, best]).inputs == "rich"


def test_a_set_that_the_user_names_is_taken():
    confidence, _ = fit_confidence(*made("log_entropy"), SUBSPACE, BOUNDS, inputs="log-p", about={"dataset": "x"})
    assert (confidence.inputs, confidence.fitted["dataset"], confidence.fitted["captions"]) == ("log-p", "x", 600)


def test_the_threshold_is_that_of_the_user_or_the_best_on_dev():
    signals, right = made("log_entropy")
    assert fit_confidence(signals, right, SUBSPACE, BOUNDS)[0].unsure_below == 0.5
    chosen, trials = fit_confidence(signals, right | (right[::-1]), SUBSPACE, BOUNDS._replace(unsure_below=None))
    scores = next(trial.scores for trial in trials if trial.inputs == chosen.inputs)
    assert chosen.unsure_below > 0.5  # three of four captions are right, so a caption of 50% is a poor one
    assert f"unsure below {chosen.unsure_below:g}\n" in fit_table(trials, chosen)
    assert scores.wrong_unsure > 0.5 > scores.right_unsure
    assert chosen.fitted["cross_validation"]["wrong_unsure"] == scores.wrong_unsure


def test_captioners_without_visual_concepts_are_judged_without_them():
    signals, right = made("mean_log_p")
    _, trials = fit_confidence(signals[:, :PLAIN], right, SUBSPACE, BOUNDS)
    assert [trial.inputs for trial in trials] == [name for name in INPUTS if name != "concepts"]
    with pytest.raises(UserError, match=r"--confidence-inputs concepts: reads visual concepts, .* --stage concepts"):
        fit_confidence(signals[:, :PLAIN], right, SUBSPACE, BOUNDS, inputs="concepts")


def test_probabilities_rank_and_can_be_believed():
    signals, right = made("log_entropy")
    confidence, _ = fit_confidence(signals, right, SUBSPACE, BOUNDS)
    new, truth = made("log_entropy", 4000)
    new, truth = new[600:], truth[600:]
    new[:, places(["distance"])] = 0  # no strange pictures
    p = ops.convert_to_numpy(confidence.of_signals(new))
    assert auroc(p, truth) > 0.85
    for low, high in ((0, 0.2), (0.4, 0.6), (0.8, 1)):
        group = (p >= low) & (p < high)
        assert p[group].mean() == pytest.approx(truth[group].mean(), abs=0.06)


def test_the_stranger_a_picture_the_lower_its_confidence():
    signals, right = made("log_entropy")
    confidence, _ = fit_confidence(signals, right, SUBSPACE, BOUNDS)
    distance = places(["distance"])[0]
    assert confidence.near == pytest.approx(np.percentile(signals[:, distance], 98))
    assert confidence.far == pytest.approx(signals[:, distance].max())
    one = np.repeat(signals[:1], 5, axis=0)
    middle = (confidence.near + confidence.far) / 2
    one[:, distance] = [-9, confidence.near, middle, confidence.far, 99]
    p = ops.convert_to_numpy(confidence.of_signals(one))
    assert p[0] == pytest.approx(p[1], rel=1e-5)
    np.testing.assert_allclose(p[1:] / p[1], [1, 0.5, 0, 0], atol=1e-5)


def test_no_caption_judges_itself():
    """With pure noise, cross-validation finds nothing to rank by."""
    signals, _ = made("length", 300)
    right = np.random.default_rng(1).random(300) < 0.5
    _, trials = fit_confidence(signals, right, SUBSPACE, BOUNDS)
    assert all(trial.scores.auroc < 0.58 for trial in trials)


@pytest.mark.parametrize("count", [0, fitting.LEAST - 1, 600 - fitting.LEAST + 1, 600])
def test_too_few_right_or_wrong_captions_are_refused(count):
    right = np.arange(600) < count
    with pytest.raises(
        UserError, match=rf"--fit-confidence: {count} of 600 captions are right with a CIDEr above 40\.0"
    ):
        fit_confidence(made("length")[0], right, SUBSPACE, BOUNDS)
