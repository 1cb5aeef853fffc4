"""Self-critical training: the loss that rewards weigh, batches of whole images, and that it makes captions better."""

import keras
import numpy as np
import pytest
from helpers import compile_built
from keras import ops

from captioning.base.errors import UserError
from captioning.decoders.build import build_decoder
from captioning.decoders.likelihood import word_nll
from captioning.search.rules import PLAIN
from captioning.search.sampling import ban_unsampled
from captioning.training import similar_images
from captioning.training.image_batches import ReferenceBatches
from captioning.training.rewards import Rewards
from captioning.training.self_critical import SelfCritic, SelfCriticalTrainer
from captioning.training.similar_images import most_similar
from captioning.words.vocabulary import END, PAD, START, UNK, Vocabulary
from config import Config

WORDS = Vocabulary(["dog", "cat", "runs", "sleeps"])
V = len(WORDS)
SETTINGS = {
    "stage": "scst",
    "init": "runs/x",
    "decoder": "merge",
    "embedding_size": 8,
    "hidden_size": 8,
    "dropout": 0.0,
    "max_caption_length": 4,
    "vocab_threshold": 1,
    "batch_size": 6,
}


def critic(make_store, **changes) -> SelfCritic:
    """Over 12 images of a dog that runs or a cat that sleeps, with two captions each."""
    keras.utils.set_random_seed(0)
    config = Config(**{**SETTINGS, **changes})
    names = [f"{i:02}.jpg" for i in range(12)]
    store = make_store(names, shape=(1, 5))
    captions = [
        (name, text)
        for i, name in enumerate(names)
        for text in (["dog runs", "dog dog runs"], ["cat sleeps", "cat"])[i % 2]
    ]
    batches = ReferenceBatches(store, captions, WORDS, config)
    rewards = Rewards([(store.rows[name], text) for name, text in captions], WORDS, config)
    trainer = SelfCriticalTrainer(build_decoder(config, V, 1, 5), config)
    compile_built(trainer, keras.optimizers.Adam(0.02))
    return SelfCritic(trainer, batches, rewards, config)


def test_similar_images_have_the_nearest_features(make_store, monkeypatch):
    monkeypatch.setattr(similar_images, "_READ", 5)
    store = make_store([f"{i:02}.jpg" for i in range(12)], shape=(2, 5))
    rows = np.asarray([11, 3, 5, 0, 7, 2, 9])
    found = most_similar(store, rows, 2)
    vectors = store.read(rows).mean(axis=1)
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T - 9 * np.eye(7)
    assert [set(row) for row in found] == [set(row) for row in np.argsort(-cosines)[:, :2]]
    with pytest.raises(UserError, match=r"similar_images: 7 similar ones .* 7 images"):
        most_similar(store, rows, 7)


def test_batches_hold_each_image_once_an_epoch(make_store):
    batches = critic(make_store).batches
    for epoch in (0, 1):
        batches.start_epoch(epoch)
        seen = []
        for features, tokens, image, rows in (batches[i] for i in range(len(batches))):
            assert len(features) == len(rows) <= 6
            assert len(tokens) == len(image) == len(rows)
            assert (tokens[:, 0] == START).all()
            np.testing.assert_array_equal(features, batches.store.read(rows))
            # Even rows of the store are dogs.
            assert ((tokens[:, 1] == 4) == (rows[image] % 2 == 0)).all()
            seen += rows.tolist()
        assert sorted(seen) == list(range(12))


@pytest.mark.backends
def test_loss_weighs_what_was_drawn_by_its_advantage(make_store):
    trainer = critic(make_store, xe_share=0.25).trainer
    rng = np.random.default_rng(0)
    logits, drawn_logits = rng.normal(size=(3, 2, V)).astype("float32"), rng.normal(size=(4, 3, V)).astype("float32")
    targets = np.asarray([[4, END], [END, PAD], [5, 6]], "int32")
    drawn = np.asarray([[4, 5, END], [5, END, PAD], [6, END, PAD], [4, 4, 4]], "int32")
    advantages = np.asarray([1.0, -0.5, 0.0, 2.0], "float32")
    of_images = (drawn.reshape(2, 2, 3), advantages.reshape(2, 2))
    loss = float(trainer.compute_loss(y=(targets, *of_images), y_pred=({"logits": logits}, {"logits": drawn_logits})))

    def mean(logits, targets, weights, banned, banned_first):
        logits = logits.astype("float64")
        logits[..., banned] = -np.inf
        logits[:, 0, banned_first] = -np.inf
        log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        mask = targets != PAD
        terms = [-log_p[i, t, targets[i, t]] * weights[i] for i, t in np.ndindex(targets.shape) if mask[i, t]]
        return sum(terms) / mask.sum()

    # A caption that is drawn has a word at least, so <end> is not among the first ones to choose from.
    policy = mean(drawn_logits, drawn, advantages, [PAD, START, UNK], [END])
    expected = 0.75 * policy + 0.25 * mean(logits, targets, [1] * 3, [], [])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_greedy_baseline_is_under_the_rules_of_drawing(make_store):
    greedy = critic(make_store, baseline="greedy", min_length=3, no_repeat_ngram=2).greedy
    assert greedy.rules == PLAIN


@pytest.mark.backends
def test_what_is_never_drawn_has_no_probability():
    logits = np.random.default_rng(0).normal(size=(2, 3, V)).astype("float32")
    tokens = np.asarray([[4, 5, PAD], [6, 4, PAD]], "int32")
    is_first = ops.convert_to_tensor(np.arange(3) == 0)
    found = ops.convert_to_numpy(ops.log_softmax(ban_unsampled(ops.convert_to_tensor(logits), is_first)))
    for t in range(3):
        drawn = PLAIN.log_probabilities(ops.convert_to_tensor(logits[:, t]), ops.convert_to_tensor(tokens), t)
        np.testing.assert_allclose(np.exp(found[:, t]), np.exp(ops.convert_to_numpy(drawn)), atol=1e-6)


def test_an_epochs_words_are_those_drawn_and_those_of_references(make_store, monkeypatch):
    learner, drawn = critic(make_store), []
    draw = learner._draw
    monkeypatch.setattr(learner, "_draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    assert learner.epoch(0)["words"] == learner.batches.words + sum((tokens != PAD).sum() for tokens in drawn)


def test_an_images_drawn_captions_come_longest_first_each_with_its_advantage(make_store, monkeypatch):
    learner, batches = critic(make_store), []
    step = learner.trainer.train_on_batch
    monkeypatch.setattr(
        learner.trainer, "train_on_batch", lambda *batch, **how: batches.append(batch) or step(*batch, **how)
    )
    features, tokens, image_of, rows = learner.batches[0]
    drawn = learner._judge(features, rows, learner._draw(features, (0, 0, 0)))
    learner._learn(features, tokens, image_of, drawn)
    ((*_, inputs), (_, targets, advantages)) = batches[0]
    lengths = (targets != PAD).sum(axis=-1)
    assert len(np.unique(lengths)) > 1
    np.testing.assert_array_equal(lengths, -np.sort(-lengths, axis=-1))
    np.testing.assert_array_equal(inputs[..., 1:], targets[..., :-1])
    for place in np.ndindex(advantages.shape):
        same = [np.array_equal(targets[place], own) for own in drawn.tokens[place[0], :, : targets.shape[-1]]]
        assert any(same)
        np.testing.assert_allclose(drawn.advantages[place[0]][same], advantages[place], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["merge", "attention"])
def test_an_epoch_without_padding_is_that_with_padding(make_store, monkeypatch, decoder):
    """What is saved on padding changes neither rewards nor losses. All captions of an image are read together."""
    sizes = {} if decoder == "merge" else {"feature_grid": 0}
    learner = critic(make_store, decoder=decoder, **sizes)
    saving = [learner.epoch(epoch) for epoch in range(2)]
    monkeypatch.setattr(SelfCriticalTrainer, "keeps_padding", True)
    learner = critic(make_store, decoder=decoder, **sizes)
    plain = [learner.epoch(epoch) for epoch in range(2)]
    for found, expected in zip(saving, plain, strict=True):
        for name in ("loss", "nll", "reward", "reward_cider", "words"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_an_epochs_nll_is_of_all_its_references(make_store):
    learner = critic(make_store, batch_size=5)  # the last batch is smaller
    learner.trainer.optimizer.learning_rate = 0.0
    total, words = 0.0, 0
    for features, tokens, image, _ in (learner.batches[i] for i in range(len(learner.batches))):
        logits = ops.cast(learner.trainer.decoder(features, tokens[:, :-1], image_of=image), "float32")
        nll, _ = word_nll(logits, ops.convert_to_tensor(tokens[:, 1:]))
        mask = tokens[:, 1:] != PAD
        total, words = total + (ops.convert_to_numpy(nll) * mask).sum(), words + mask.sum()
    assert learner.epoch(0)["nll"] == pytest.approx(total / words, rel=1e-5)


@pytest.mark.parametrize("baseline", ["others", pytest.param("greedy", marks=pytest.mark.slow)])
def test_rewards_rise(make_store, baseline):
    found = critic(make_store, baseline=baseline, samples=8, xe_share=0.0)
    logs = [found.epoch(epoch) for epoch in range(40)]
    assert logs[-1]["reward"] > 2 * logs[0]["reward"] > 0
    assert 0 < logs[0]["reward_share"] < 1
    assert all(np.isfinite(log["loss"]) and np.isfinite(log["nll"]) for log in logs)


@pytest.mark.backends
def test_what_is_drawn_depends_on_seed_epoch_and_batch_alone(make_store):
    one, other = critic(make_store), critic(make_store)
    features = one.batches[0][0]
    drawn = one._draw(features, (0, 1, 2))
    np.testing.assert_array_equal(drawn, other._draw(features, (0, 1, 2)))
    assert (drawn != one._draw(features, (0, 1, 3))).any()
    assert drawn.shape == (len(features), 5, 5)
    assert not np.isin(drawn, [START, UNK]).any()


@pytest.mark.parametrize(
    "precision", [pytest.param("bfloat16", marks=pytest.mark.slow), pytest.param("float16", marks=pytest.mark.weekly)]
)
def test_it_learns_in_reduced_precision(make_store, precision):
    keras.mixed_precision.set_dtype_policy(f"mixed_{precision}")
    try:
        learner = critic(make_store, samples=8)
        rewards = [learner.epoch(epoch)["reward"] for epoch in range(16)]
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert np.mean(rewards[-3:]) > 1.3 * np.mean(rewards[:3])
