"""Greedy search: the most probable next word, again and again.

The legend is in ``hypotheses.py``.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from captioning.search.hypotheses import NO_TRACE, Hypotheses, Step, Trace
from captioning.search.phrases import FREE, PhraseRules
from captioning.search.rules import PLAIN, Rules, entropy, score
from captioning.search.state import loop_while, put
from captioning.words.vocabulary import END, PAD, START


class GreedyState(NamedTuple):
    """What the loop carries."""

    t: Any  # int32 (): the position that is written next
    tokens: Any  # int32 (B, L): the words so far, then <pad>
    last: Any  # int32 (B,): the word before position t; <start> at first
    done: Any  # bool (B,): whether the caption has ended
    log_probs: Any  # float32 (B,): log p of the words so far
    trace: Any  # (B, L): the trace of the words so far, if it is kept
    progress: Any  # (B, ...): how far the captions have come with phrases, if there are rules of phrases
    decoder: Any  # the decoder's state, a nest of (B, ...)


def greedy_search(
    step: Step,
    state,
    batch: int,
    max_length: int,
    length_penalty: float = 1.0,
    rules: Rules = PLAIN,
    keep_trace: bool = False,
    phrases: PhraseRules = FREE,
) -> Hypotheses:
    """The caption that greedy search finds for each image, as ``Hypotheses`` with K = 1.

    ``state``: the decoder's state before the first word, of ``batch`` images. ``max_length``: words of the longest
    caption. ``length_penalty`` may be a scalar tensor. ``keep_trace``: also give the ``Trace`` of each caption.
    ``phrases`` must require none: the best next word rarely leads to one, so these need ``beam_search``.
    """
    length = max_length + 1

    def goes_on(now: GreedyState):
        return ops.logical_and(now.t < length, ops.logical_not(ops.all(now.done)))

    def advance(now: GreedyState) -> GreedyState:
        logits, decoder = step(now.last, now.decoder)
        log_p = phrases.ban(rules.log_probabilities(logits, now.tokens, now.t), now.progress, now.t)
        best_log_p = ops.max(log_p, axis=-1)
        # argmax of integers: on floats, Keras' argmax tells -0 from 0 by their bits, and exported graphs cannot.
        best = ops.cast(ops.argmax(ops.cast(log_p == best_log_p[:, None], "int32"), axis=-1), "int32")
        # The last position is for <end> only. A caption that does not end there is cut.
        best = ops.where(ops.logical_and(now.t == length - 1, best != END), PAD, best)
        stops = ops.logical_or(now.done, best == PAD)
        best = ops.where(stops, PAD, best)
        return GreedyState(
            t=now.t + 1,
            tokens=put(now.tokens, now.t, best),
            last=best,
            done=ops.logical_or(stops, best == END),
            log_probs=ops.where(stops, now.log_probs, now.log_probs + best_log_p),
            trace=_traced(now.trace, now.t, stops, best_log_p, log_p),
            progress=phrases.read(now.progress, best),
            decoder=decoder,
        )

    first = GreedyState(
        t=ops.convert_to_tensor(0, dtype="int32"),
        tokens=ops.full((batch, length), PAD, dtype="int32"),
        last=ops.full((batch,), START, dtype="int32"),
        done=ops.zeros((batch,), dtype="bool"),
        log_probs=ops.zeros((batch,), dtype="float32"),
        trace=Trace(*[ops.zeros((batch, length), dtype="float32")] * 2) if keep_trace else NO_TRACE,
        progress=phrases.first(batch),
        decoder=state,
    )
    found = loop_while(goes_on, advance, first)
    lengths = ops.sum(ops.cast(found.tokens != PAD, "int32"), axis=-1)
    scores = score(found.log_probs, lengths, length_penalty)
    trace = keras.tree.map_structure(lambda part: part[:, None], found.trace)
    return Hypotheses(found.tokens[:, None], found.log_probs[:, None], scores[:, None], trace)


def _traced(trace, t, stops, best_log_p, log_p):
    """``trace`` with position ``t``: there a word with ``best_log_p`` was taken from words with ``log_p (B, V)``.

    ``stops`` bool ``(B,)``: the captions that have no further word.
    """
    if trace == NO_TRACE:
        return trace
    taken = Trace(ops.where(stops, 0.0, best_log_p), ops.where(stops, 0.0, entropy(log_p)))
    return Trace(*(put(part, t, new) for part, new in zip(trace, taken, strict=True)))
