"""Captions drawn at random: each word with the probability that the model gives it.

The legend is in ``hypotheses.py``; S is the number of captions drawn per image, and N = B * S here.
"""

from typing import Any, NamedTuple

from keras import ops

from captioning.search.hypotheses import BANNED, Step
from captioning.search.rules import PLAIN, ban_special
from captioning.search.state import loop_while, put, repeat_rows
from captioning.words.vocabulary import END, PAD, START


class SamplingState(NamedTuple):
    """What the loop carries."""

    t: Any  # int32 (): the position that is written next
    tokens: Any  # int32 (N, L): the words so far, then <pad>
    last: Any  # int32 (N,): the word before position t; <start> at first
    done: Any  # bool (N,): whether the caption has ended
    decoder: Any  # the decoder's state, a nest of (N, ...)


def sample(step: Step, state, uniforms, max_length: int):
    """Drawn captions int32 ``(B, S, L)``: word ids, then ``<end>`` if the caption ended, then ``<pad>``.

    ``state``: the decoder's state before the first word, of B images. ``max_length``: words of the longest caption.
    ``uniforms`` float32 ``(B, S, L)`` in [0, 1) decides each draw, so equal numbers give equal captions.
    """
    samples, length = uniforms.shape[1], max_length + 1
    rows = ops.shape(uniforms)[0] * samples
    uniforms = ops.reshape(uniforms, (-1, length))  # (B, S, L) -> (N, L)

    def goes_on(now: SamplingState):
        return ops.logical_and(now.t < length, ops.logical_not(ops.all(now.done)))

    def advance(now: SamplingState) -> SamplingState:
        logits, decoder = step(now.last, now.decoder)
        cumulated = ops.cumsum(ops.exp(PLAIN.log_probabilities(logits, now.tokens, now.t)), axis=-1)  # (N, V)
        threshold = ops.take(uniforms, now.t, axis=1)[:, None] * cumulated[:, -1:]
        drawn = ops.sum(ops.cast(cumulated <= threshold, "int32"), axis=-1)
        # Rounding may lead beyond the last word.
        drawn = ops.clip(drawn, END, logits.shape[-1] - 1)
        # The last position is for <end> only. A caption that does not end there is cut.
        drawn = ops.where(ops.logical_and(now.t == length - 1, drawn != END), PAD, drawn)
        drawn = ops.where(now.done, PAD, drawn)
        return SamplingState(now.t + 1, put(now.tokens, now.t, drawn), drawn, drawn <= END, decoder)

    first = SamplingState(
        t=ops.convert_to_tensor(0, dtype="int32"),
        tokens=ops.full((rows, length), PAD, dtype="int32"),
        last=ops.full((rows,), START, dtype="int32"),
        done=ops.zeros((rows,), dtype="bool"),
        decoder=repeat_rows(state, samples),  # (B, ...) -> (N, ...)
    )
    return ops.reshape(loop_while(goes_on, advance, first).tokens, (-1, samples, length))


def ban_unsampled(logits):
    """``logits (N, T, V)`` of whole captions as float32, with all that ``sample`` never draws at ``BANNED``.

    These are the special words, and ``<end>`` as the first word.
    """
    places, words = ops.arange(ops.shape(logits)[1])[:, None], ops.arange(logits.shape[-1])
    return ops.where(ops.logical_and(places == 0, words == END), BANNED, ban_special(logits))
