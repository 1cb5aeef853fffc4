"""Rules on the next word, and the score that ranks captions.

The legend is in ``hypotheses.py``. A rule sets the words that must not come next to ``BANNED``.
"""

from dataclasses import dataclass

from keras import ops

from captioning.search.hypotheses import BANNED, IMPOSSIBLE, Hypotheses
from captioning.search.state import pick_hypotheses
from captioning.words.vocabulary import END, PAD, START, UNK


def is_special(vocabulary: int):
    """Bool ``(V,)``: true for ``<pad>``, ``<start>`` and ``<unk>``, which no caption may contain."""
    words = ops.arange(vocabulary)
    return ops.logical_or(words == PAD, ops.logical_or(words == START, words == UNK))


def is_early_end(vocabulary: int, t, min_length: int):
    """Bool ``(V,)``: true for ``<end>`` if fewer than ``min_length`` words stand before position ``t``."""
    return ops.logical_and(ops.arange(vocabulary) == END, t < min_length)


def ban_special(logits):
    """``logits (..., V)`` as float32, with the special words of ``is_special`` at ``BANNED``."""
    return ops.where(is_special(logits.shape[-1]), BANNED, ops.cast(logits, "float32"))


def entropy(log_p):
    """The entropy in nats, float32 ``(N,)``, of words with log p float32 ``(N, V)``. Banned words add nothing."""
    return -ops.sum(ops.exp(log_p) * log_p, axis=-1)


def ban_repeats(log_p, tokens, t, n: int):
    """``log_p`` float32 ``(N, V)`` with each word at ``BANNED`` that would repeat an n-gram.

    ``tokens`` int32 ``(N, L)`` holds the words so far, at positions before ``t``.
    ``<end>`` is never banned, so a caption can always end.
    """
    length = tokens.shape[1]
    if n > length:
        return log_p
    windows = length - n + 1
    # Which windows of n words lie before t and start with the last n - 1 words: bool (N, windows).
    repeats = ops.broadcast_to(ops.arange(windows) + n <= t, ops.shape(tokens[:, :windows]))
    for offset in range(n - 1):
        last = ops.take(tokens, ops.maximum(t - (n - 1) + offset, 0), axis=1)
        repeats = ops.logical_and(repeats, tokens[:, offset : offset + windows] == last[:, None])
    # The last word of such a window must not follow. For other windows <pad> is banned, which is banned anyway.
    followers = tokens[:, n - 1 : n - 1 + windows]
    followers = ops.where(ops.logical_and(repeats, followers != END), followers, PAD)
    rows = ops.broadcast_to(ops.arange(ops.shape(tokens)[0])[:, None], ops.shape(followers))
    banned = ops.reshape(ops.stack([rows, followers], axis=-1), (-1, 2))  # pairs of row and word
    return ops.scatter_update(log_p, banned, ops.full_like(banned[:, 0], BANNED, dtype=log_p.dtype))


@dataclass(frozen=True)
class Rules:
    """The rules of one search. Special words are always banned."""

    min_length: int = 1  # words before <end> may come
    no_repeat_ngram: int = 0  # no n-gram of this size comes twice; 0: n-grams may repeat

    def log_probabilities(self, logits, tokens, t):
        """Log p of the next word, float32 ``(N, V)``, from ``logits (N, V)``.

        ``tokens`` int32 ``(N, L)`` holds the words so far, at positions before ``t``. Special words and an early
        ``<end>`` are banned before the softmax, so the probabilities of the others sum to one. Repeated n-grams are
        banned after it: their probability goes to no other word.
        """
        vocabulary = logits.shape[-1]
        impossible = ops.logical_or(is_special(vocabulary), is_early_end(vocabulary, t, self.min_length))
        log_p = ops.log_softmax(ops.where(impossible, BANNED, ops.cast(logits, "float32")), axis=-1)
        return ban_repeats(log_p, tokens, t, self.no_repeat_ngram) if self.no_repeat_ngram else log_p


# At least one word, and no other rule.
PLAIN = Rules()


def score(log_probs, length, length_penalty):
    """The score that ranks captions: log p / length^a, with a the ``length_penalty``. Float32, shaped as ``log_probs``.

    ``length`` int, a scalar or shaped as ``log_probs``, counts the tokens of a caption, ``<end>`` included. Wu et al.
    (2016, section 7) use ((5 + length) / 6)^a. We use the plain power, as most captioners do.
    """
    return log_probs / ops.power(ops.cast(length, "float32"), length_penalty)


def best_first(found: Hypotheses) -> Hypotheses:
    """``found`` with the best captions of each image first: those that ended by score, then those that were cut."""
    has_ended = ops.any(found.tokens == END, axis=-1)
    captions = ops.shape(found.scores)[1]  # a graph may leave it open
    is_possible = found.log_probs > IMPOSSIBLE
    # Below every score of an ended caption. The factor keeps the others in the order they stand in.
    below = ops.where(is_possible, BANNED / 4, BANNED / 2) * (1.0 + 1e-3 * ops.arange(captions, dtype="float32"))
    rank = ops.where(ops.logical_and(has_ended, is_possible), found.scores, below)
    return pick_hypotheses(found, ops.top_k(rank, captions)[1])
