"""How training reads captions: what is saved on padding and on images changes no logit, no loss and no step."""

import keras
import numpy as np
import pytest
from helpers import DECODERS, compile_built, small_sizes
from keras import ops

from captioning.decoders.base import RegionDecoder
from captioning.decoders.build import decoder_class
from captioning.decoders.loops import LoopDecoder
from captioning.training import cross_entropy
from captioning.training.cross_entropy import CaptionTrainer
from captioning.training.reading import at_places, read_captions
from captioning.words.vocabulary import END, PAD, START

V, R, D, S = 13, 3, 5, 3
EACH = [
    pytest.param(name, marks=pytest.mark.backends if name == "attention" else pytest.mark.slow) for name in DECODERS
]


def make(name: str):
    keras.utils.set_random_seed(0)
    sizes = {"vocabulary_size": V, "regions": R, "feature_size": D, "embedding_size": 6, "hidden_size": 8}
    return decoder_class(name)(dropout=0.0, **sizes, **small_sizes(name))


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Features ``(2, R, D)``, and tokens ``(2, S, 7)``: one caption is cut, and one is not there."""
    features = np.random.default_rng(0).normal(size=(2, R, D)).astype("float32")
    tokens = np.full((2, S, 7), PAD, "int32")
    for image, place, words in (
        *((0, 0, [4, 5, 6, 7, 8, 9]), (0, 1, [6, 7, END]), (0, 2, [5, END])),
        *((1, 0, [9, 4, 12, END]), (1, 1, [8, END])),
    ):
        tokens[image, place, : len(words) + 1] = [START, *words]
    return features, tokens


@pytest.mark.parametrize("name", EACH)
def test_logits_of_words_are_those_of_whole_captions(name):
    decoder, (features, tokens) = make(name), batch()
    inputs = tokens[..., :-1]
    expected = ops.convert_to_numpy(decoder(np.repeat(features, S, axis=0), inputs.reshape(2 * S, -1)))
    image = decoder.see(ops.convert_to_tensor(features))
    found = read_captions(decoder, image, ops.convert_to_tensor(inputs), ops.convert_to_tensor(inputs))
    targets = ops.convert_to_numpy(at_places(ops.convert_to_tensor(tokens[..., 1:]), found))
    assert sorted(targets) == sorted(tokens[..., 1:][tokens[..., 1:] != PAD]), "every word once, and no padding"
    places = ops.convert_to_numpy(found["places"])
    np.testing.assert_allclose(
        ops.convert_to_numpy(found["logits"]), expected.reshape(-1, V)[places], rtol=1e-4, atol=1e-5
    )


def once(function):
    """``function``, which may be called once."""
    results = iter([function])
    return lambda *args: next(results)(*args)


@pytest.mark.parametrize("name", EACH)
def test_images_seen_with_dropout_and_without_are_those_seen_one_by_one(name, monkeypatch):
    """Self-critical training sees an image both ways. Its regions are projected once."""
    features = ops.convert_to_tensor(batch()[0])
    sizes = {"vocabulary_size": V, "regions": R, "feature_size": D, "embedding_size": 6, "hidden_size": 8}
    found = []
    for both in (True, False):
        keras.utils.set_random_seed(0)
        decoder = decoder_class(name)(dropout=0.5, **sizes, **small_sizes(name))
        if both and isinstance(decoder, RegionDecoder):
            monkeypatch.setattr(decoder, "project_regions", once(decoder.project_regions))
        seen = decoder.see_both(features) if both else (decoder.see(features, True), decoder.see(features, False))
        found.append([ops.convert_to_numpy(part) for part in keras.tree.flatten(seen)])
    for part, alone in zip(*found, strict=True):
        np.testing.assert_allclose(part, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "ended"),
    [
        ([[7, 2, 2, 1, 0], [5, 4, 3, 0, 0]], 3),
        ([[7, 7, 7, 7, 7], [7, 7, 7, 7, 7]], 7),  # all end together, with the batch
        ([[7, 1, 0, 0, 0], [1, 0, 0, 0, 0]], 1),  # the later ones are not there
        ([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]], 1),  # <end> is all there is to predict
        ([[2, 2, 7, 1, 1], [1, 1, 1, 1, 1]], 7),  # the longest one is not the first
    ],
)
@pytest.mark.parametrize("name", [name for name in EACH if issubclass(decoder_class(name.values[0]), LoopDecoder)])
def test_the_loop_goes_on_without_captions_that_have_ended(name, lengths, ended, monkeypatch):
    decoder = make(name)
    features = np.random.default_rng(0).normal(size=(2, R, D)).astype("float32")
    tokens = np.random.default_rng(1).integers(4, V, size=(2, 5, 8), dtype=np.int32)
    tokens[..., 0] = START
    for place in np.ndindex(2, 5):
        length = lengths[place[0]][place[1]]  # the words and <end>, which is cut off after seven
        tokens[place][length] = END if length < 7 else tokens[place][length]
        tokens[place][length + 1 if length else 0 :] = PAD
    expected = ops.convert_to_numpy(decoder(np.repeat(features, 5, axis=0), tokens[..., :-1].reshape(10, -1)))
    endings, read = [], decoder.read
    monkeypatch.setattr(decoder, "read", lambda *args: endings.append(args[3]) or read(*args))
    inputs = ops.convert_to_tensor(tokens[..., :-1])
    found = read_captions(decoder, decoder.see(ops.convert_to_tensor(features)), inputs, inputs)
    assert (int(endings[0].step), endings[0].kept) == (ended, 2)
    places = ops.convert_to_numpy(found["places"])
    assert sorted(places) == list(np.flatnonzero((tokens[..., 1:] != PAD).ravel()))
    found = ops.convert_to_numpy(found["logits"])
    np.testing.assert_allclose(found, expected.reshape(-1, V)[places], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("penalty", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_step_is_that_of_captions_with_images_of_their_own(name, penalty, monkeypatch):
    if penalty and (decoder_class(name).has_sentinel or not decoder_class(name).attends):
        pytest.skip("it takes no attention penalty")
    features, tokens = batch()
    steps = []
    for shared in (True, False):
        trainer = CaptionTrainer(make(name), label_smoothing=0.1, attention_penalty=penalty)
        compile_built(trainer, keras.optimizers.SGD(0.5), steps=1)
        if not shared:
            features, tokens = np.repeat(features, S, axis=0), tokens.reshape(2 * S, -1)
            monkeypatch.setattr(cross_entropy, "needs_fixed_shapes", lambda jit_compile: True)  # padding is read too
        loss = trainer.train_on_batch((features, tokens[..., :-1]), tokens[..., 1:])
        steps.append((float(np.ravel(loss)[0]), trainer.decoder.get_weights()))
    (loss, weights), (plain_loss, plain_weights) = steps
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    for found, expected in zip(weights, plain_weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_batches_whose_captions_end_together_are_learned_from():
    """The loop then has nothing to leave out. TensorFlow fails on a loop without steps, once batches differ in size."""
    features, tokens = batch()
    tokens[:] = [START, 5, 6, 7, END, PAD, PAD]
    trainer = CaptionTrainer(make("attention"))
    compile_built(trainer, keras.optimizers.SGD(0.5))
    found = [trainer.train_on_batch((features[:n], tokens[:n, :, :-1]), tokens[:n, :, 1:]) for n in (2, 1, 2)]
    losses = [float(np.ravel(loss)[0]) for loss in found]
    assert losses[2] < losses[0]
