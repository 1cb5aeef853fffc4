"""What is measured of a caption: sureness of its words, strangeness of its picture."""

import numpy as np
import pytest
from keras import ops

from captioning.concepts.agreement import Reader
from captioning.concepts.detector import Concepts
from captioning.confidence.inputs import INPUTS, PLAIN, SIGNALS, places
from captioning.confidence.signals import DIRECTIONS, Signals, Subspace
from captioning.search.hypotheses import Hypotheses, Trace
from captioning.words.vocabulary import END, PAD


def measured(subspace: Subspace, features: np.ndarray, found: Hypotheses) -> dict[str, np.ndarray]:
    values = ops.convert_to_numpy(Signals(subspace)(ops.convert_to_tensor(features), found))
    assert values.shape == (*found.tokens.shape[:2], PLAIN)
    return {name: values[..., place] for place, name in enumerate(SIGNALS[:PLAIN])}


def two_captions() -> Hypotheses:
    tokens = np.array([[[4, 5, END, PAD], [4, END, PAD, PAD]]], "int32")
    log_p = np.array([[[-1.0, -3.0, -0.5, 0], [-1.0, -2.0, 0, 0]]], "float32")
    entropy = np.array([[[2.0, 0.5, 0.5, 0], [2.0, 4.0, 0, 0]]], "float32")
    trace = Trace(*map(ops.convert_to_tensor, (log_p, entropy)))
    return Hypotheses(ops.convert_to_tensor(tokens), None, None, trace)


@pytest.fixture
def plane() -> Subspace:
    """Pictures whose pooled features, of length one, lie close to a plane in five dimensions."""
    rng = np.random.default_rng(0)
    pooled = rng.normal([0, 0, 5, 0, 0], [1.0, 0.5, 0.1, 0.001, 0.001], (200, 5))
    return Subspace.of(pooled)


@pytest.mark.backends
def test_sureness_of_the_words(plane):
    found = measured(plane, np.ones((1, 2, 5), "float32"), two_captions())
    np.testing.assert_allclose(found["mean_log_p"], [[-4.5 / 3, -1.5]], rtol=1e-6)
    np.testing.assert_allclose(found["lowest_log_p"], [[-3, -2]])
    np.testing.assert_allclose(found["log_entropy"], [[np.log(1.0), np.log(3.0)]], atol=1e-6)
    np.testing.assert_allclose(found["highest_entropy"], [[2, 4]])
    np.testing.assert_allclose(found["length"], [[3, 2]])


@pytest.mark.backends
def test_distance_and_spread_are_those_of_plain_algebra(plane):
    rng = np.random.default_rng(1)
    features = rng.normal(1, 1, (3, 4, 5)).astype("float16")
    one = two_captions()
    trace = Trace(*(ops.repeat(part, 3, axis=0) for part in one.trace))
    found = measured(plane, features, Hypotheses(ops.repeat(one.tokens, 3, axis=0), None, None, trace))
    mean, directions, deviations = (part.astype("float64") for part in plane)
    pooled = features.astype("float64").mean(axis=1)
    centred = pooled / np.linalg.norm(pooled, axis=1, keepdims=True) - mean
    along = centred @ directions
    outside = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
    for k in range(2):  # both captions of a picture
        np.testing.assert_allclose(found["spread"][:, k], np.log(((along / deviations) ** 2).sum(axis=1)), rtol=1e-3)
        np.testing.assert_allclose(found["direction_1"][:, k], along[:, 0] / deviations[0], rtol=1e-3, atol=1e-3)
    assert (outside > -1e-3).all()
    assert not found["direction_16"].any()  # this subspace has no more than five


def test_strange_pictures_are_far_from_those_of_training(plane):
    one = two_captions()
    near, far = (
        measured(plane, np.array([[[0.3, 0.2, 5, x, 0]]], "float32"), one)["distance"][0, 0] for x in (0.0, 3.0)
    )
    assert far > near + 3
    # Brightness and contrast scale features. They make no picture strange.
    scaled = measured(plane, 7 * np.array([[[0.3, 0.2, 5, 3, 0]]], "float32"), one)["distance"][0, 0]
    assert scaled == pytest.approx(far, abs=1e-3)


def test_a_subspace_is_small():
    pooled = np.random.default_rng(0).normal(size=(100, 1280))
    subspace = Subspace.of(pooled)
    assert subspace.directions.shape == (1280, DIRECTIONS)
    assert sum(part.nbytes for part in subspace) < 90_000
    assert Subspace.of(pooled[:3]).directions.shape == (1280, 2)
    np.testing.assert_allclose(subspace.directions.T.astype(float) @ subspace.directions, np.eye(DIRECTIONS), atol=1e-2)


def test_a_picture_without_any_features_gives_finite_signals(plane):
    found = measured(plane, np.zeros((1, 2, 5), "float32"), two_captions())
    assert all(np.isfinite(values).all() for values in found.values())


def test_visual_concepts_add_signals(plane):
    concepts = Concepts([4, 5], ["dog", ""], feature_size=5, hidden_size=2)
    concepts.start_from(np.array([0.2, 0.4]))
    concepts.words.kernel.assign(np.zeros((2, 2)))
    features, found = ops.ones((1, 2, 5)), two_captions()
    values = ops.convert_to_numpy(Signals(plane, Reader(concepts, 6))(features, found))
    assert values.shape == (1, 2, len(SIGNALS))
    support, named = places(["support", "named"])
    weights = -np.log([0.2, 0.4])
    np.testing.assert_allclose(values[0, :, support], [weights @ [0.2, 0.4] / weights.sum(), 0.2], rtol=1e-5)
    np.testing.assert_allclose(values[0, :, named], np.log(0.2), rtol=1e-5)
    plain = ops.convert_to_numpy(Signals(plane)(features, found))
    np.testing.assert_array_equal(values[..., :PLAIN], plain)


def test_sets_of_signals_grow():
    sizes = [len(names) for names in INPUTS.values()]
    assert sizes == sorted(sizes)
    assert all(set(names) <= set(SIGNALS) for names in INPUTS.values())
    assert places(["mean_log_p", "distance"]) == [0, 5]
