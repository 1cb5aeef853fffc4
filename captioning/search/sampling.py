"""Captions drawn at random: each word with the probability that the model gives it, or with a warped one.

The legend is in ``hypotheses.py``; S is the number of captions drawn per image, and N = B * S here.

Four ways to warp the probabilities follow one another, as in Hugging Face's ``generate``. Each leaves probabilities
that sum to one. Words that are equally probable stay or go together.

* temperature: log p is divided by it.
* top-k (Fan et al., 2018, https://arxiv.org/abs/1805.04833): the k most probable words stay.
* top-p (Holtzman et al., 2020, https://arxiv.org/abs/1904.09751): the fewest most probable words stay that
  together have a probability of at least p.
* typical-p (Meister et al., 2023, https://arxiv.org/abs/2202.00666): the fewest words stay that together
  have a probability of at least p. Those come first whose -log p is closest to the entropy.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from captioning.search.growing import grow
from captioning.search.hypotheses import BANNED, Hypotheses, Step
from captioning.search.rules import ban_special, entropy
from captioning.search.state import repeat_rows
from captioning.words.vocabulary import END

# Draws are whole numbers below this. Keras would round fractions to the few bits of a reduced precision.
DRAWS = 2**24


@dataclass(frozen=True)
class Warp:
    """How the probabilities of words are changed before one is drawn. By default they stay as they are."""

    temperature: float = 1.0
    top_k: int = 0  # 0: all words stay
    top_p: float = 1.0
    typical_p: float = 1.0

    def __call__(self, log_p):
        """The warped log p, float32 ``(N, V)``, of words with ``log_p`` float32 ``(N, V)``."""
        if self.temperature != 1:
            log_p = ops.log_softmax(log_p / self.temperature, axis=-1)
        if 0 < self.top_k < log_p.shape[-1]:
            least = ops.top_k(log_p, self.top_k)[0][:, -1:]
            log_p = _only(log_p, log_p >= least)
        if self.top_p < 1:
            log_p = _only(log_p, _first_with(self.top_p, log_p, log_p))
        if self.typical_p < 1:
            log_p = ops.log_softmax(log_p, axis=-1)
            distance = ops.abs(log_p + entropy(log_p)[:, None])
            log_p = _only(log_p, _first_with(self.typical_p, log_p, -distance))
        return log_p


def _only(log_p, stays):
    """``log_p (N, V)`` of the words that stay, bool ``(N, V)``, so that their probabilities sum to one."""
    return ops.log_softmax(ops.where(stays, log_p, BANNED), axis=-1)


def _first_with(probability: float, log_p, rank):
    """Bool ``(N, V)``: the fewest words of the highest ``rank (N, V)`` that together have ``probability``."""
    rank_in_order, order = ops.top_k(rank, rank.shape[-1])
    p = ops.softmax(ops.take_along_axis(log_p, order, axis=-1), axis=-1)
    before = ops.cumsum(p, axis=-1) - p
    # The first word always stays. Its sum before is zero but for rounding.
    stays = ops.logical_or(before < probability, ops.arange(rank.shape[-1]) == 0)
    return rank >= ops.min(ops.where(stays, rank_in_order, -2 * BANNED), axis=-1, keepdims=True)


UNWARPED = Warp()


def sample(step: Step, state, uniforms, max_length: int, warp: Warp = UNWARPED, **options: Any) -> Hypotheses:
    """S drawn captions of each image, in the order in which they were drawn. The same caption may come again.

    ``state``: the decoder's state before the first word, of B images. ``uniforms`` float32 ``(B, S, L)`` in [0, 1)
    decides each draw, so equal numbers give equal captions. ``max_length``: words of the longest caption. ``options``:
    ``grow``'s length penalty, rules, trace and narrowing. ``log_probs`` are those without ``warp``.
    """
    samples, length = uniforms.shape[1], max_length + 1
    uniforms = ops.reshape(uniforms, (-1, length))  # (B, S, L) -> (N, L)

    def draw(log_p, t, rows):
        cumulated = ops.cumsum(ops.exp(warp(log_p)), axis=-1)  # (N, V)
        total = cumulated[:, -1:]
        of_step = ops.take(ops.take(uniforms, t, axis=1), rows)[:, None]
        drawn = ops.sum(ops.cast(cumulated <= of_step * total, "int32"), axis=-1)
        # Rounding may lead beyond the last word that has a probability.
        last = ops.sum(ops.cast(cumulated < total, "int32"), axis=-1)
        return ops.clip(ops.minimum(drawn, last), END, log_p.shape[-1] - 1)

    found = grow(step, repeat_rows(state, samples), ops.shape(uniforms)[0], max_length, draw, **options)
    return keras.tree.map_structure(lambda part: ops.reshape(part, (-1, samples, *part.shape[2:])), found)


def uniforms_of(draws):
    """The ``uniforms`` of ``sample``, float32, from ``draws`` int32 of any shape, from 0 to ``DRAWS - 1``."""
    return ops.cast(draws, "float32") / DRAWS


def draws_for(names: Sequence[str], seed: int, samples: int, max_length: int) -> np.ndarray:
    """``draws`` int32 ``(B, samples, max_length + 1)`` for pictures with these names.

    They depend on the seed and on the last part of the name alone. So a picture gets the same captions whatever other
    pictures are captioned beside it.
    """
    found = [
        np.random.default_rng(
            [seed, zlib.crc32(name.replace("\\", "/").rpartition("/")[2].encode(errors="surrogatepass"))]
        ).integers(DRAWS, size=(samples, max_length + 1), dtype="int32")
        for name in names
    ]
    return np.stack(found)


def ban_unsampled(logits, is_first):
    """``logits (..., V)`` of next words as float32, with all that ``sample`` never draws at ``BANNED``.

    These are the special words, and ``<end>`` as the first word. ``is_first`` bool ``(...)``: whether it is the first
    word of its caption.
    """
    is_end = ops.arange(logits.shape[-1]) == END
    return ops.where(ops.logical_and(is_first[..., None], is_end), BANNED, ban_special(logits))
