"""The likelihood that a decoder's logits give to words.

It is in this room because two rooms below read it. Training minimises it, and retrieval judges captions by it.
Legend: B rows, T time, V vocabulary size.
"""

from keras import ops


def word_nll(logits, targets):
    """The negative log-likelihood of each word, in nats, and the log-sum-exp of its logits: both float32 ``(B, T)``.

    ``logits`` are float32 ``(B, T, V)`` and ``targets`` int ``(B, T)``. Padding counts as a word here, so callers mask
    it.
    """
    log_total = ops.logsumexp(logits, axis=-1)
    # A one-hot product replaces a gather, whose gradient takes TensorFlow twice as long as this whole loss.
    return log_total - ops.sum(logits * ops.one_hot(targets, logits.shape[-1]), axis=-1), log_total
