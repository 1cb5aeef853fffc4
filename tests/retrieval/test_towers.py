"""The two towers: unit vectors, padding, the reading directions, and the heads that choose among regions."""

import keras
import numpy as np
import pytest
from keras import ops

from captioning.retrieval.towers import HEADS, ImageTower, RecurrentTower, build_towers
from captioning.words.vocabulary import END, PAD, START
from config import Config

V = 11


def towers(**changes):
    keras.utils.set_random_seed(0)
    sizes = {"embedding_size": 6, "hidden_size": 5, "joint_size": 16, "dropout": 0.0}
    return build_towers(Config(**{"stage": "align", "monitor": "recall"} | sizes | changes), V, feature_size=3)


def numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


@pytest.mark.backends
def test_both_towers_give_unit_vectors():
    made = towers()
    images = numpy(made.image(np.random.default_rng(0).random((4, 7, 3)).astype("float16")))
    texts = numpy(made.text(np.asarray([[START, 4, END, PAD], [START, 5, 6, END]], "int32")))
    assert (images.shape, texts.shape) == ((4, 16), (2, 16))
    for vectors in (images, texts):
        np.testing.assert_allclose((vectors**2).sum(axis=1), 1, rtol=1e-5)


def test_no_two_weights_share_a_path():
    """Otherwise PyTorch would not clear the gradients of one of them."""
    paths = [variable.path for variable in towers(text_encoder="bigru").trainable_variables]
    assert len(set(paths)) == len(paths)


@pytest.mark.backends
@pytest.mark.parametrize("text_encoder", ["gru", "bigru"])
def test_padding_changes_no_caption(text_encoder):
    tower = towers(text_encoder=text_encoder).text
    rows = np.asarray([[START, 4, 5, 6, END], [START, 7, END, PAD, PAD]], "int32")
    wider = np.pad(rows, ((0, 0), (0, 3)), constant_values=PAD)
    np.testing.assert_allclose(numpy(tower(wider)), numpy(tower(rows)), atol=1e-6)
    np.testing.assert_allclose(numpy(tower(rows[1:, :3]))[0], numpy(tower(rows))[1], atol=1e-6)


@pytest.mark.backends
def test_the_second_reader_reads_backwards():
    """With the readers' weights swapped, a caption turned round reads as the caption did."""
    tower = towers(text_encoder="bigru").text
    tokens = np.asarray([[4, 5, 6, 7, 8, PAD]], "int32")
    turned = np.asarray([[8, 7, 6, 5, 4, PAD]], "int32")
    before = numpy(tower(tokens))
    forwards, backwards = tower.readers
    first, second = forwards.get_weights(), backwards.get_weights()
    forwards.set_weights(second)
    backwards.set_weights(first)
    kernel, bias = tower.dense.get_weights()
    tower.dense.set_weights([np.roll(kernel, 5, axis=0), bias])
    np.testing.assert_allclose(numpy(tower(turned)), before, atol=1e-6)
    assert not np.allclose(numpy(tower(tokens)), before, atol=1e-3)


@pytest.mark.backends
def test_heads_start_with_the_average_and_can_choose_a_region():
    keras.utils.set_random_seed(0)
    tower = ImageTower(feature_size=3, joint_size=16, dropout=0.0)
    features = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    normed = numpy(tower.norm(features))
    looks = np.repeat(normed.mean(axis=1, keepdims=True), HEADS, axis=1)
    joint = numpy(tower.dense(looks)).reshape(2, 16)
    np.testing.assert_allclose(numpy(tower(features)), joint / np.linalg.norm(joint, axis=1, keepdims=True), atol=1e-5)
    # A large weight on one feature makes each head take the region that has most of it.
    tower.scores.set_weights([np.repeat([[100.0], [0.0], [0.0]], HEADS, axis=1)])
    chosen = normed[np.arange(2), normed[..., 0].argmax(axis=1)][:, None]
    np.testing.assert_allclose(numpy(tower(features)), numpy(tower(_denormed(tower, chosen))), atol=1e-4)


def _denormed(tower: ImageTower, regions: np.ndarray) -> np.ndarray:
    """Regions that layer norm leaves as they are: it has normed them already."""
    np.testing.assert_allclose(numpy(tower.norm(regions)), regions, atol=2e-3)
    return regions


def test_towers_come_back_from_their_settings():
    for made in (ImageTower(3, 16, 0.1), RecurrentTower(V, 6, 5, 16, 0.1, both_ways=True)):
        again = type(made).from_config(made.get_config())
        assert [weight.shape for weight in again.weights] == [weight.shape for weight in made.weights]
