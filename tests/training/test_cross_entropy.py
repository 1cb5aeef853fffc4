"""Cross-entropy: what the loss counts, and what it leaves out."""

import keras
import numpy as np
import pytest
from keras import ops

from captioning.decoders.build import build_decoder
from captioning.training.cross_entropy import CaptionTrainer
from captioning.words.vocabulary import END, PAD, START, UNK
from config import Config

V = 11


def words(rows: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets ``(rows, length)`` of different lengths, padded, and logits ``(rows, length, V)``."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, V, (rows, length)).astype("int32")
    for row in range(rows):
        targets[row, 1 + (row + seed) % length :] = PAD
    return targets, rng.normal(0, 2, (rows, length, V)).astype("float32")


def numpy_losses(targets: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of each word, and the mean over the vocabulary of -log p beside it."""
    logits = logits.astype("float64")
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    real = targets != PAD
    return -np.take_along_axis(log_p, targets[..., None], -1)[..., 0][real], -log_p.mean(-1)[real]


def decoder(**changes):
    keras.utils.set_random_seed(0)
    config = Config(embedding_size=6, hidden_size=5, dropout=0.0, decoder="merge").with_overrides(changes)
    return build_decoder(config, V, 2, 3)


def loss(trainer: CaptionTrainer, targets, logits, **kwargs) -> float:
    value = trainer.cross_entropy(
        y=ops.convert_to_tensor(targets), y_pred={"logits": ops.convert_to_tensor(logits)}, **kwargs
    )
    return float(ops.convert_to_numpy(value))


def test_loss_is_the_mean_over_words():
    targets, logits = words(5, 7)
    assert loss(CaptionTrainer(decoder()), targets, logits) == pytest.approx(numpy_losses(targets, logits)[0].mean())


def test_padding_counts_for_nothing():
    targets, logits = words(5, 7)
    wider = np.pad(targets, ((0, 0), (0, 4)), constant_values=PAD)
    wider_logits = np.concatenate([logits, np.random.default_rng(1).normal(0, 9, (5, 4, V)).astype("float32")], axis=1)
    trainer = CaptionTrainer(decoder(), label_smoothing=0.2)
    assert loss(trainer, wider, wider_logits) == pytest.approx(loss(trainer, targets, logits), rel=1e-6)


@pytest.mark.backends
def test_padding_moves_no_weight():
    features = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    tokens = np.pad(words(5, 7)[0], ((0, 0), (0, 1)))
    trained = []
    for padding in (0, 4):
        trainer = CaptionTrainer(decoder())
        trainer.compile(optimizer=keras.optimizers.SGD(1.0))
        padded = np.pad(tokens, ((0, 0), (0, padding)))
        trainer.train_on_batch((features, padded[:, :-1]), padded[:, 1:])
        trained.append(trainer.decoder.get_weights())
    for plain, padded in zip(*trained, strict=True):
        np.testing.assert_allclose(padded, plain, atol=1e-6)


@pytest.mark.backends
def test_nll_is_exact_over_batches_of_different_size():
    trainer = CaptionTrainer(decoder(), label_smoothing=0.3)
    every = []
    for seed, (rows, length) in enumerate([(5, 7), (2, 3), (9, 1)]):
        targets, logits = words(rows, length, seed)
        loss(trainer, targets, logits)
        every.append(numpy_losses(targets, logits)[0])
    assert float(trainer.nll.result()) == pytest.approx(np.concatenate(every).mean(), rel=1e-5)


def test_label_smoothing_is_for_training_only():
    targets, logits = words(5, 7)
    trainer = CaptionTrainer(decoder(), label_smoothing=0.2)
    nll, uniform = (part.mean() for part in numpy_losses(targets, logits))
    assert loss(trainer, targets, logits) == pytest.approx(0.8 * nll + 0.2 * uniform)
    assert loss(trainer, targets, logits, training=False) == pytest.approx(nll)


@pytest.mark.backends
def test_half_precision_logits_are_summed_in_full():
    targets, logits = words(40, 30)
    half = logits.astype("float16")
    expected = numpy_losses(targets, half.astype("float32"))[0].mean()
    assert loss(CaptionTrainer(decoder()), targets, half) == pytest.approx(expected, rel=1e-5)


@pytest.mark.backends
def test_word_dropout_replaces_words_in_training_only():
    seen = []

    class Spy(keras.Model):
        def see(self, features, training=None):
            return features

        def read(self, image, token_ids, training=None):
            seen.append(ops.convert_to_numpy(token_ids))
            return ops.zeros((*token_ids.shape, V)), None

        def word_logits(self, vectors, training=None):
            return vectors

    trainer = CaptionTrainer(Spy(), word_dropout=0.5)
    tokens = np.tile(np.asarray([START, *range(4, V), END, PAD], "int32"), (50, 1))
    trainer((np.zeros((50, 1, 1)), tokens), training=False)
    trainer((np.zeros((50, 1, 1)), tokens), training=True)
    tokens = tokens[:, : seen[0].shape[1]]  # the decoder may be spared what comes after the last word
    assert tokens.shape[1] >= V - 3
    np.testing.assert_array_equal(seen[0], tokens)
    changed = seen[1] != tokens
    assert (seen[1][changed] == UNK).all()
    assert not changed[:, tokens[0] <= UNK].any()
    assert 0.4 < changed[:, tokens[0] > UNK].mean() < 0.6


def test_attention_penalty_asks_for_even_shares():
    """Two real words over two regions: each region should get one look."""
    trainer = CaptionTrainer(decoder(), attention_penalty=3.0)
    trainer.compile(optimizer="sgd")
    targets = np.asarray([[4, END, PAD]], "int32")
    logits = np.zeros((1, 3, V), "float32")

    def penalty(*weights):
        weights = np.asarray([weights], "float32")
        with_it = trainer.cross_entropy(y=targets, y_pred={"logits": logits, "weights": weights}, training=True)
        without = trainer.cross_entropy(y=targets, y_pred={"logits": logits, "weights": weights}, training=False)
        return float(with_it) - float(without)

    assert penalty([0.5, 0.5], [0.5, 0.5], [0, 1]) == pytest.approx(0)
    assert penalty([1, 0], [0, 1], [0, 1]) == pytest.approx(0)
    assert penalty([1, 0], [1, 0], [0, 1]) == pytest.approx(3.0)
    # A row of padding alone is no caption.
    targets = np.asarray([[4, END, PAD], [PAD] * 3], "int32")
    logits = np.zeros((2, 3, V), "float32")
    weights = np.asarray([[[1, 0], [1, 0], [0, 1]], [[1, 0]] * 3], "float32")
    losses = [
        trainer.cross_entropy(y=targets, y_pred={"logits": logits, "weights": weights}, training=training)
        for training in (True, False)
    ]
    assert float(losses[0]) - float(losses[1]) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("attention", marks=pytest.mark.backends),
        "adaptive",
        "transformer",
        pytest.param("aoa", marks=pytest.mark.slow),
    ],
)
def test_rows_that_only_fill_a_batch_up_change_nothing(name):
    sizes = {"layers": 1, "heads": 2} if name in ("transformer", "aoa") else {}
    learner = decoder(decoder=name, feature_grid=0, hidden_size=6, **sizes)
    trainer = CaptionTrainer(learner, 0.1, attention_penalty=0.5 if name != "adaptive" else 0.0)
    trainer.compile(optimizer="sgd")
    features = np.random.default_rng(0).normal(size=(2, 2, 3)).astype("float32")
    tokens = np.asarray([[1, 4, 5, END], [1, 5, END, PAD], [1, 4, END, PAD]], "int32")
    image_of = np.asarray([0, 0, 1], "int32")

    def losses(tokens, image_of):
        trainer.reset_metrics()
        inputs = [ops.convert_to_tensor(part) for part in (features, tokens[:, :-1], image_of)]
        loss = trainer.compute_loss(inputs, tokens[:, 1:], trainer(inputs, training=True), training=True)
        return float(ops.convert_to_numpy(loss)), float(trainer.nll.result())

    filled = losses(np.pad(tokens, ((0, 2), (0, 0)), constant_values=PAD), np.pad(image_of, (0, 2)))
    assert filled == pytest.approx(losses(tokens, image_of), rel=1e-5)
