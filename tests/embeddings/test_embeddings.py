"""Word embeddings: none looks ahead, decoding gives the vectors of training, and frozen vectors do not change."""

import itertools

import h5py
import keras
import numpy as np
import pytest
from helpers import DECODERS, compile_built, each_decoder, fake_arrays, small_sizes
from keras import ops

from captioning.decoders.base import Decoder
from captioning.decoders.build import decoder_class
from captioning.decoders.ensemble import EnsembleDecoder
from captioning.embeddings.base import WordEmbedding
from captioning.embeddings.bert import SPARE
from captioning.embeddings.build import build_embedding
from captioning.embeddings.learned import LearnedEmbedding
from captioning.embeddings.prefix import PrefixEmbedding
from captioning.search.compiled import Search
from captioning.training.cross_entropy import CaptionTrainer
from captioning.training.self_critical import Sampler
from captioning.words.vocabulary import END, PAD, START
from config import Config

VOCABULARY, REGIONS, FEATURES, LENGTH = 40, 3, 7, 7
KINDS = ("learned", "file", "bert-prefix")


def embed(kind: str, **changes) -> WordEmbedding | None:
    settings = {"embedding": kind, "embedding_size": 12, "embedding_file": "f" if kind == "file" else ""}
    return build_embedding(Config(**settings, **changes), fake_arrays(kind, VOCABULARY))


def make(decoder: str, embedding: WordEmbedding | None, **sizes) -> Decoder:
    """Weights as large as trained ones, biases included, so that every part counts; pretrained ones as they are."""
    made = decoder_class(decoder)(
        vocabulary_size=VOCABULARY, regions=REGIONS, feature_size=FEATURES, embedding_size=12, hidden_size=10,
        dropout=0.3, embedding=embedding, **small_sizes(decoder), **sizes,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    for weight in made.trainable_weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return made


def batch(rows: int = 4, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, REGIONS, FEATURES)).astype("float32")
    return features, rng.integers(0, VOCABULARY, (rows, length)).astype("int32")


def run(decoder, features, tokens) -> np.ndarray:
    return ops.convert_to_numpy(decoder(features, tokens))


@pytest.fixture(params=each_decoder(sorted(DECODERS)))
def decoder(request) -> str:
    return request.param


# One pair shows that a backend agrees: attention reads every part of a state, and a BERT has most code of its own.
EVERYWHERE = {("attention", "bert-prefix"): pytest.mark.backends}
PAIRS = [
    pytest.param(*decoder.values, kind, marks=decoder.marks or EVERYWHERE.get((*decoder.values, kind), ()))
    for decoder, kind in itertools.product(each_decoder(DECODERS, few=True), KINDS)
]


# No leak -------------------------------------------------------------------------------------------------------------


def leaks(decoder: Decoder) -> bool:
    """Whether a change of later tokens, one or all of them, moves a single bit of earlier logits.

    The well-known BERT captioner would fail here: its BERT had read the caption that the decoder had to predict.
    """
    features, tokens = batch()
    before = run(decoder, features, tokens)
    for t, stop in [(0, LENGTH), *((t, t + 2) for t in range(LENGTH - 1))]:
        changed = tokens.copy()
        changed[:, t + 1 : stop] = (changed[:, t + 1 : stop] + 7) % VOCABULARY
        after = run(decoder, features, changed)
        assert (after[:, t + 1] != before[:, t + 1]).any(-1).all(), "every logit depends on its own word"
        if not np.array_equal(after[:, : t + 1], before[:, : t + 1]):
            return True
    return False


@pytest.mark.parametrize(("decoder", "kind"), PAIRS)
def test_no_logit_depends_on_a_later_word(decoder, kind):
    assert not leaks(make(decoder, embed(kind)))


@pytest.mark.parametrize("trainable", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_logit_depends_on_a_later_word_with_the_vectors_of_bert(decoder, trainable):
    assert not leaks(make(decoder, embed("bert-static", embedding_trainable=trainable)))


@pytest.mark.parametrize(
    "decoder",
    [
        pytest.param(name, marks=() if name == "attention" else pytest.mark.slow)
        for name in sorted(DECODERS)
        if decoder_class(name).attends
    ],
)
def test_no_logit_depends_on_a_later_word_with_an_output_of_its_own(decoder):
    assert not leaks(make(decoder, embed("learned"), untied_output=True))


class TwoWayBert(PrefixEmbedding):
    """The same BERT without the causal mask."""

    def _layer(self, layer, x, keys, values, allowed):
        return super()._layer(layer, x, keys, values, ops.ones_like(allowed))


class NextWord(LearnedEmbedding):
    """Adds a faint trace of the next word."""

    def call(self, token_ids):
        vectors = super().call(token_ids)
        return vectors + 1e-4 * ops.roll(vectors, -1, axis=1)


@pytest.mark.parametrize("leaking", ["bert", "next word"])
def test_the_guard_finds_an_embedding_that_looks_ahead(decoder, leaking):
    if leaking == "bert":
        arrays = fake_arrays("bert-prefix", VOCABULARY)
        embedding = TwoWayBert({name: list(array.shape) for name, array in arrays.items()}, 12)
        embedding.fill(arrays)
    else:
        embedding = NextWord(VOCABULARY, 12)
    assert leaks(make(decoder, embedding))


# Training and decoding -----------------------------------------------------------------------------------------------


def stepped(decoder, features, tokens) -> np.ndarray:
    state, found = decoder.init_state(ops.convert_to_tensor(features)), []
    for t in range(tokens.shape[1]):
        logits, state = decoder.step(ops.convert_to_tensor(tokens[:, t]), state)
        found.append(ops.convert_to_numpy(logits))
    return np.stack(found, axis=1)


@pytest.mark.parametrize(("decoder", "kind"), PAIRS)
def test_stepped_logits_equal_teacher_forced_ones(decoder, kind):
    made = make(decoder, embed(kind))
    features, tokens = batch()
    expected = run(made, features, tokens)
    np.testing.assert_allclose(stepped(made, features, tokens), expected, atol=2e-4)
    assert np.abs(expected).max() > 1


def test_a_caption_of_too_many_pieces_is_read_alike_in_training_and_decoding():
    made = make("merge", embed("bert-prefix"))
    features, tokens = batch()
    tokens[:] = tokens // 3 * 3 + 2  # words of three pieces, all of them
    tokens[tokens >= VOCABULARY] = 2
    assert 2 * LENGTH > SPARE
    assert not leaks_in(made, features, tokens)
    np.testing.assert_allclose(stepped(made, features, tokens), run(made, features, tokens), atol=2e-4)


def leaks_in(decoder, features, tokens) -> bool:
    before = run(decoder, features, tokens)
    changed = tokens.copy()
    changed[:, 4:] = 3  # a word of one piece
    return not np.array_equal(run(decoder, features, changed)[:, :4], before[:, :4])


def test_every_earlier_word_and_piece_counts():
    embedding = embed("bert-prefix")
    tokens = np.asarray([[1, 5, 8, 6]], dtype="int32")  # of 2, 3, 3 and 1 pieces
    before = ops.convert_to_numpy(embedding(tokens))
    for t in range(3):
        changed = tokens.copy()
        changed[:, t] += 3
        assert (ops.convert_to_numpy(embedding(changed))[:, t:] != before[:, t:]).any(-1).all()
    pieces = ops.convert_to_numpy(embedding.arrays["pieces"].value)
    assert (pieces[8] >= 0).all()
    other = pieces.copy()
    other[8, 0] = (other[8, 0] + 1) % 30
    embedding.arrays["pieces"].assign(other)
    after = ops.convert_to_numpy(embedding(tokens))
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (after[:, 2:] != before[:, 2:]).any(-1).all()


def log_probability(decoder, features, tokens) -> np.ndarray:
    """Log p of captions ``tokens (N, L)``, teacher-forced: ``(N,)``."""
    inputs = np.concatenate([np.full((len(tokens), 1), START, "int32"), tokens[:, :-1]], axis=1)
    logits = run(decoder, features, inputs).astype("float64")
    logits[..., [0, 1, 3]] = -1e9  # never drawn
    logits[:, 0, END] = -1e9  # no caption is empty
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return (np.take_along_axis(log_p, tokens[..., None], -1)[..., 0] * (tokens != PAD)).sum(-1)


@pytest.mark.parametrize(
    ("beam_size", "decoder"),
    [
        (4, "merge"),
        pytest.param(4, "transformer", marks=pytest.mark.slow),
        pytest.param(4, "attention", marks=pytest.mark.slow),
        pytest.param(1, "transformer", marks=pytest.mark.slow),
    ],
)
def test_the_state_of_a_search_follows_its_captions(decoder, beam_size):
    """Otherwise a caption's probability would not be what the decoder gives it when it reads the caption at once."""
    made = make(decoder, embed("bert-prefix"))
    features, _ = batch(rows=3)
    search = Search(made, Config(beam_size=beam_size, max_caption_length=LENGTH))
    search.compile()
    tokens, log_probs, _ = search.predict(features, verbose=0)
    assert len(np.unique(tokens.reshape(-1, LENGTH + 1), axis=0)) >= beam_size
    for rank in range(beam_size):
        expected = log_probability(made, features, tokens[:, rank])
        np.testing.assert_allclose(log_probs[:, rank], expected, atol=1e-2)


@pytest.mark.slow
def test_sampling_and_ensembles():
    members = [make("merge", embed("bert-prefix")), make("attention", embed("file"))]
    features, _ = batch(rows=2)
    drawn = Sampler(members[0], LENGTH).predict_on_batch((features, np.full((2, 3, LENGTH + 1), 0.4, "float32")))
    assert np.asarray(drawn).shape == (2, 3, LENGTH + 1)
    together = EnsembleDecoder([members[0], members[0]])
    search = Search(together, Config(beam_size=3, max_caption_length=LENGTH))
    alone = Search(members[0], Config(beam_size=3, max_caption_length=LENGTH))
    search.compile()
    alone.compile()
    expected = alone.predict(features, verbose=0)[0]
    np.testing.assert_array_equal(search.predict((features, features), verbose=0)[0], expected)
    assert stepped_ensemble(EnsembleDecoder(members), features).shape == (2, VOCABULARY)


def stepped_ensemble(decoder, features):
    state = decoder.init_state((ops.convert_to_tensor(features),) * 2)
    return decoder.step(ops.convert_to_tensor(np.full(2, START, "int32")), state)[0]


# Weights -------------------------------------------------------------------------------------------------------------


def saved_arrays(path) -> dict[str, tuple[int, ...]]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item.shape}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize(
    ("kind", "tuned"),
    [
        ("file", False),
        pytest.param("file", True, marks=pytest.mark.backends),
        ("bert-static", True),
        pytest.param("bert-prefix", False, marks=pytest.mark.backends),
    ],
)
def test_what_is_frozen_stays_and_is_no_part_of_checkpoints(kind, tuned, tmp_path):
    embedding = embed(kind, **({"embedding_trainable": True} if tuned else {}))
    made = make("attention", embedding)
    before = made.get_weights()
    trainer = CaptionTrainer(made)
    compile_built(trainer, keras.optimizers.SGD(1.0), steps=1)
    features, tokens = batch(rows=32)
    trainer.train_on_batch((features, tokens[:, :-1]), tokens[:, 1:])
    arrays = {id(weight) for weight in embedding.arrays.values()}
    for old, weight in zip(before, made.weights, strict=True):
        learns = tuned or id(weight) not in arrays
        assert weight.trainable == learns
        assert np.array_equal(old, ops.convert_to_numpy(weight)) != learns, weight.path

    made.save_weights(tmp_path / "decoder.weights.h5")
    kept = saved_arrays(tmp_path / "decoder.weights.h5")
    assert ("embedding/vars/0" in kept) == tuned
    other = make("attention", embed(kind, **({"embedding_trainable": True} if tuned else {})))
    other.load_weights(tmp_path / "decoder.weights.h5")
    np.testing.assert_array_equal(run(other, features, tokens), run(made, features, tokens))


def test_a_decoder_without_a_learned_embedding_has_output_weights_of_its_own():
    tied, untied, vectors = (
        make("attention", None),
        make("attention", None, untied_output=True),
        make("attention", embed("file")),
    )
    shapes = [tuple(weight.shape) for weight in untied.weights]
    assert [tuple(weight.shape) for weight in tied.weights] == [s for i, s in enumerate(shapes) if i != 1]
    assert shapes[1] == tuple(vectors.weights[1].shape) == (VOCABULARY, 12)
    features, tokens = batch()
    before = run(untied, features, tokens)
    untied.output_table.assign(2 * untied.output_table)
    np.testing.assert_allclose(
        run(untied, features, tokens), 2 * before - ops.convert_to_numpy(untied.output_bias), atol=1e-4
    )


@pytest.mark.parametrize(("decoder", "kind"), PAIRS)
def test_config_round_trip(decoder, kind):
    made = make(decoder, embed(kind))
    twin = type(made).from_config(made.get_config())
    assert twin.get_config() == made.get_config()
    twin.set_weights(made.get_weights())
    features, tokens = batch()
    np.testing.assert_array_equal(run(twin, features, tokens), run(made, features, tokens))


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("learned", "bfloat16"),
        pytest.param("file", "float16", marks=pytest.mark.slow),
        pytest.param("bert-prefix", "float16", marks=[pytest.mark.backends, pytest.mark.slow]),
        pytest.param("bert-prefix", "bfloat16", marks=pytest.mark.slow),
        pytest.param("file", "bfloat16", marks=pytest.mark.slow),
        pytest.param("learned", "float16", marks=pytest.mark.slow),
    ],
)
def test_half_precision(kind, precision):
    keras.mixed_precision.set_dtype_policy(f"mixed_{precision}")
    try:
        made = make("attention", embed(kind))
        features, tokens = batch()
        trainer = CaptionTrainer(made, word_dropout=0.2)
        compile_built(trainer, keras.optimizers.Adam(1e-3), steps=1)
        loss = trainer.train_on_batch((features, tokens[:, :-1]), tokens[:, 1:])
        search = Search(made, Config(beam_size=2, max_caption_length=5))
        search.compile()
        assert np.isfinite(search.predict(features, verbose=0)[1][:, 0]).all()
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert np.isfinite(loss).all()
