"""Ensembles: probabilities are averaged, one member is the captioner itself, members that do not fit are refused."""

import keras
import numpy as np
import pytest
from keras import ops

from captioning.base.errors import UserError
from captioning.features.batches import EnsembleBatches, FeatureBatches
from captioning.features.encoder import build_encoder
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner, Ensemble

WORDS = Vocabulary([f"word{i}" for i in range(20)])
SIZES = {"image_size": 32, "embedding_size": 8, "hidden_size": 8, "max_caption_length": 6}


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    images = keras.Input((None, None, 3))
    grid = keras.layers.Conv2D(5, 16, strides=16)(images)
    path = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    keras.Model(images, grid).save(path)
    return str(path)


def member(encoder_file, seed: int, words=WORDS, **changes) -> Captioner:
    config = Config(encoder=encoder_file, **{**SIZES, **changes})
    keras.utils.set_random_seed(seed)
    made = Captioner.untrained(config, words, build_encoder(config))
    rng = np.random.default_rng(seed)
    made.decoder.set_weights([rng.normal(0, 0.7, weight.shape) for weight in made.decoder.get_weights()])
    return made


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3)).astype("uint8")


@pytest.mark.parametrize("beam_size", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_one_member_or_the_same_twice_is_the_captioner_itself(encoder_file, beam_size):
    alone = member(encoder_file, 1)
    config = alone.config.with_overrides({"beam_size": beam_size})
    expected = alone.caption(alone.encode(pixels()), config)
    for members in ([alone], [alone, alone]):
        ensemble = Ensemble(members)
        found = ensemble.caption(ensemble.encode(pixels()), config)
        assert [[c.text for c in captions] for captions in found] == [
            [c.text for c in captions] for captions in expected
        ]
        scores = [[c.score for c in captions] for captions in found]
        np.testing.assert_allclose(scores, [[c.score for c in captions] for captions in expected], atol=1e-4)
    assert ensemble.caption((np.zeros((0, 1, 5)),) * 2) == []


@pytest.mark.backends
def test_probabilities_are_averaged_over_decoders_of_every_kind(encoder_file):
    members = [member(encoder_file, 1), member(encoder_file, 2, decoder="attention", feature_grid=0)]
    ensemble = Ensemble(members)
    features = ensemble.encode(pixels())
    assert [part.shape for part in features] == [(3, 1, 5), (3, 4, 5)]
    tokens = ops.convert_to_tensor(np.asarray([1, 1, 1], "int32"))
    logits, state = ensemble.decoder.step(tokens, ensemble.decoder.init_state(features))
    expected = []
    for one, part in zip(members, features, strict=True):
        alone, _ = one.decoder.step(tokens, one.decoder.init_state(ops.convert_to_tensor(part)))
        expected.append(ops.convert_to_numpy(ops.softmax(alone)))
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(logits)), np.mean(expected, axis=0), atol=1e-5)
    assert all(leaf.shape[0] == 3 for leaf in keras.tree.flatten(state))
    assert len(ensemble.caption(features, ensemble.config.with_overrides({"beam_size": 2}))) == 3


def test_several_views_average_what_is_said_of_each(encoder_file):
    members = [member(encoder_file, 1, decoder="attention", feature_grid=0), member(encoder_file, 2)]
    ensemble = Ensemble(members, views=2)
    assert ensemble.views == [0, 1, 0, 1]
    mirrored = pixels()[:, :, ::-1]
    features = [made.encode(shown) for made in members for shown in (pixels(), mirrored)]
    for found, expected in zip(ensemble.encode(pixels()), features, strict=True):
        np.testing.assert_array_equal(found, expected)
    tokens = ops.convert_to_tensor(np.asarray([1, 1, 1], "int32"))
    logits, _ = ensemble.decoder.step(tokens, ensemble.decoder.init_state(ensemble.encode(pixels())))
    of_each = []
    for made, part in zip([members[0], members[0], members[1], members[1]], features, strict=True):
        alone, _ = made.decoder.step(tokens, made.decoder.init_state(ops.convert_to_tensor(part)))
        of_each.append(ops.convert_to_numpy(ops.softmax(alone)))
    np.testing.assert_allclose(np.exp(ops.convert_to_numpy(logits)), np.mean(of_each, axis=0), atol=1e-5)
    assert len(Ensemble(members[:1], views=2).caption((*features[:2],))) == 3


@pytest.mark.slow
def test_batches_of_several_stores_caption_like_arrays(encoder_file, make_store):
    members = [member(encoder_file, 1), member(encoder_file, 2, decoder="attention", feature_grid=0)]
    names = [f"{i}.jpg" for i in range(5)]
    stores = [make_store(names, shape=shape, folder=str(shape)) for shape in ((1, 5), (4, 5))]
    ensemble = Ensemble(members)
    found = ensemble.caption(EnsembleBatches([FeatureBatches(store, names, 2) for store in stores]))
    arrays = tuple(store.read(np.asarray([store.rows[name] for name in names])) for store in stores)
    expected = ensemble.caption(arrays)
    assert [c[0].text for c in found[:5]] == [c[0].text for c in expected]


def test_members_that_do_not_fit_are_refused(encoder_file):
    with pytest.raises(UserError, match="different words"):
        Ensemble([member(encoder_file, 1), member(encoder_file, 1, words=Vocabulary(["other"]))])
    with pytest.raises(UserError, match="image_size"):
        Ensemble([member(encoder_file, 1), member(encoder_file, 1, image_size=48)])


def test_captions_longer_than_a_member_can_keep_in_mind_are_refused(encoder_file):
    changes = {"feature_grid": 0, "hidden_size": 8, "embedding_size": 8}
    short = member(encoder_file, 1, decoder="transformer", heads=2, layers=1, max_caption_length=4, **changes)
    together = Ensemble([member(encoder_file, 2, max_caption_length=5), short])
    features = together.encode(pixels())
    with pytest.raises(UserError, match="max_caption_length: this transformer was built for 4 words"):
        together.caption(features)
    assert together.caption(features, together.config.with_overrides({"max_caption_length": 4, "min_length": 1}))
