"""What every decoder promises: training and decoding give the same logits, no logit sees later words, and it learns."""

import doctest
import math
from typing import get_args

import keras
import numpy as np
import pytest
from helpers import DECODERS, compile_built, each_decoder, small_sizes
from keras import ops

from captioning.base.errors import UserError
from captioning.command_line.resolving import refuse_longer
from captioning.decoders import build
from captioning.decoders.base import Decoder, OneVectorDecoder, RegionDecoder
from captioning.decoders.build import build_decoder, decoder_class
from captioning.search.compiled import Search
from captioning.search.looking import looks
from captioning.training.cross_entropy import CaptionTrainer
from captioning.words.vocabulary import END, PAD, START
from config import Config, OneVectorDecoders

VOCABULARY, REGIONS, FEATURES = 40, 3, 7


def make(name: str, seed: int = 0, **sizes) -> keras.Model:
    keras.utils.set_random_seed(seed)
    defaults = {
        "vocabulary_size": VOCABULARY,
        "regions": REGIONS,
        "feature_size": FEATURES,
        "embedding_size": 12,
        "hidden_size": 10,
        "dropout": 0.3,
        **small_sizes(name),
    }
    return decoder_class(name)(**{**defaults, **sizes})


def batch(rows: int = 4, length: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, REGIONS, FEATURES)).astype("float32")
    return features, rng.integers(0, VOCABULARY, (rows, length)).astype("int32")


def run(decoder, features, tokens) -> np.ndarray:
    return ops.convert_to_numpy(decoder(features, tokens))


@pytest.fixture(params=each_decoder(DECODERS))
def name(request) -> str:
    return request.param


def test_every_name_has_a_file_of_its_own():
    """A new decoder is one file and one name among the kinds in config.py."""
    classes = [decoder_class(name) for name in DECODERS]
    assert len(set(classes)) == len(classes)
    assert all(issubclass(kind, Decoder) for kind in classes)
    assert [kind.__module__ for kind in classes] == [f"captioning.decoders.{name}" for name in DECODERS]


@pytest.mark.parametrize("name", DECODERS)
def test_the_settings_know_what_a_decoder_reads(name):
    kind = OneVectorDecoder if name in get_args(OneVectorDecoders) else RegionDecoder
    assert issubclass(decoder_class(name), kind)
    config = Config(decoder=name, feature_grid=0)
    assert not decoder_class(name).bounded or refuses_longer(config), "command_line.resolving.refuse_longer names it"


def refuses_longer(config: Config) -> bool:
    try:
        refuse_longer(config, config.model_copy(update={"max_caption_length": config.max_caption_length + 1}))
    except UserError:
        return True
    return False


def test_the_example_of_the_docstring():
    failed, tried = doctest.testmod(build)
    assert failed == 0
    assert tried > 0


def test_logits(name):
    decoder = make(name)
    features, tokens = batch()
    logits = decoder(features, tokens)
    assert tuple(logits.shape) == (4, 6, VOCABULARY)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    # Half-precision features, as the store holds them, give the same logits.
    half = run(decoder, features.astype("float16"), tokens)
    np.testing.assert_allclose(half, ops.convert_to_numpy(logits), atol=1e-2)


def test_no_two_weights_share_a_path(name):
    """Otherwise PyTorch would not clear the gradients of one of them."""
    paths = [variable.path for variable in make(name).trainable_variables]
    assert len(set(paths)) == len(paths)


def test_an_untrained_decoder_knows_nothing(name):
    """The loss starts near that of guessing, log V."""
    features, tokens = batch(rows=64)
    logits = run(make(name), features, tokens)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    loss = -np.take_along_axis(log_p, tokens[..., None], -1).mean()
    assert loss == pytest.approx(math.log(VOCABULARY), abs=0.15)


@pytest.mark.backends
def test_stepped_logits_equal_teacher_forced_ones(name):
    decoder = make(name)
    features, tokens = batch(length=9)
    # Weights as large as trained ones, biases included, so that every part counts.
    rng = np.random.default_rng(1)
    decoder.set_weights([rng.normal(0, 0.5, weight.shape) for weight in decoder.get_weights()])
    expected = run(decoder, features, tokens)
    state = decoder.init_state(ops.convert_to_tensor(features))
    for t in range(tokens.shape[1]):
        logits, state = decoder.step(ops.convert_to_tensor(tokens[:, t]), state)
        np.testing.assert_allclose(ops.convert_to_numpy(logits), expected[:, t], atol=1e-4)
    assert np.abs(expected).max() > 1


@pytest.mark.backends
def test_no_logit_depends_on_a_later_word(name):
    decoder = make(name)
    features, tokens = batch()
    before = run(decoder, features, tokens)
    for t in range(tokens.shape[1] - 1):
        changed = tokens.copy()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 7) % VOCABULARY
        after = run(decoder, features, changed)
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
        assert (after[:, t + 1] != before[:, t + 1]).any(-1).all(), "and every logit depends on its own word"


def test_every_region_and_every_earlier_word_count(name):
    decoder = make(name)
    features, tokens = batch()
    before = run(decoder, features, tokens)
    for region in range(REGIONS):
        changed = features.copy()
        changed[:, region] += 1
        assert (run(decoder, changed, tokens) != before).any((1, 2)).all()
    changed = tokens.copy()
    changed[:, 0] = (changed[:, 0] + 7) % VOCABULARY
    assert (run(decoder, features, changed)[:, -1] != before[:, -1]).any(-1).all()


def test_a_row_does_not_depend_on_its_batch(name):
    decoder = make(name)
    features, tokens = batch()
    state = decoder.init_state(ops.convert_to_tensor(features))
    # A search reorders states along the batch axis, so it must be the first axis of every part.
    assert all(leaf.shape[0] == 4 for leaf in keras.tree.flatten(state))
    logits, state = decoder.step(ops.convert_to_tensor(tokens[:, 0]), state)
    order = [2, 0, 0]
    picked = keras.tree.map_structure(lambda leaf: ops.take(leaf, np.asarray(order), axis=0), state)
    logits, _ = decoder.step(ops.convert_to_tensor(tokens[order, 1]), picked)
    expected = run(decoder, features[order], tokens[order, :2])[:, 1]
    np.testing.assert_allclose(ops.convert_to_numpy(logits), expected, atol=1e-5)


def test_captions_of_one_image_share_its_features(name):
    decoder = make(name)
    features, tokens = batch()
    image_of = np.asarray([2, 0, 0, 3], "int32")
    shared = ops.convert_to_numpy(decoder(features, tokens, image_of=image_of))
    np.testing.assert_allclose(shared, run(decoder, features[image_of], tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.backends
def test_dropout_is_drawn_in_training_only(name):
    decoder = make(name)
    features, tokens = batch()
    np.testing.assert_array_equal(run(decoder, features, tokens), run(decoder, features, tokens))
    drawn = [ops.convert_to_numpy(decoder(features, tokens, training=True)) for _ in range(2)]
    assert not np.allclose(drawn[0], drawn[1])
    still = make(name, dropout=0.0)
    np.testing.assert_allclose(
        ops.convert_to_numpy(still(features, tokens, training=True)), run(still, features, tokens), atol=1e-6
    )


@pytest.mark.parametrize("name", each_decoder([kind for kind in DECODERS if decoder_class(kind).attends]))
def test_attention_tells_where_each_word_looks(name):
    decoder = make(name)
    features, tokens = batch()
    logits, weights = (ops.convert_to_numpy(part) for part in decoder.attend(features, tokens))
    np.testing.assert_array_equal(logits, run(decoder, features, tokens))
    columns = REGIONS + (name == "adaptive")  # its last column is the sentinel
    assert weights.shape == (*tokens.shape, columns)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    # If regions change places, their weights do too.
    moved = ops.convert_to_numpy(decoder.attend(features[:, [2, 0, 1]], tokens)[1])
    np.testing.assert_allclose(moved[..., :REGIONS], weights[..., [2, 0, 1]], atol=1e-5)
    assert weights[..., :REGIONS].std(-1).min() > 1e-6
    # Step by step the decoder looks at the same places.
    looked = looks(decoder.look, decoder.init_state(features), ops.convert_to_tensor(tokens), columns)
    np.testing.assert_allclose(ops.convert_to_numpy(looked), weights, atol=1e-5)


def test_config_round_trip(name):
    decoder = make(name)
    config = decoder.get_config()
    twin = type(decoder).from_config(config)
    assert twin.get_config() == config
    assert [weight.shape for weight in twin.weights] == [weight.shape for weight in decoder.weights]
    twin.set_weights(decoder.get_weights())
    features, tokens = batch()
    np.testing.assert_array_equal(run(twin, features, tokens), run(decoder, features, tokens))
    settings = Config(
        decoder=name,
        feature_grid=0,
        embedding_size=12,
        hidden_size=10,
        dropout=0.3,
        **small_sizes(name),
    )
    built = build_decoder(settings, VOCABULARY, REGIONS, FEATURES)
    assert {**built.get_config(), "name": ""} == {**config, "name": ""}


@pytest.mark.backends
def test_weights_travel_through_a_file(name, tmp_path):
    decoder = make(name)
    decoder.save_weights(tmp_path / "decoder.weights.h5")
    other = make(name, seed=1)
    features, tokens = batch()
    assert not np.allclose(run(other, features, tokens), run(decoder, features, tokens))
    other.load_weights(tmp_path / "decoder.weights.h5")
    np.testing.assert_array_equal(run(other, features, tokens), run(decoder, features, tokens))


def test_every_weight_is_trained(name):
    decoder = make(name)
    before = decoder.get_weights()
    trainer = CaptionTrainer(decoder)
    compile_built(trainer, keras.optimizers.SGD(1.0), steps=1)
    features, tokens = batch(rows=32, length=8)
    trainer.train_on_batch((features, tokens[:, :-1]), tokens[:, 1:])
    for old, weight in zip(before, decoder.weights, strict=True):
        assert weight.trainable
        assert not np.array_equal(old, ops.convert_to_numpy(weight)), weight.path


@pytest.mark.parametrize("name", each_decoder(DECODERS, pytest.mark.weekly, few=True))
def test_overfits_a_toy_set_and_says_it_back(name):
    """Captions of different lengths. Only the image tells which; two images differ in their last region only."""
    captions = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 10, 11, 12], [13], [14, 15, 16, 9]]
    tokens = np.full((len(captions), 8), PAD, "int32")
    for row, words in enumerate(captions):
        tokens[row, : len(words) + 2] = [START, *words, END]
    features = np.random.default_rng(0).normal(size=(len(captions), REGIONS, FEATURES)).astype("float32")
    features[1] = features[0]
    features[1, -1] += 2
    decoder = make(name, dropout=0.0, embedding_size=16, hidden_size=24)
    trainer = CaptionTrainer(decoder)
    rate, steps = (0.01, 40) if decoder.bounded else (0.03, 60)
    compile_built(trainer, keras.optimizers.Adam(rate))
    for _ in range(steps):
        loss = trainer.train_on_batch((features, tokens[:, :-1]), tokens[:, 1:])
    assert float(np.ravel(loss)[0]) < 0.05

    search = Search(decoder, Config(beam_size=3, max_caption_length=7))
    search.compile()
    found, log_probs, _ = search.predict(features, verbose=0)
    expected = np.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    np.testing.assert_array_equal(found[:, 0], expected)
    assert (np.exp(log_probs[:, 0]) > 0.5).all()
