"""Consensus: the captions of a beam in a new order, by how much each is like all of them.

The most probable caption need not be the best one. This is range voting (Borgeaud and Emerson, 2020,
https://arxiv.org/abs/1908.06288): each caption votes for each caption. The legend is in ``hypotheses.py``.

* A vote is the likeness of the two captions, from 0 to 1: the mean F1 of their words and of their bigrams.
* A vote weighs p^0.35, with p the probability of the voting caption. In the paper it weighs p.
* Two captions cannot outvote one another, so there must be 3 at least. "Consensus" in docs/results.md measures 20.
"""

from typing import Any, NamedTuple

from keras import ops

from captioning.search.hypotheses import BANNED, IMPOSSIBLE, Hypotheses
from captioning.search.state import loop_while, pick_hypotheses
from captioning.words.vocabulary import END, UNK

# A vote weighs p to this power, which was chosen on Flickr8k dev. With 1 a few captions have nearly all the weight.
_VOTE_POWER = 0.35


class VoteState(NamedTuple):
    """What the loop over the voters carries."""

    voter: Any  # int32 (): the caption that votes next, 0 to K - 1
    agreement: Any  # float32 (B, K): the sum of the votes for each caption so far


class Ngrams(NamedTuple):
    """The n-grams of one size of all captions, by the position of their first word."""

    exists: Any  # bool (B, K, P): whether an n-gram stands there
    occurrence: Any  # int32 (B, K, P): how often the same n-gram stands before it in its caption
    count: Any  # int32 (B, K): the n-grams of each caption


def consensus(found: Hypotheses) -> Hypotheses:
    """``found`` in the order of agreement, which becomes the score.

    Captions that did not end have no vote and stay last.
    """
    tokens, log_probs, scores, _ = found
    beams = ops.shape(tokens)[1]
    has_ended = ops.logical_and(ops.any(tokens == END, axis=-1), log_probs > IMPOSSIBLE)
    weights = ops.softmax(_VOTE_POWER * ops.where(has_ended, log_probs, BANNED), axis=1)
    ngrams = _ngrams(tokens)

    def advance(now: VoteState) -> VoteState:
        weight = ops.take(weights, now.voter, axis=1)[:, None]
        return VoteState(now.voter + 1, now.agreement + weight * _likeness(tokens, ngrams, now.voter))

    first = VoteState(ops.convert_to_tensor(0, dtype="int32"), ops.zeros_like(weights))
    agreement = loop_while(lambda now: now.voter < beams, advance, first).agreement
    below_all = -1.0 - ops.arange(beams, dtype="float32")  # keeps captions that did not end in their order
    _, order = ops.top_k(ops.where(has_ended, agreement, below_all), beams)
    return pick_hypotheses(found._replace(scores=ops.where(has_ended, agreement, scores)), order)


def _ngrams(tokens) -> list[Ngrams]:
    """The words, then the bigrams, of ``tokens`` int32 ``(B, K, L)``."""
    found = []
    for n, equal in enumerate(_equal_ngrams(tokens, tokens)):
        exists = tokens[:, :, n:] > UNK  # <end> and <pad> are below
        found.append(
            Ngrams(
                exists=exists,
                occurrence=ops.sum(ops.cast(ops.tril(equal, -1), "int32"), axis=-1),
                count=ops.sum(ops.cast(exists, "int32"), axis=-1),
            )
        )
    return found


def _likeness(tokens, ngrams: list[Ngrams], voter):
    """How much each caption is like caption ``voter``, float32 ``(B, K)`` from 0 to 1.

    Two captions share an n-gram as often as both have it. So its first occurrence in one is matched with its first
    occurrence in the other, and so on.
    """
    f1: list[Any] = []
    of_voter = ops.take(tokens, voter, axis=1)[:, None]  # (B, 1, L)
    for ngram, equal in zip(ngrams, _equal_ngrams(tokens, of_voter), strict=True):
        occurrence = ops.take(ngram.occurrence, voter, axis=1)[:, None, None, :]
        equal = ops.logical_and(equal, ngram.occurrence[:, :, :, None] == occurrence)
        equal = ops.logical_and(equal, ngram.exists[:, :, :, None])
        shared = ops.cast(ops.sum(ops.cast(equal, "int32"), axis=(2, 3)), "float32")
        both = ops.cast(ngram.count + ops.take(ngram.count, voter, axis=1)[:, None], "float32")
        # Two captions of one word each have no bigrams. Then the F1 of their words counts twice.
        f1.append(ops.where(both > 0, 2 * shared / ops.maximum(both, 1.0), f1[-1] if f1 else 0.0))
    return sum(f1) / len(f1)


def _equal_ngrams(a, b):
    """Which n-grams of ``a (B, J, L)`` equal which of ``b (B, J or 1, L)``.

    Words: bool ``(B, J, L, L)``. Bigrams: bool ``(B, J, L - 1, L - 1)``.
    """
    words = a[:, :, :, None] == b[:, :, None, :]
    return words, ops.logical_and(words[:, :, :-1, :-1], words[:, :, 1:, 1:])
