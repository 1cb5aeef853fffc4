"""Beam search: the K most probable hypotheses of each image grow together, word by word.

As in Wu et al. (2016), https://arxiv.org/abs/1609.08144, section 7. Live hypotheses still grow; ended ones have their
``<end>``. The two are kept apart. The legend is in ``hypotheses.py``.

* All sums are of log-probabilities. Captions are ranked by log p / length^a (``rules.score``).
* A hypothesis ends if its ``<end>`` is among the K best continuations of its image.
* An image is done if K hypotheses have ended and the best live one, ranked as if it ended here, is not better.
  With a > 0 a longer caption might still overtake them. Every search that stops early may miss such a caption.
* With one beam this is greedy search. With a = 0 and as many beams as continuations it is exhaustive search.
* With required phrases the places of the beam are shared out as ``banks.py`` says.

Diverse beam search (Vijayakumar et al., 2018, https://arxiv.org/abs/1610.02424, algorithm 1) has G groups, each with a
beam of its own. At each place a word loses ``diversity_penalty`` for each live caption of an earlier group that has
just taken it, which the paper calls Hamming diversity. A group ranks its captions by log p less all that they lost.
Here each group is an image of the batch, so B stands for B * G within the loop. Only the choice of words knows groups.
In the end the captions of all groups are ranked by log p alone.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from captioning.search.banks import best_in_banks
from captioning.search.hypotheses import BANNED, IMPOSSIBLE, NO_TRACE, Hypotheses, Step, Trace
from captioning.search.phrases import FREE, PhraseRules
from captioning.search.rules import PLAIN, Rules, best_first, entropy, score
from captioning.search.state import (
    join_image,
    join_traces,
    loop_while,
    merge_beams,
    pick,
    pick_hypotheses,
    pick_nest,
    put,
    repeat_rows,
    split_image,
    take_rows,
)
from captioning.words.vocabulary import END, PAD, START


class BeamState(NamedTuple):
    """What the loop carries. Live and ended hypotheses stand best first."""

    t: Any  # int32 (): the position that is written next
    last: Any  # int32 (B, K): the word before position t of each live hypothesis; <start> at first
    live: Any  # int32 (B, K, L): the words of the live hypotheses, then <pad>
    live_log_p: Any  # float32 (B, K)
    ended: Any  # int32 (B, K, L): the ended hypotheses, with <end>, then <pad>
    ended_log_p: Any  # float32 (B, K)
    ended_score: Any  # float32 (B, K): what they are ranked by; BANNED where none has ended yet
    live_trace: Any  # (B, K, L): the trace of the live hypotheses, if it is kept
    ended_trace: Any  # (B, K, L)
    progress: Any  # (B, K, ...): how far the live hypotheses have come with phrases, if there are rules of phrases
    done: Any  # bool (B,): whether the search for the image is over
    decoder: Any  # the decoder's state for the live hypotheses, without "image": a nest of (B * K, ...)


class Candidates(NamedTuple):
    """The 2K best continuations of the live hypotheses of each image, best first.

    With required phrases they are those of ``best_in_banks``: the ones that end, then the ones that go on.
    """

    tokens: Any  # int32 (B, 2K, L)
    log_probs: Any  # float32 (B, 2K)
    parent: Any  # int32 (B, 2K): the live hypothesis that goes on, 0 to K - 1
    word: Any  # int32 (B, 2K): the word that it goes on with
    trace: Any  # (B, 2K, L): the trace, if it is kept
    progress: Any  # (B, 2K, ...): how far they have come with phrases, if there are rules of phrases


class Diversity(NamedTuple):
    """How the groups of a diverse beam search keep apart."""

    groups: int
    penalty: float


def beam_search(
    step: Step,
    state,
    batch: int,
    max_length: int,
    beam_size: int,
    length_penalty: float = 1.0,
    rules: Rules = PLAIN,
    keep_trace: bool = False,
    phrases: PhraseRules = FREE,
    groups: int = 1,
    diversity_penalty: float = 0.0,
) -> Hypotheses:
    """The ``beam_size`` best captions that beam search finds for each image.

    ``state``: the decoder's state before the first word, of ``batch`` images. ``max_length``: words of the longest
    caption. ``length_penalty`` may be a scalar tensor. ``keep_trace``: also give the ``Trace`` of each caption. There
    is always a caption: hypotheses that were cut at ``max_length`` words rank below all that ended. With ``phrases``
    there may be none. Then all log-probabilities are below ``IMPOSSIBLE``. If a caption holds the required phrases,
    ``phrases.banks`` beams find one, unless other rules stand in the way. ``groups``: G of a diverse beam search. They
    share the beams, so each needs ``phrases.banks`` of them. With ``groups`` above 1, ``beam_size`` must be an int.
    """
    length = max_length + 1
    diversity = Diversity(groups, diversity_penalty)
    image, decoder = split_image(repeat_rows(state, beam_size))  # (B, ...) -> (B * K, ...)

    def goes_on(now: BeamState):
        return ops.logical_and(now.t < length, ops.logical_not(ops.all(now.done)))

    def advance(now: BeamState) -> BeamState:
        logits, decoder = step(ops.reshape(now.last, (-1,)), join_image(image, now.decoder))  # (B, K) -> (B * K,)
        log_p = rules.log_probabilities(logits, ops.reshape(now.live, (-1, length)), now.t)
        log_p = phrases.ban(log_p, merge_beams(now.progress), now.t)
        candidates = _continue(now, log_p, phrases, diversity)
        now = _collect_ended(now, candidates, length_penalty)
        now = _keep_live(now, candidates, split_image(decoder)[1])
        # K worse captions that ended early must not cut off a better one that still grows.
        is_full = now.ended_score[:, -1] > IMPOSSIBLE
        is_beaten = score(now.live_log_p[:, 0], now.t + 1, length_penalty) <= now.ended_score[:, -1]
        return now._replace(t=now.t + 1, done=ops.logical_or(now.done, ops.logical_and(is_full, is_beaten)))

    if groups > 1:
        batch, beam_size = batch * groups, beam_size // groups
    progress = phrases.first(batch, beam_size)
    keeps = keep_trace or groups > 1  # the trace has log p without what was lost
    found = loop_while(goes_on, advance, _first(batch, beam_size, length, decoder, progress, keeps))
    if phrases.required is not None:
        is_whole = phrases.required.has_all(found.progress.required)
        found = found._replace(live_log_p=ops.where(is_whole, found.live_log_p, BANNED))
    ranked = _ranked(found, max_length, length_penalty)
    return _together(ranked, groups, length_penalty, keep_trace) if groups > 1 else ranked


def _first(batch: int, beam_size: int, length: int, decoder, progress, keep_trace: bool) -> BeamState:
    """The state before the first word."""
    # All beams start equal. Only the first may count, or the K best would be K copies of one caption.
    live_log_p = ops.tile(ops.where(ops.arange(beam_size) == 0, 0.0, BANNED)[None], (batch, 1))
    none = ops.full((batch, beam_size), BANNED, dtype="float32")
    empty = ops.full((batch, beam_size, length), PAD, dtype="int32")
    trace = Trace(*[ops.zeros((batch, beam_size, length), dtype="float32")] * 2) if keep_trace else NO_TRACE
    return BeamState(
        t=ops.convert_to_tensor(0, dtype="int32"),
        last=ops.full((batch, beam_size), START, dtype="int32"),
        live=empty,
        live_log_p=ops.cast(live_log_p, "float32"),
        ended=empty,
        ended_log_p=none,
        ended_score=none,
        live_trace=trace,
        ended_trace=trace,
        progress=progress,
        done=ops.zeros((batch,), dtype="bool"),
        decoder=decoder,
    )


def _continue(now: BeamState, log_p, phrases: PhraseRules, diversity: Diversity) -> Candidates:
    """The best continuations, given the log p of the next word of each live hypothesis, ``(B * K, V)``."""
    beam_size, vocabulary = ops.shape(now.live)[1], log_p.shape[-1]
    total = now.live_log_p[:, :, None] + ops.reshape(log_p, (-1, beam_size, vocabulary))  # (B, K, V)
    if diversity.groups > 1:
        log_probs, index = _best_of_groups(total, now, phrases, diversity)
    else:
        log_probs, index = _best(total, now.progress, phrases)
    parent, word = index // vocabulary, index % vocabulary
    trace = now.live_trace
    if trace != NO_TRACE:
        of_word = ops.take_along_axis(ops.reshape(log_p, (-1, beam_size * vocabulary)), index, axis=1)
        of_step = ops.take_along_axis(ops.reshape(entropy(log_p), (-1, beam_size)), parent, axis=1)
        old = pick_nest(trace, parent)
        trace = Trace(put(old.log_p, now.t, of_word), put(old.entropy, now.t, of_step))
    progress = phrases.read(pick_nest(now.progress, parent), word)
    return Candidates(put(pick(now.live, parent), now.t, word), log_probs, parent, word, trace, progress)


def _best(total, progress, phrases: PhraseRules):
    """2K continuations of each image: log p float32 ``(B, 2K)``, and their places int32 ``(B, 2K)`` in ``K * V``.

    ``total`` float32 ``(B, K, V)``: log p of all continuations. 2K of them always contain K without ``<end>``, because
    each live hypothesis ends in one way only.
    """
    if phrases.required is not None:
        return best_in_banks(total, progress.required, phrases.required)
    beam_size, vocabulary = ops.shape(total)[1], total.shape[2]
    log_p, index = ops.top_k(ops.reshape(total, (-1, beam_size * vocabulary)), 2 * beam_size)
    return log_p, ops.cast(index, "int32")


def _best_of_groups(total, now: BeamState, phrases: PhraseRules, diversity: Diversity):
    """What ``_best`` gives, for each group in turn. The first axis of all tensors is B * G."""
    groups, (_, beam_size, vocabulary) = diversity.groups, total.shape

    def of_group(nest, group: int):
        return keras.tree.map_structure(lambda part: ops.reshape(part, (-1, groups, *part.shape[1:]))[:, group], nest)

    taken = 0.0  # how many live captions of the groups so far have just taken a word: float32 (B, 1, V)
    found = []
    for group in range(groups):
        own = of_group(total, group) - diversity.penalty * taken
        log_p, index = _best(own, of_group(now.progress, group), phrases)
        found.append((log_p, index))
        going_on, order = _going_on(log_p, index % vocabulary, beam_size)
        counts = ops.logical_and(going_on > IMPOSSIBLE, ops.logical_not(of_group(now.done, group))[:, None])
        words = ops.one_hot(ops.take_along_axis(index % vocabulary, order, axis=1), vocabulary, dtype="float32")
        taken = taken + ops.sum(ops.where(counts[:, :, None], words, 0.0), axis=1, keepdims=True)
    log_p, index = (ops.reshape(ops.stack(parts, axis=1), (-1, 2 * beam_size)) for parts in zip(*found, strict=True))
    return log_p, index


def _going_on(log_p, word, beam_size):
    """The K best of 2K candidates that go on: their log p float32 ``(B, K)``, and their numbers int32 ``(B, K)``."""
    log_p, order = ops.top_k(ops.where(word == END, 2 * BANNED, log_p), beam_size)
    return log_p, order


def _collect_ended(now: BeamState, candidates: Candidates, length_penalty) -> BeamState:
    """``now`` with the K best of the ended hypotheses and of the candidates that end here."""
    beam_size = ops.shape(now.live)[1]
    is_possible = candidates.log_probs > IMPOSSIBLE
    is_among_best = ops.arange(2 * beam_size) < beam_size
    ends = ops.logical_and(ops.logical_and(candidates.word == END, is_possible), is_among_best)
    ends = ops.logical_and(ends, ops.logical_not(now.done)[:, None])
    new_score = ops.where(ends, score(candidates.log_probs, now.t + 1, length_penalty), BANNED)
    ended_score, order = ops.top_k(ops.concatenate([now.ended_score, new_score], axis=1), beam_size)
    log_probs = ops.concatenate([now.ended_log_p, candidates.log_probs], axis=1)
    return now._replace(
        ended=pick(ops.concatenate([now.ended, candidates.tokens], axis=1), order),
        ended_log_p=ops.take_along_axis(log_probs, order, axis=1),
        ended_score=ended_score,
        ended_trace=pick_nest(join_traces(now.ended_trace, candidates.trace), order),
    )


def _keep_live(now: BeamState, candidates: Candidates, decoder) -> BeamState:
    """``now`` with the K best candidates that go on, and the ``decoder`` state ``(B * K, ...)`` in their order."""
    beam_size, length = ops.shape(now.live)[1:]
    log_p, order = _going_on(candidates.log_probs, candidates.word, beam_size)
    # The last position is for <end> only, so the live hypotheses stay as they are there.
    stays = ops.logical_or(now.t == length - 1, now.done)
    first_row = ops.arange(ops.shape(order)[0])[:, None] * beam_size
    rows = first_row + ops.take_along_axis(candidates.parent, order, axis=1)

    def stay_or_go(old, new):
        """The nest ``old (B, K, ...)`` where the hypotheses stay, and else those in ``new (B, 2K, ...)`` that go on."""
        return keras.tree.map_structure(
            lambda old, new: ops.where(stays[:, None, None], old, pick(new, order)), old, new
        )

    return now._replace(
        last=ops.take_along_axis(candidates.word, order, axis=1),
        live=ops.where(stays[:, None, None], now.live, pick(candidates.tokens, order)),
        live_log_p=ops.where(stays[:, None], now.live_log_p, log_p),
        live_trace=stay_or_go(now.live_trace, candidates.trace),
        progress=stay_or_go(now.progress, candidates.progress),
        decoder=take_rows(decoder, ops.reshape(rows, (-1,))),  # (B, K) -> (B * K,)
    )


def _ranked(found: BeamState, max_length: int, length_penalty) -> Hypotheses:
    """The K best of all hypotheses: the ended ones by score, then the live ones, which were cut."""
    beam_size = ops.shape(found.live)[1]
    is_possible = found.live_log_p > IMPOSSIBLE
    live_score = ops.where(is_possible, score(found.live_log_p, max_length, length_penalty), BANNED)
    # Below every score of an ended caption. The factor keeps the live ones in the order they stand in, best first.
    live_rank = ops.where(is_possible, BANNED / 4, BANNED / 2) * (1.0 + 1e-3 * ops.arange(beam_size, dtype="float32"))
    _, order = ops.top_k(ops.concatenate([found.ended_score, live_rank], axis=1), beam_size)
    both = Hypotheses(
        tokens=ops.concatenate([found.ended, found.live], axis=1),
        log_probs=ops.concatenate([found.ended_log_p, found.live_log_p], axis=1),
        scores=ops.concatenate([found.ended_score, live_score], axis=1),
        trace=join_traces(found.ended_trace, found.live_trace),
    )
    return pick_hypotheses(both, order)


def _together(found: Hypotheses, groups: int, length_penalty, keep_trace: bool) -> Hypotheses:
    """The captions of all groups of each image, best first by their own log p, without what they lost.

    ``found`` has a trace and the first axis B * G.
    """
    beams = groups * found.tokens.shape[1]
    found = keras.tree.map_structure(lambda part: ops.reshape(part, (-1, beams, *part.shape[2:])), found)
    assert isinstance(found.trace, Trace)
    is_possible = found.log_probs > IMPOSSIBLE
    log_probs = ops.where(is_possible, ops.sum(found.trace.log_p, axis=-1), BANNED)
    lengths = ops.maximum(ops.sum(ops.cast(found.tokens != PAD, "int32"), axis=-1), 1)
    scores = ops.where(is_possible, score(log_probs, lengths, length_penalty), BANNED)
    return best_first(Hypotheses(found.tokens, log_probs, scores, found.trace if keep_trace else NO_TRACE))
