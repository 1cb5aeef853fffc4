"""A decoder takes over the weights of one that knows fewer words."""

import keras
import numpy as np
import pytest
from helpers import fake_arrays
from keras import ops

from captioning.decoders.build import build_decoder
from captioning.decoders.widening import take_weights
from captioning.words.vocabulary import SPECIALS
from config import DecoderSettings

KNOWN, ALL = 9, 12
SIZES = {"embedding_size": 8, "hidden_size": 8, "max_caption_length": 11}


def decoder(settings: DecoderSettings, words: int):
    arrays = fake_arrays(settings.embedding, ALL)
    name = "pieces" if settings.embedding == "bert-prefix" else "vectors"
    arrays = arrays and {**arrays, name: arrays[name][:words]}
    return build_decoder(settings, words, regions=4, feature_size=5, pretrained=arrays)


@pytest.mark.parametrize(
    "kind",
    [
        {"decoder": "merge"},
        {"decoder": "attention", "attention_size": 8},
        pytest.param(
            {"decoder": "adaptive", "attention_size": 8, "embedding": "bert-static", "embedding_trainable": True},
            marks=pytest.mark.backends,
        ),
        pytest.param({"decoder": "inject", "embedding": "bert-prefix"}, marks=pytest.mark.slow),
        pytest.param({"decoder": "adaptive", "attention_size": 8, "embedding": "bert-static"}, marks=pytest.mark.slow),
        pytest.param(
            {"decoder": "transformer", "heads": 2, "layers": 1, "untied_output": True}, marks=pytest.mark.slow
        ),
        pytest.param({"decoder": "updown", "attention_size": 8}, marks=pytest.mark.slow),
        pytest.param({"decoder": "m2", "heads": 2, "layers": 2, "memory_slots": 3}, marks=pytest.mark.slow),
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)
def test_known_words_are_predicted_as_before_and_new_ones_can_be_learned(kind):
    settings = DecoderSettings(**SIZES, **kind)
    keras.utils.set_random_seed(1)
    old, new = decoder(settings, KNOWN), decoder(settings, ALL)
    rng = np.random.default_rng(0)
    for weight in old.trainable_weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    take_weights(new, old)
    features, tokens = rng.normal(size=(2, 4, 5)).astype("float32"), np.array([[1, 4, 8, 6], [1, 3, 5, 7]])
    before, after = (ops.convert_to_numpy(each(features, tokens)) for each in (old, new))
    np.testing.assert_allclose(after[..., :KNOWN], before, rtol=1e-4, atol=1e-4)
    assert np.isfinite(after).all()
    further = after[..., KNOWN:]
    assert len(np.unique(further.round(5), axis=-1).T) == ALL - KNOWN, "new words start apart from each other"
    ordinary = before[..., len(SPECIALS) :]
    spread = ordinary.std() + abs(ordinary).max()
    assert abs(further.mean() - ordinary.mean()) < spread, "and about as likely as known ones"


def test_a_decoder_of_the_same_words_gets_the_same_weights():
    settings = DecoderSettings(**SIZES, decoder="merge")
    old, new = decoder(settings, KNOWN), decoder(settings, KNOWN)
    take_weights(new, old)
    assert all(np.array_equal(*pair) for pair in zip(old.get_weights(), new.get_weights(), strict=True))
