"""The likelihood that a decoder's logits give to words.

It lies beside the decoders, above every room that reads it: training minimises it, and retrieval judges by it.
Legend: B rows, T time, V vocabulary size.
"""

from keras import ops


def word_nll(logits, targets):
    """The negative log-likelihood of each word, in nats, and the log-sum-exp of its logits: both float32 ``(B, T)``.

    ``logits`` are float32 ``(B, T, V)`` and ``targets`` int ``(B, T)``. Padding is a word like any other here.
    """
    log_total = ops.logsumexp(logits, axis=-1)
    # A one-hot product and no gather. The gradient of a gather takes TensorFlow twice as long as this whole loss.
    return log_total - ops.sum(logits * ops.one_hot(targets, logits.shape[-1]), axis=-1), log_total
