"""Self-critical training: captions that the model draws itself are rewarded by how well they agree with the references.

Rennie et al. (2017), https://arxiv.org/abs/1612.00563, with CIDEr-D as reward. A drawn caption counts against a baseline:
the greedy caption (as there) or the mean of the image's other drawn captions (Luo, 2020, https://arxiv.org/abs/2003.09971).
``<end>`` is a word of both sides' n-grams, so that a caption cut short loses; and a share of cross-entropy with a
reference of each image stays in the loss, or captions end in "on a".
Legend: B images, S captions drawn per image, N reference captions of them, T and U tokens, V vocabulary.
"""

import time

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from captioning.base.script import hide_progress
from captioning.decoders.base import Decoder
from captioning.metrics.cider import Cider
from captioning.search.compiled import Search
from captioning.search.sampling import ban_unsampled, sample
from captioning.training.batches import ReferenceBatches, round_width
from captioning.training.cross_entropy import CaptionTrainer, word_nll
from captioning.words.tokenizer import tokenize
from captioning.words.vocabulary import END, PAD, START, Vocabulary
from config import Config

# Draws are whole numbers below this: as floats, Keras would round them to the few bits of a reduced precision.
_DRAWS = 2**24


class Sampler(keras.Model):
    """``(features (B, R, D), draws (B, S, L)) -> token ids (B, S, L)``, as a model so that ``predict`` compiles it.

    ``draws`` int32 below ``_DRAWS`` are what ``sample`` takes as ``uniforms``, times that.
    """

    def __init__(self, decoder: Decoder, max_length: int):
        super().__init__()
        self.decoder, self.max_length = decoder, max_length
        self.built = True

    def call(self, inputs):
        features, draws = inputs
        uniforms = ops.cast(draws, "float32") / _DRAWS
        return sample(self.decoder.step, self.decoder.init_state(features), uniforms, self.max_length)


class SelfCriticalTrainer(CaptionTrainer):
    """A CaptionTrainer whose training batches also hold drawn captions and their advantages.

    Input ``(features (B, R, D), inputs (N, T), image of each row (N,), drawn inputs (B * S, U))``, targets
    ``(targets (N, T), drawn targets (B * S, U), advantages (B * S,))``. Drawn captions run without dropout, as they were
    drawn. ``loss`` is ``(1 - xe_share) * policy + xe_share * cross-entropy``, both per word.
    """

    def __init__(self, decoder: Decoder, config: Config):
        super().__init__(decoder, config.label_smoothing, config.word_dropout)
        self.samples, self.xe_share = config.samples, config.xe_share

    def call(self, inputs, training=None):
        if len(inputs) == 2:  # validation
            return super().call(inputs, training=training)
        features, token_ids, image, drawn = inputs
        logits = super().call((features, token_ids, image), training=training)
        rows = ops.repeat(ops.arange(ops.shape(features)[0]), self.samples)
        return logits, self.decoder(features, drawn, training=False, rows=rows)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y, (tuple, list)):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        (targets, drawn, advantages), (logits, drawn_logits) = y, y_pred
        cross_entropy = super().compute_loss(x, targets, logits, sample_weight, training)
        nll, _ = word_nll(ban_unsampled(drawn_logits), drawn)
        mask = ops.cast(ops.not_equal(drawn, PAD), "float32")
        policy = ops.sum(ops.cast(advantages, "float32")[:, None] * nll * mask) / ops.sum(mask)
        return (1 - self.xe_share) * policy + self.xe_share * cross_entropy


class Rewards:
    """CIDEr-D of token ids against the captions of training images, 1.0 for what papers print as 100."""

    def __init__(self, captions: list[tuple[int, str]], vocabulary: Vocabulary):
        """``captions``: pairs (row of the image in the store, caption)."""
        groups: dict[int, list[list[str]]] = {}
        for row, caption in captions:
            groups.setdefault(row, []).append([*tokenize(caption), vocabulary.words[END]])
        self.position = {row: i for i, row in enumerate(groups)}
        self.cider = Cider(list(groups.values()))
        self.vocabulary = vocabulary

    def __call__(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Float ``(B, S)`` for token ids ``(B, S, L)`` of the images with ``rows (B,)`` in the store."""
        images = np.repeat([self.position[row] for row in rows], tokens.shape[1])
        end = self.vocabulary.words[END]
        candidates = [
            [*self.vocabulary.spell(ids), *[end] * (END in ids)]
            for ids in tokens.reshape(-1, tokens.shape[-1]).tolist()
        ]
        return self.cider.score(images, candidates).reshape(tokens.shape[:2]) / 100


class SelfCritic:
    """Draws captions, has them rewarded and takes training steps."""

    def __init__(self, trainer: SelfCriticalTrainer, batches: ReferenceBatches, rewards: Rewards, config: Config):
        self.trainer, self.batches, self.rewards, self.config = trainer, batches, rewards, config
        self.sampler = Sampler(trainer.decoder, config.max_caption_length)
        # Under the rules of drawing, not those of captioning.
        plain = {"beam_size": 1, "min_length": 1, "no_repeat_ngram": 0}
        self.greedy = Search(trainer.decoder, config.with_overrides(plain))

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train on each image once.

        Returns the epoch's mean loss and reward, the references' mean nll per word, the share of time the reward took, and the
        words learned from, drawn ones and those of references.
        """
        batches, steps, reward_seconds = self.batches, [], 0.0
        words = batches.words
        began = time.perf_counter()
        for index in tqdm(range(len(batches)), desc=f"epoch {epoch + 1}", unit="batch", disable=hide_progress()):
            features, tokens, image, rows = batches[index]
            drawn = self._draw(features, (self.config.seed, epoch, index))
            if self.config.baseline == "greedy":
                greedy = np.asarray(self.greedy.predict_on_batch(features)[0])
                drawn = np.concatenate([drawn, greedy], axis=1)
            start = time.perf_counter()
            reward = self.rewards(rows, drawn)
            reward_seconds += time.perf_counter() - start
            if self.config.baseline == "greedy":
                drawn, reward, baseline = drawn[:, :-1], reward[:, :-1], reward[:, -1:]
            else:
                baseline = (reward.sum(axis=1, keepdims=True) - reward) / (self.config.samples - 1)
            words += int((drawn != PAD).sum())
            learned = self._learn(features, tokens, image, drawn, reward - baseline)
            steps.append((*learned, (tokens[:, 1:] != PAD).sum(), reward.mean()))
        loss, nll, references, rewards = np.asarray(steps, "float64").T
        return {
            "loss": float(loss.mean()),
            "nll": float(np.average(nll, weights=references)),
            "reward": float(100 * rewards.mean()),
            "reward_share": reward_seconds / (time.perf_counter() - began),
            "words": words,
        }

    def _draw(self, features: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        shape = (len(features), self.config.samples, self.config.max_caption_length + 1)
        draws = np.random.default_rng(seed).integers(_DRAWS, size=shape, dtype=np.int32)
        return np.asarray(self.sampler.predict_on_batch((features, draws)))

    def _learn(self, features, tokens, image, drawn, advantages) -> tuple[float, float]:
        """One training step on tokens ``(N, T + 1)`` and drawn ids and advantages ``(B, S, ...)``.

        Returns the loss, and the nll of this batch's references: Keras begins its metrics anew with each batch.
        """
        drawn = drawn.reshape(-1, drawn.shape[-1])
        longest = int((drawn != PAD).sum(axis=1).max())
        # Coarsely, because two widths vary here and each pair of them is compiled or traced anew.
        shifted = np.full((len(drawn), round_width(longest, coarseness=4) + 1), PAD, dtype=np.int32)
        shifted[:, 0] = START
        shifted[:, 1 : longest + 1] = drawn[:, :longest]
        inputs = (features, tokens[:, :-1], image, shifted[:, :-1])
        targets = (tokens[:, 1:], shifted[:, 1:], advantages.reshape(-1).astype("float32"))
        logs = self.trainer.train_on_batch(inputs, targets, return_dict=True)
        return float(logs["loss"]), float(logs["nll"])
