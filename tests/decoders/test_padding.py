"""Images with different numbers of regions: padded regions change nothing, and real ones count."""

import keras
import numpy as np
import pytest
from helpers import DECODERS, small_sizes
from keras import ops

from captioning.base.regions import mean_over_regions, region_mask
from captioning.decoders.base import OneVectorDecoder
from captioning.decoders.build import decoder_class
from captioning.search.compiled import Search
from captioning.training.cross_entropy import CaptionTrainer
from config import Config

VOCABULARY, REGIONS, FEATURES = 20, 4, 6
COUNTS = (4, 2, 1)  # the regions of each of three images


def make(name: str, padded: bool = True) -> keras.Model:
    keras.utils.set_random_seed(0)
    kind, sizes = decoder_class(name), {"embedding_size": 8, "hidden_size": 8, "dropout": 0.0, **small_sizes(name)}
    decoder = kind(vocabulary_size=VOCABULARY, regions=REGIONS, feature_size=FEATURES, padded=padded, **sizes)
    rng = np.random.default_rng(1)
    decoder.set_weights([rng.normal(0, 0.5, weight.shape) for weight in decoder.get_weights()])
    return decoder


def batch(further: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of the three images with ``further`` padded regions, and a caption of each."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(COUNTS), REGIONS, FEATURES)).astype("float32")
    for image, count in zip(features, COUNTS, strict=True):
        image[count:] = 0
    return np.pad(features, ((0, 0), (0, further), (0, 0))), rng.integers(4, VOCABULARY, (3, 4)).astype("int32")


def logits(decoder, features, tokens) -> np.ndarray:
    return ops.convert_to_numpy(decoder(features, tokens))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.backends if name == "attention" else pytest.mark.slow) for name in DECODERS],
)
def test_padded_regions_change_nothing(name):
    decoder, (features, tokens) = make(name), batch()
    found = logits(decoder, features, tokens)
    np.testing.assert_allclose(logits(decoder, batch(3)[0], tokens), found, atol=1e-5)
    assert np.abs(found).max() > 0.5
    # The same without any mask, for an image whose regions are all real.
    if not isinstance(decoder, OneVectorDecoder):
        plain = make(name, padded=False)
        np.testing.assert_allclose(logits(plain, features[1:2, :2], tokens[1:2]), found[1:2], atol=1e-5)
    # Step by step, with padding.
    state = decoder.init_state(ops.convert_to_tensor(batch(3)[0]))
    for t in range(2):
        stepped, state = decoder.step(ops.convert_to_tensor(tokens[:, t]), state)
        np.testing.assert_allclose(ops.convert_to_numpy(stepped), found[:, t], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=getattr(pytest.mark, "slow" if name == "attention" else "weekly")) for name in DECODERS],
)
def test_searches_and_attention_leave_padding_out(name):
    decoder, (features, tokens) = make(name), batch()
    search = Search(decoder, Config(beam_size=2, max_caption_length=5))
    search.compile()
    found, more = (search.predict_on_batch(each) for each in (features, batch(3)[0]))
    np.testing.assert_array_equal(more[0], found[0])
    np.testing.assert_allclose(more[1], found[1], atol=1e-5)
    if decoder.attends:
        weights = ops.convert_to_numpy(decoder.attend(batch(3)[0], tokens)[1])
        np.testing.assert_array_equal(weights[1, :, 2 : REGIONS + 3], 0)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


def test_a_region_of_zeros_is_padding():
    features = np.array([[[1.0, 0], [0, 0], [3, 2]], [[0, 0], [0, 0], [0, 0]]], "float32")
    mask = ops.convert_to_numpy(region_mask(features))
    np.testing.assert_array_equal(mask, [[True, False, True], [False, False, False]])
    mean = ops.convert_to_numpy(mean_over_regions(ops.convert_to_tensor(features), mask))
    np.testing.assert_allclose(mean, [[2, 1], [0, 0]])


@pytest.mark.slow
def test_the_attention_penalty_counts_real_regions():
    """Padding neither takes a share of the looks nor adds to the loss."""
    losses = []
    for further in (0, 3):
        trainer = CaptionTrainer(make("attention"), attention_penalty=1.0)
        trainer.compile(optimizer="sgd", run_eagerly=True)
        features, tokens = batch(further)
        losses.append(trainer.train_on_batch((features, tokens[:, :-1]), tokens[:, 1:], return_dict=True)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
