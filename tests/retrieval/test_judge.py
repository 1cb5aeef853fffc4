"""The captioner as judge: its likelihoods are those of training, and it moves candidates and nothing else."""

import keras
import numpy as np
import pytest
from keras import ops

from captioning.decoders.build import build_decoder
from captioning.decoders.likelihood import word_nll
from captioning.retrieval.judge import Judge, judgements, log_likelihoods
from captioning.words.vocabulary import PAD, Vocabulary
from config import Config
from model import Captioner

WORDS = Vocabulary(["dog", "cat", "runs", "sleeps", "in", "the", "park"])
TEXTS = ["dog runs", "a cat sleeps in the park", "cat", "the dog sleeps in the park in the park in the park"]


def captioner(decoder: str, **changes) -> Captioner:
    keras.utils.set_random_seed(0)
    config = Config(
        decoder=decoder, feature_grid=0, embedding_size=8, hidden_size=8, max_caption_length=12, dropout=0.0, **changes
    )
    made = build_decoder(config, len(WORDS), 4, 5)
    rng = np.random.default_rng(0)
    made.set_weights([rng.normal(0, 0.5, weight.shape) for weight in made.get_weights()])
    return Captioner(config, WORDS, None, made)


def features(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 4, 5)).astype("float32")


def teacher_forced(made: Captioner, image: np.ndarray, text: str) -> float:
    """Log p by the training call, one caption by itself."""
    tokens = WORDS.encode(text, made.config.max_caption_length)[None]
    nll, _ = word_nll(made.decoder(image[None], tokens[:, :-1]), tokens[:, 1:])
    return -float(ops.convert_to_numpy(ops.sum(nll)))


@pytest.mark.parametrize(
    "decoder",
    # The judge treats all decoders alike, so two are enough for the fast tests.
    [
        pytest.param("merge"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("inject", "attention", "adaptive", "transformer")),
        *(pytest.param(name, marks=pytest.mark.weekly) for name in ("updown", "aoa", "m2")),
    ],
)
def test_likelihoods_are_those_of_training(decoder):
    made = captioner(decoder)
    images = features()
    pairs = np.asarray([(image, caption) for caption in (3, 0, 1, 2) for image in (2, 0, 1)])
    found = log_likelihoods(made, images.__getitem__, TEXTS, pairs)
    expected = [teacher_forced(made, images[image], TEXTS[caption]) for image, caption in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_padding_counts_for_nothing():
    made = captioner("merge")
    tokens = WORDS.encode("dog runs", 12)[None]
    images = features(1)

    def score(rows):
        inputs = (images, np.zeros(1, "int32"), rows)
        return float(ops.convert_to_numpy(Judge(made.decoder)(inputs))[0])

    assert score(np.pad(tokens, ((0, 0), (0, 5)), constant_values=PAD)) == pytest.approx(score(tokens), rel=1e-6)


def test_the_kinds_of_judgement():
    made, images = captioner("inject"), features()
    pairs = np.asarray([(0, 1), (2, 1), (1, 0)])
    found = judgements(made, images.__getitem__, TEXTS, pairs, background=[0, 1])
    log_p = np.asarray([teacher_forced(made, images[image], TEXTS[caption]) for image, caption in pairs])
    np.testing.assert_allclose(found["likelihood"], log_p, rtol=1e-4)
    np.testing.assert_allclose(found["per-word"], log_p / [7, 7, 3], rtol=1e-4)
    average = {
        caption: np.mean([teacher_forced(made, images[i], TEXTS[caption]) for i in (0, 1)]) for caption in (0, 1)
    }
    np.testing.assert_allclose(found["gain"], log_p - [average[1], average[1], average[0]], rtol=1e-3, atol=1e-4)
    alone = judgements(made, images.__getitem__, TEXTS, pairs)
    np.testing.assert_array_equal(alone["gain"], alone["likelihood"])
