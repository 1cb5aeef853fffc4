"""Constrained beam search: places in the beam for captions that hold more and more of the required phrases.

A beam of the most probable captions alone would lose those with a required word that is improbable here. So captions
are sorted into banks by how many required words they have. The places of the beam go to the banks in turn: first the
best caption of each bank, then the second best, and so on, as long as there are any.

* The idea is constrained beam search (Anderson et al., 2017, https://arxiv.org/abs/1612.00576). It has a beam for each
  set of required words. With C words it grows 2^C times as many captions.
* Banks by the number of words share one beam (dynamic beam allocation: Post and Vilar, 2018,
  https://arxiv.org/abs/1804.06609). A step then takes about as long as without required words. We take this.
* Each bank gets its best continuations, of all words of the vocabulary. Post and Vilar look at fewer of them.
* Only captions of the last bank may end. With as many beams as continuations this is exhaustive search.

The legend is in ``hypotheses.py``; besides, J is the number of continuations of a hypothesis that are looked at.
"""

from keras import ops

from captioning.search.hypotheses import BANNED, IMPOSSIBLE
from captioning.search.phrases import Required
from captioning.words.vocabulary import END

_NONE = 2 * BANNED  # log p where there is no candidate


def best_in_banks(total, states, required: Required):
    """2K continuations of each image: log p float32 ``(B, 2K)``, and their places int32 ``(B, 2K)`` in ``K * V``.

    ``total`` float32 ``(B, K, V)``: log p of all continuations. ``states`` int32 ``(B, K, C)``: how far the hypotheses
    have come. The first K are those of the best K that end; the others of the K have a log p of ``2 * BANNED``. The
    second K are the best K that go on.
    """
    beam_size, vocabulary = total.shape[1:]
    # Words that no phrase uses leave the bank as it is, so the K best of each hypothesis are enough.
    unused = ops.where(ops.convert_to_tensor(required.is_used), _NONE, total)
    log_p, words = ops.top_k(unused, min(beam_size, vocabulary))
    words = ops.cast(words, "int32")
    used = ops.convert_to_tensor(required.tokens)
    words = ops.concatenate([words, ops.zeros_like(words[:, :, :1]) + used], axis=2)  # (B, K, J)
    log_p = ops.concatenate([log_p, ops.take(total, used, axis=2)], axis=2)
    states = required.read(ops.repeat(states[:, :, None], words.shape[2], axis=2), words)  # (B, K, J, C)
    bank = required.bank(states)
    ends = words == END
    log_p = ops.where(ops.logical_and(ends, bank < required.banks - 1), _NONE, log_p)
    index = words + (ops.arange(beam_size, dtype="int32") * vocabulary)[:, None]
    log_p, bank, index, ends = (
        ops.reshape(part, (-1, beam_size * words.shape[2])) for part in (log_p, bank, index, ends)
    )
    all_log_p, all_order = _share(log_p, bank, required.banks, beam_size)
    all_log_p = ops.where(ops.take_along_axis(ends, all_order, axis=1), all_log_p, _NONE)
    live_log_p, live_order = _share(ops.where(ends, _NONE, log_p), bank, required.banks, beam_size)
    order = ops.concatenate([all_order, live_order], axis=1)
    return ops.concatenate([all_log_p, live_log_p], axis=1), ops.take_along_axis(index, order, axis=1)


def _share(log_p, bank, banks: int, places: int):
    """The candidates that get the ``places``: their log p float32 and numbers int32, both ``(B, places)``.

    ``log_p`` and ``bank`` ``(B, P)`` are those of P candidates. Each bank in turn gives its best one that has none yet,
    the fullest bank first. If there are too few, the log p of the rest is ``2 * BANNED``.
    """
    fullest_first = ops.arange(banks - 1, -1, -1, dtype="int32")
    is_inside = bank[:, None] == fullest_first[:, None]  # (B, banks, P)
    best, number = ops.top_k(ops.where(is_inside, log_p[:, None], _NONE), places)
    best, number = (
        ops.reshape(ops.transpose(part, (0, 2, 1)), (-1, banks * places)) for part in (best, ops.cast(number, "int32"))
    )  # the best of each bank, then the second best of each bank
    turn = ops.arange(banks * places, dtype="float32")
    _, order = ops.top_k(-ops.where(best > IMPOSSIBLE, turn, turn + banks * places), places)
    best, number = (ops.take_along_axis(part, order, axis=1) for part in (best, number))
    return ops.where(best > IMPOSSIBLE, best, _NONE), number
