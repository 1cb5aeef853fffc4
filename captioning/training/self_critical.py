"""Self-critical training: the model draws captions, and each is rewarded for agreeing with the references.

Rennie et al. (2017), https://arxiv.org/abs/1612.00563. The reward (``rewards``) is CIDEr-D and perhaps other terms,
less a baseline. The baseline is the greedy caption's reward (as in that paper), or the mean reward of the image's other
drawn captions (Luo, 2020, https://arxiv.org/abs/2003.09971).

Two things keep sentences whole. ``<end>`` is a word of the n-grams on both sides, so a caption without it loses reward.
And a share of the loss is cross-entropy with a reference of each image. Without these, captions end in "on a".
Legend: B images, S captions drawn per image, N reference captions, T and U tokens, L maximum length, R regions, D
feature size, V vocabulary size.
"""

import time
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from captioning.base.devices import share
from captioning.base.progress import track
from captioning.decoders.base import Decoder
from captioning.decoders.likelihood import word_nll
from captioning.features.spreading import predict_on_batch
from captioning.search.compiled import Search
from captioning.search.sampling import DRAWS, ban_unsampled, sample, uniforms_of
from captioning.training.batches import round_width
from captioning.training.counting import counted_images
from captioning.training.cross_entropy import CaptionTrainer
from captioning.training.image_batches import ReferenceBatches
from captioning.training.reading import at_places
from captioning.training.rewards import Rewards
from captioning.words.vocabulary import PAD, START
from config import Config, TrainingSettings


class Sampler(keras.Model):
    """``(features (B, R, D), draws (B, S, L)) -> token ids (B, S, L)``, as a model so that ``predict`` compiles it.

    ``draws`` are int32 from 0 to ``DRAWS - 1``.
    """

    def __init__(self, decoder: Decoder, max_length: int):
        super().__init__()
        self.decoder, self.max_length = decoder, max_length
        self.built = True

    def call(self, inputs):
        features, draws = inputs
        state = self.decoder.init_state(features)
        return sample(self.decoder.step, state, uniforms_of(draws), self.max_length, narrows=True).tokens


class SelfCriticalTrainer(CaptionTrainer):
    """A CaptionTrainer whose training batches also hold drawn captions and their advantages.

    Inputs are ``(features (B, R, D), inputs (N, T), image_of (N,), drawn inputs (B, S, U))``. ``image_of`` is the
    image of each reference. Targets are ``(targets (N, T), drawn targets (B, S, U), advantages (B, S))``. Drawn
    captions run without dropout, because they were drawn without it.

    The metric ``loss`` is ``(1 - xe_share) * policy + xe_share * cross-entropy``. Both parts are means per word.
    """

    def __init__(self, decoder: Decoder, settings: TrainingSettings):
        super().__init__(decoder, settings.label_smoothing, settings.word_dropout)
        self.xe_share = settings.xe_share

    def call(self, inputs, training=None):
        if len(inputs) == 2:  # validation
            return super().call(inputs, training=training)
        features, token_ids, image_of, drawn = inputs
        image, plain = self.decoder.see_both(features)
        references = self.teach(image, token_ids, image_of, training=True)  # only training has drawn captions
        return references, self.read(plain, drawn, drawn, training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of both kinds of captions in training; in validation the cross-entropy."""
        if not isinstance(y, (tuple, list)):  # validation
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        (targets, drawn, advantages), (references, found) = y, y_pred
        cross_entropy = self.cross_entropy(targets, references, training)
        shape = ops.shape(drawn)
        is_first = at_places(ops.broadcast_to(ops.arange(shape[-1]) == 0, shape), found)
        advantages = at_places(ops.broadcast_to(ops.cast(advantages, "float32")[..., None], shape), found)
        drawn = at_places(drawn, found)
        nll, _ = word_nll(ban_unsampled(found["logits"], is_first), drawn)
        mask = ops.cast(ops.not_equal(drawn, PAD), "float32")
        policy = ops.sum(advantages * nll * mask) / ops.sum(mask)
        return self.count((1 - self.xe_share) * policy + self.xe_share * cross_entropy, counted_images(targets))


class _Drawn(NamedTuple):
    """Drawn captions of a batch, judged."""

    tokens: np.ndarray  # int32 (B, S, L): word ids, then <end> where the caption ended, then <pad>
    rewards: np.ndarray  # float64 (B, S)
    terms: dict[str, np.ndarray]  # the terms of the rewards, before they are weighed, float64 (B, S) each
    advantages: np.ndarray  # float64 (B, S): the rewards less their baseline
    seconds: float  # that the rewards took


class SelfCritic:
    """Draws captions, has them rewarded, and takes training steps."""

    def __init__(self, trainer: SelfCriticalTrainer, batches: ReferenceBatches, rewards: Rewards, config: Config):
        self.trainer, self.batches, self.rewards, self.config = trainer, batches, rewards, config
        self.sampler = Sampler(trainer.decoder, config.max_caption_length)
        # The greedy caption follows the rules of drawing, not those of captioning.
        plain = {
            "beam_size": 1,
            "min_length": 1,
            "no_repeat_ngram": 0,
            "prefix": "",
            "include": (),
            "exclude_words": (),
        }
        self.greedy = Search(trainer.decoder, config.dev_search().model_copy(update=plain))

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train on each image once, in the ``epoch`` with this number (from 0).

        Returns by name: ``loss`` and ``reward`` are means of the epoch, and so is ``reward_NAME`` of each term of the
        reward, before it is weighed. ``nll`` is the references' mean per word.
        ``reward_share`` is the share of the time that the rewards took. ``words`` counts the words learned from, drawn
        ones and those of references.
        """
        batches, steps, terms, reward_seconds = self.batches, [], [], 0.0
        words = batches.words
        began = time.perf_counter()
        for index in track(range(len(batches)), f"epoch {epoch + 1}", "batches"):
            features, tokens, image_of, rows = batches[index]
            drawn = self._judge(features, rows, self._draw(features, (self.config.seed, epoch, index)))
            reward_seconds += drawn.seconds
            words += int((drawn.tokens != PAD).sum())
            learned = self._learn(features, tokens, image_of, drawn)
            steps.append((*learned, (tokens[:, 1:] != PAD).sum(), drawn.rewards.mean()))
            terms.append([found.mean() for found in drawn.terms.values()])
        loss, nll, references, rewards = np.asarray(steps, "float64").T
        return {
            "loss": float(loss.mean()),
            "nll": float(np.average(nll, weights=references)),
            "reward": float(100 * rewards.mean()),
            **dict(zip(self.rewards.columns, (100 * np.mean(terms, axis=0)).tolist(), strict=True)),
            "reward_share": reward_seconds / (time.perf_counter() - began),
            "words": words,
        }

    def _draw(self, features: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Ids ``(B, S, L)`` of drawn captions of ``features (B, R, D)``. Equal seeds give equal captions."""
        shape = (len(features), self.config.samples, self.config.max_caption_length + 1)
        draws = np.random.default_rng(seed).integers(DRAWS, size=shape, dtype=np.int32)
        return np.asarray(predict_on_batch(self.sampler, (features, draws)))

    def _judge(self, features: np.ndarray, rows: np.ndarray, drawn: np.ndarray) -> _Drawn:
        """Reward the ``drawn`` captions ``(B, S, L)`` of the images with ``rows (B,)`` in the store."""
        samples = drawn.shape[1]
        if self.config.baseline == "greedy":
            greedy = np.asarray(predict_on_batch(self.greedy, features)[0])
            drawn = np.concatenate([drawn, greedy], axis=1)
        start = time.perf_counter()
        reward, terms = self.rewards(rows, drawn)
        seconds = time.perf_counter() - start
        if self.config.baseline == "greedy":
            reward, baseline = reward[:, :-1], reward[:, -1:]
        else:
            baseline = (reward.sum(axis=1, keepdims=True) - reward) / (samples - 1)
        terms = {name: found[:, :samples] for name, found in terms.items()}
        return _Drawn(drawn[:, :samples], reward, terms, reward - baseline, seconds)

    def _learn(
        self, features: np.ndarray, tokens: np.ndarray, image_of: np.ndarray, drawn: _Drawn
    ) -> tuple[float, float]:
        """One training step on references ``tokens (N, T + 1)`` and on ``drawn`` captions. ``image_of`` is ``(N,)``.

        Returns the loss, and the nll of this batch's references: Keras begins its metrics anew with each batch.
        """
        # One width, so that nothing is traced anew. Where no padding is read it costs nothing. Where it is read, the
        # width is that of the longest caption, but a coarse one, because each width is compiled.
        width = drawn.tokens.shape[-1]
        if self.trainer.keeps_padding:
            width = min(width, round_width(int((drawn.tokens != PAD).sum(axis=-1).max()), coarseness=4))
        longest_first = np.argsort(-(drawn.tokens != PAD).sum(axis=-1), axis=1, kind="stable")  # as it is read best
        ids = np.take_along_axis(drawn.tokens[..., :width], longest_first[..., None], axis=1)
        advantages = np.take_along_axis(drawn.advantages, longest_first, axis=1).astype("float32")
        shifted = np.pad(ids, ((0, 0), (0, 0), (1, 0)), constant_values=START)
        inputs = (features, tokens[:, :-1], image_of, shifted[..., :-1])
        targets = (tokens[:, 1:], shifted[..., 1:], advantages)
        inputs, targets = share((inputs, targets))
        logs = self.trainer.train_on_batch(inputs, targets, return_dict=True)
        return float(logs["loss"]), float(logs["nll"])
