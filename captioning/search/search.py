"""Greedy and beam search over a step function, batched over images and free of Python loops over words; consensus.

Legend: B images, K beams, N = B * K rows, V vocabulary, L maximum length in tokens (words + ``<end>``).

All take ``step(token_ids (N,), state) -> (logits (N, V), state)`` and a ``state`` whose leaves lead with the batch axis;
of a state that is a dict, the entry "image" is of the image alone and stays as it is. They know no model class and do no
I/O. They are written in ``keras.ops`` with one ``while_loop``, so whatever calls them can be compiled:
``model.Captioner`` runs them inside a Keras ``predict`` function. ``length_penalty`` may be a scalar tensor.

Beam search works in log-space and keeps live and finished hypotheses apart, as in Wu et al. (2016),
https://arxiv.org/abs/1609.08144, section 7, ranked by log p / length^a. A hypothesis finishes when ``<end>`` is among the
K best continuations of its image; an image is done when K hypotheses have finished that the best live one, ranked as if
it ended here, does not beat; with a > 0 a longer one might yet overtake, as in all searches that stop like this. So
one beam is greedy search, and with a = 0 and as many beams as there are continuations it is exhaustive. The penalty is the
plain power of the length that most captioners use, not that of Wu et al., ((5 + L) / 6)^a.

The most probable caption need not be the most fitting one: ``consensus`` ranks a beam's captions anew, by how much each is
like all of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from captioning.words.vocabulary import END, PAD, START, UNK

# Added to what must never be chosen. Finite, so that sums of it stay comparable and top-k never sees NaN.
BANNED = -1e9
# A caption's vote is p to this power, chosen on Flickr8k dev. With 1 the few most probable ones have all the votes.
_VOTE_POWER = 0.35

Step = Callable[[Any, Any], tuple[Any, Any]]


class Hypotheses(NamedTuple):
    """The K best captions of each image, best first.

    ``tokens`` int32 ``(B, K, L)``: word ids, then ``<end>`` where the caption ended, then ``<pad>``.
    ``log_probs`` float32 ``(B, K)``: natural log of the caption's probability, ``<end>`` included.
    ``scores`` float32 ``(B, K)``: what the captions are ranked by: log p / length^a or, by consensus, the agreement of those
    that ended.
    """

    tokens: Any
    log_probs: Any
    scores: Any


def ban_special(logits):
    """Float32 ``logits (..., V)`` with ``<pad>``, ``<start>`` and ``<unk>``, which no caption may hold, at ``BANNED``."""
    return ops.where(_never(logits.shape[-1]), BANNED, ops.cast(logits, "float32"))


def _never(vocabulary_size: int):
    """Bool ``(V,)``: the words that no caption may hold."""
    words = ops.arange(vocabulary_size)
    return ops.logical_or(words == PAD, ops.logical_or(words == START, words == UNK))


def log_probabilities(logits, tokens, t, min_length: int, no_repeat_ngram: int):
    """Log p of the next word ``(N, V)``, with what must not come next at ``BANNED``.

    ``tokens`` int32 ``(N, L)`` holds the words so far at positions before ``t``. ``<pad>``, ``<start>`` and ``<unk>``
    never come next, ``<end>`` not before ``min_length`` words, and no word that would repeat an n-gram.
    """
    vocabulary = logits.shape[-1]
    too_early = ops.logical_and(ops.arange(vocabulary) == END, t < min_length)
    # Masked before the softmax, so that the probabilities of what remains sum to one.
    logits = ops.where(ops.logical_or(_never(vocabulary), too_early), BANNED, ops.cast(logits, "float32"))
    log_p = ops.log_softmax(logits, axis=-1)
    if no_repeat_ngram:
        log_p = _block_repeats(log_p, tokens, t, no_repeat_ngram)
    return log_p


def _block_repeats(log_p, tokens, t, n: int):
    """Ban each word that, after the last n - 1 words, would repeat an n-gram of ``tokens`` (N, L) before ``t``."""
    length = tokens.shape[1]
    if n > length:
        return log_p
    windows = length - n + 1
    starts = ops.arange(windows)
    repeats = ops.broadcast_to(starts + n <= t, ops.shape(tokens[:, :windows]))
    for offset in range(n - 1):
        last = ops.take(tokens, ops.maximum(t - (n - 1) + offset, 0), axis=1)
        repeats = ops.logical_and(repeats, tokens[:, offset : offset + windows] == last[:, None])
    # <end> may follow anything, so a caption can always be finished; <pad> is banned already.
    followers = tokens[:, n - 1 : n - 1 + windows]
    followers = ops.where(ops.logical_and(repeats, followers != END), followers, PAD)
    rows = ops.broadcast_to(ops.arange(ops.shape(tokens)[0])[:, None], ops.shape(followers))
    banned = ops.reshape(ops.stack([rows, followers], axis=-1), (-1, 2))
    return ops.scatter_update(log_p, banned, ops.full_like(banned[:, 0], BANNED, dtype=log_p.dtype))


def greedy_search(
    step: Step,
    state,
    batch: int,
    max_length: int,
    length_penalty: float = 1.0,
    min_length: int = 1,
    no_repeat_ngram: int = 0,
):
    """The most probable next word, again and again, as ``Hypotheses`` with K = 1.

    ``state`` leads with ``batch`` rows; a caption has at most ``max_length`` words.
    """
    length = max_length + 1
    tokens = ops.full((batch, length), PAD, dtype="int32")
    last = ops.full((batch,), START, dtype="int32")
    done = ops.zeros((batch,), dtype="bool")
    log_probs = ops.zeros((batch,), dtype="float32")

    def cond(t, tokens, last, done, log_probs, state):
        return ops.logical_and(t < length, ops.logical_not(ops.all(done)))

    def body(t, tokens, last, done, log_probs, state):
        logits, state = step(last, state)
        log_p = log_probabilities(logits, tokens, t, min_length, no_repeat_ngram)
        best_log_p = ops.max(log_p, axis=-1)
        # Of floats Keras' argmax tells -0 from 0 by their bits, which no exported graph can.
        best = ops.cast(ops.argmax(ops.cast(log_p == best_log_p[:, None], "int32"), axis=-1), "int32")
        # The last position is <end>'s alone: a caption that has not ended by then is cut.
        best = ops.where(ops.logical_and(t == length - 1, best != END), PAD, best)
        stop = ops.logical_or(done, best == PAD)
        best = ops.where(stop, PAD, best)
        log_probs = ops.where(stop, log_probs, log_probs + best_log_p)
        tokens = _put(tokens, t, best)
        return t + 1, tokens, best, ops.logical_or(stop, best == END), log_probs, state

    loop = (ops.convert_to_tensor(0, dtype="int32"), tokens, last, done, log_probs, state)
    _, tokens, _, _, log_probs, _ = ops.while_loop(cond, body, loop)
    lengths = ops.cast(ops.sum(ops.cast(tokens != PAD, "int32"), axis=-1), "float32")
    scores = log_probs / ops.power(lengths, length_penalty)
    return Hypotheses(tokens[:, None], log_probs[:, None], scores[:, None])


def beam_search(
    step: Step,
    state,
    batch: int,
    max_length: int,
    beam_size: int,
    length_penalty: float = 1.0,
    min_length: int = 1,
    no_repeat_ngram: int = 0,
):
    """The ``beam_size`` best captions of each image found by beam search, as ``Hypotheses``.

    ``state`` leads with ``batch`` rows, one per image. Captions that reached ``max_length`` words without ending rank
    below all that ended, so there is always a caption.
    """
    k, length = beam_size, max_length + 1
    state = keras.tree.map_structure(lambda leaf: ops.repeat(leaf, k, axis=0), state)
    image, state = _apart(state)
    first_row = ops.arange(batch)[:, None] * k

    def score(log_probs, words_and_end):
        return log_probs / ops.power(ops.cast(words_and_end, "float32"), length_penalty)

    def cond(t, last, live, live_log_p, ended, ended_log_p, ended_score, done, state):
        return ops.logical_and(t < length, ops.logical_not(ops.all(done)))

    def body(t, last, live, live_log_p, ended, ended_log_p, ended_score, done, state):
        logits, state = step(ops.reshape(last, (batch * k,)), {**image, **state} if image else state)
        _, state = _apart(state)
        vocabulary = logits.shape[-1]
        log_p = log_probabilities(logits, ops.reshape(live, (batch * k, length)), t, min_length, no_repeat_ngram)
        total = live_log_p[:, :, None] + ops.reshape(log_p, (batch, k, vocabulary))
        # 2K candidates always hold K that go on, since each live hypothesis ends in one way only.
        flat = ops.reshape(total, (batch, k * vocabulary))
        log_probs, index = ops.top_k(flat, 2 * k)
        index = ops.cast(index, "int32")
        parent, word = index // vocabulary, index % vocabulary
        candidates = _put(_pick(live, parent), t, word)

        is_end = word == END
        is_valid = log_probs > BANNED / 2
        among_best = ops.arange(2 * k) < k
        finishes = ops.logical_and(ops.logical_and(is_end, is_valid), ops.logical_and(among_best, ~done[:, None]))
        new_score = ops.where(finishes, score(log_probs, t + 1), BANNED)
        ended_score, order = ops.top_k(ops.concatenate([ended_score, new_score], axis=1), k)
        ended_log_p = ops.take_along_axis(ops.concatenate([ended_log_p, log_probs], axis=1), order, axis=1)
        ended = _pick(ops.concatenate([ended, candidates], axis=1), order)

        # The last position is <end>'s alone, so there the live hypotheses stay as they are.
        goes_on = ops.where(is_end, 2 * BANNED, log_probs)
        new_log_p, order = ops.top_k(goes_on, k)
        parent = ops.take_along_axis(parent, order, axis=1)
        word = ops.take_along_axis(word, order, axis=1)
        keep = ops.logical_or(t == length - 1, done)
        live_log_p = ops.where(keep[:, None], live_log_p, new_log_p)
        live = ops.where(keep[:, None, None], live, _pick(candidates, order))
        rows = ops.reshape(first_row + parent, (batch * k,))
        state = keras.tree.map_structure(lambda leaf: ops.take(leaf, rows, axis=0), state)
        # K worse captions that ended early must not cut off a better one that is still growing.
        is_full = ended_score[:, -1] > BANNED / 2
        is_beaten = score(live_log_p[:, 0], t + 1) <= ended_score[:, -1]
        done = ops.logical_or(done, ops.logical_and(is_full, is_beaten))
        return t + 1, word, live, live_log_p, ended, ended_log_p, ended_score, done, state

    # All beams start equal: only the first may contribute, or the K best would be K copies of one caption.
    live_log_p = ops.tile(ops.where(ops.arange(k) == 0, 0.0, BANNED)[None], (batch, 1))
    none = ops.full((batch, k), BANNED, dtype="float32")
    empty = ops.full((batch, k, length), PAD, dtype="int32")
    loop = (
        ops.convert_to_tensor(0, dtype="int32"),
        ops.full((batch, k), START, dtype="int32"),
        empty,
        ops.cast(live_log_p, "float32"),
        empty,
        none,
        none,
        ops.zeros((batch,), dtype="bool"),
        state,
    )
    _, _, live, live_log_p, ended, ended_log_p, ended_score, _, _ = ops.while_loop(cond, body, loop)

    is_alive = live_log_p > BANNED / 2
    live_score = ops.where(is_alive, score(live_log_p, max_length), BANNED)
    # Below every caption that ended, and among themselves in the order they stand in, best first.
    live_rank = ops.where(is_alive, BANNED / 4, BANNED / 2) * (1.0 + 1e-3 * ops.arange(k, dtype="float32"))
    rank = ops.concatenate([ended_score, live_rank], axis=1)
    _, order = ops.top_k(rank, k)
    return Hypotheses(
        _pick(ops.concatenate([ended, live], axis=1), order),
        ops.take_along_axis(ops.concatenate([ended_log_p, live_log_p], axis=1), order, axis=1),
        ops.take_along_axis(ops.concatenate([ended_score, live_score], axis=1), order, axis=1),
    )


def consensus(found: Hypotheses) -> Hypotheses:
    """The captions of a beam in the order of their agreement with all of them; those that did not end stay last.

    Range voting (Borgeaud & Emerson, 2020, https://arxiv.org/abs/1908.06288): each caption that ended votes for each with
    their likeness, the mean F1 of their words and of their bigrams, from 0 to 1; votes weigh p^0.35, where in the paper p is
    not tempered. Two captions cannot outvote one another, so this needs a beam of 3 at least; "Consensus" in
    docs/results.md says what 20 are worth.
    """
    tokens, log_probs, scores = found
    beams = tokens.shape[1]
    has_ended = ops.logical_and(ops.any(tokens == END, axis=-1), log_probs > BANNED / 2)
    votes = ops.softmax(_VOTE_POWER * ops.where(has_ended, log_probs, BANNED), axis=1)

    # Captions share an n-gram as often as both have it, so its first occurrence is matched with the first, and so on.
    own = _equal_ngrams(tokens, tokens)
    occurrence = [ops.sum(ops.cast(ops.tril(equal, -1), "int32"), axis=-1) for equal in own]
    is_ngram = [tokens[:, :, n:] > UNK for n in range(len(own))]
    counts = [ops.sum(ops.cast(part, "int32"), axis=-1) for part in is_ngram]

    def likeness(v):
        """Of all captions ``(B, K)`` to the one at ``v``."""
        f1 = []
        for n, equal in enumerate(_equal_ngrams(tokens, ops.take(tokens, v, axis=1)[:, None])):
            of_voter = ops.take(occurrence[n], v, axis=1)[:, None, None, :]
            equal = ops.logical_and(equal, occurrence[n][:, :, :, None] == of_voter)
            equal = ops.logical_and(equal, is_ngram[n][:, :, :, None])
            shared = ops.cast(ops.sum(ops.cast(equal, "int32"), axis=(2, 3)), "float32")
            both = ops.cast(counts[n] + ops.take(counts[n], v, axis=1)[:, None], "float32")
            # Two captions of one word have no bigrams that could differ.
            f1.append(ops.where(both > 0, 2 * shared / ops.maximum(both, 1.0), f1[-1] if f1 else 0.0))
        return sum(f1) / len(f1)

    def body(v, agreement):
        return v + 1, agreement + ops.take(votes, v, axis=1)[:, None] * likeness(v)

    first = (ops.convert_to_tensor(0, dtype="int32"), ops.zeros_like(votes))
    _, agreement = ops.while_loop(lambda v, agreement: v < beams, body, first)
    in_their_order = -1.0 - ops.arange(beams, dtype="float32")
    _, order = ops.top_k(ops.where(has_ended, agreement, in_their_order), beams)
    scores = ops.where(has_ended, agreement, scores)
    return Hypotheses(_pick(tokens, order), *(ops.take_along_axis(part, order, axis=1) for part in (log_probs, scores)))


def _equal_ngrams(a, b):
    """Which words of ``a (B, J, L)`` equal which of ``b (B, J or 1, L)``, bool ``(B, J, L, L)``; and which bigrams."""
    words = a[:, :, :, None] == b[:, :, None, :]
    return words, ops.logical_and(words[:, :, :-1, :-1], words[:, :, 1:, 1:])


def ban_unsampled(logits):
    """``logits (N, T, V)`` with what ``sample`` never draws at ``BANNED``: special tokens, and ``<end>`` as the first word."""
    places, words = ops.arange(ops.shape(logits)[1])[:, None], ops.arange(logits.shape[-1])
    return ops.where(ops.logical_and(places == 0, words == END), BANNED, ban_special(logits))


def sample(step: Step, state, uniforms, max_length: int):
    """Captions drawn word by word from the model: int32 ``(B, S, max_length + 1)``, laid out as in ``Hypotheses``.

    ``uniforms`` float32 ``(B, S, max_length + 1)`` in [0, 1) decides each draw, so equal numbers give equal captions. A
    caption has at least one word, and no special ones.
    """
    batch, samples, length = ops.shape(uniforms)[0], uniforms.shape[1], max_length + 1
    rows = batch * samples
    uniforms = ops.reshape(uniforms, (-1, length))
    state = keras.tree.map_structure(lambda leaf: ops.repeat(leaf, samples, axis=0), state)
    tokens = ops.full((rows, length), PAD, dtype="int32")

    def cond(t, tokens, last, done, state):
        return ops.logical_and(t < length, ops.logical_not(ops.all(done)))

    def body(t, tokens, last, done, state):
        logits, state = step(last, state)
        cumulated = ops.cumsum(ops.exp(log_probabilities(logits, tokens, t, 1, 0)), axis=-1)
        threshold = ops.take(uniforms, t, axis=1)[:, None] * cumulated[:, -1:]
        drawn = ops.sum(ops.cast(cumulated <= threshold, "int32"), axis=-1)
        # Rounding may step over the last word's share.
        drawn = ops.clip(drawn, END, logits.shape[-1] - 1)
        drawn = ops.where(ops.logical_and(t == length - 1, drawn != END), PAD, drawn)
        drawn = ops.where(done, PAD, drawn)
        return t + 1, _put(tokens, t, drawn), drawn, drawn <= END, state

    first = (
        ops.convert_to_tensor(0, dtype="int32"),
        tokens,
        ops.full((rows,), START, dtype="int32"),
        ops.zeros((rows,), dtype="bool"),
        state,
    )
    tokens = ops.while_loop(cond, body, first)[1]
    return ops.reshape(tokens, (-1, samples, length))


def _apart(state):
    """What of ``state`` is of the image alone, and the rest, which beam search must reorder."""
    if not isinstance(state, dict) or "image" not in state:
        return {}, state
    return {"image": state["image"]}, {name: part for name, part in state.items() if name != "image"}


def _pick(tokens, order):
    """``(B, J, L)`` from ``tokens (B, K, L)``: those at ``order (B, J)``."""
    batch, count, length = ops.shape(tokens)
    first = ops.arange(batch, dtype=order.dtype)[:, None] * count
    return ops.take(ops.reshape(tokens, (-1, length)), first + order, axis=0)


def _put(tokens, t, words):
    """``tokens (..., L)`` with ``words (...)`` at position ``t``."""
    return ops.where(ops.arange(tokens.shape[-1]) == t, ops.expand_dims(words, -1), tokens)
