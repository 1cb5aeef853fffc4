"""One caption per row grows word by word. How the next word is chosen is left open: the best one, or one drawn.

The legend is in ``hypotheses.py``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from captioning.search.hypotheses import NO_TRACE, Hypotheses, Step, Trace
from captioning.search.phrases import FREE, PhraseRules
from captioning.search.rules import PLAIN, Rules, entropy, score
from captioning.search.state import loop_while, put, take_rows
from captioning.words.vocabulary import END, PAD, START


class GrowthState(NamedTuple):
    """What the loop carries."""

    t: Any  # int32 (): the position that is written next
    tokens: Any  # int32 (N, L): the words so far, then <pad>
    last: Any  # int32 (N,): the word before position t; <start> at first
    done: Any  # bool (N,): whether the caption has ended
    log_probs: Any  # float32 (N,): log p of the words so far
    rows: Any  # int32 (N,): which row of the first state this is
    trace: Any  # (N, L): the trace of the words so far, if it is kept
    progress: Any  # (N, ...): how far the captions have come with phrases, if there are rules of phrases
    decoder: Any  # the decoder's state, a nest of (N, ...)


def grow(
    step: Step,
    state,
    rows: int,
    max_length: int,
    choose: Callable[[Any, Any, Any], Any],
    length_penalty: float = 1.0,
    rules: Rules = PLAIN,
    keep_trace: bool = False,
    phrases: PhraseRules = FREE,
    narrows: bool = False,
) -> Hypotheses:
    """A caption for each row, as ``Hypotheses`` of ``rows`` images with K = 1.

    ``state``: the decoder's state before the first word, of ``rows`` rows. ``max_length``: words of the longest
    caption. ``choose(log_p float32 (N, V), t int32 (), rows int32 (N,))`` gives the words that come next in these rows,
    int32 ``(N,)``. The rules have set log p of banned words to ``BANNED``. ``length_penalty`` may be a scalar tensor.
    ``keep_trace``: also give the ``Trace`` of each caption. ``phrases`` must require none, because they need
    ``beam_search``. ``narrows``: when no more than a quarter of the rows still grow, these go on alone. The
    captions are the same, and take less time where few are long.
    """
    length = max_length + 1

    def goes_on(now: GrowthState):
        return ops.logical_and(now.t < length, ops.logical_not(ops.all(now.done)))

    def advance(now: GrowthState) -> GrowthState:
        logits, decoder = step(now.last, now.decoder)
        log_p = phrases.ban(rules.log_probabilities(logits, now.tokens, now.t), now.progress, now.t)
        word = choose(log_p, now.t, now.rows)
        of_word = ops.take_along_axis(log_p, word[:, None], axis=1)[:, 0]
        # The last position is for <end> only. A caption that does not end there is cut.
        word = ops.where(ops.logical_and(now.t == length - 1, word != END), PAD, word)
        stops = ops.logical_or(now.done, word == PAD)
        word = ops.where(stops, PAD, word)
        return GrowthState(
            t=now.t + 1,
            tokens=put(now.tokens, now.t, word),
            last=word,
            done=ops.logical_or(stops, word == END),
            log_probs=ops.where(stops, now.log_probs, now.log_probs + of_word),
            rows=now.rows,
            trace=_traced(now.trace, now.t, stops, of_word, log_p),
            progress=phrases.read(now.progress, word),
            decoder=decoder,
        )

    first = GrowthState(
        t=ops.convert_to_tensor(0, dtype="int32"),
        tokens=ops.full((rows, length), PAD, dtype="int32"),
        last=ops.full((rows,), START, dtype="int32"),
        done=ops.zeros((rows,), dtype="bool"),
        log_probs=ops.zeros((rows,), dtype="float32"),
        rows=ops.arange(rows, dtype="int32"),
        trace=Trace(*[ops.zeros((rows, length), dtype="float32")] * 2) if keep_trace else NO_TRACE,
        progress=phrases.first(rows),
        decoder=state,
    )
    if narrows:
        # On JAX the size of a shape must be a plain number.
        few = max(rows // 4, 1) if isinstance(rows, int) else ops.maximum(rows // 4, 1)

        def is_wide(now: GrowthState):
            return ops.logical_and(goes_on(now), ops.sum(ops.cast(ops.logical_not(now.done), "int32")) > few)

        wide = loop_while(is_wide, advance, first)
        found = _put_rows(wide, loop_while(goes_on, advance, _growing(wide, few)))
    else:
        found = loop_while(goes_on, advance, first)
    lengths = ops.sum(ops.cast(found.tokens != PAD, "int32"), axis=-1)
    scores = score(found.log_probs, lengths, length_penalty)
    trace = keras.tree.map_structure(lambda part: part[:, None], found.trace)
    return Hypotheses(found.tokens[:, None], found.log_probs[:, None], scores[:, None], trace)


def _growing(now: GrowthState, few) -> GrowthState:
    """The rows that still grow, of which there are at most ``few``. Rows that have ended fill them up to ``few``."""
    rows = ops.top_k(ops.cast(ops.logical_not(now.done), "int32"), few)[1]
    return GrowthState(now.t, *take_rows(tuple(now[1:]), rows))


def _put_rows(wide: GrowthState, narrow: GrowthState) -> GrowthState:
    """What ``wide`` has found, with what the rows of ``narrow`` have found since."""

    def put_rows(old, new):
        return ops.scatter_update(old, narrow.rows[:, None], new)

    return wide._replace(
        tokens=put_rows(wide.tokens, narrow.tokens),
        log_probs=put_rows(wide.log_probs, narrow.log_probs),
        trace=keras.tree.map_structure(put_rows, wide.trace, narrow.trace),
    )


def _traced(trace, t, stops, of_word, log_p):
    """``trace`` with position ``t``: there a word with log p ``of_word`` was taken from words with ``log_p (N, V)``.

    ``stops`` bool ``(N,)``: the captions that have no further word.
    """
    if trace == NO_TRACE:
        return trace
    taken = Trace(ops.where(stops, 0.0, of_word), ops.where(stops, 0.0, entropy(log_p)))
    return Trace(*(put(part, t, new) for part, new in zip(trace, taken, strict=True)))
