"""The model that Keras trains: a decoder with masked cross-entropy and teacher forcing.

Legend: B batch, R regions, D feature size, T time, V vocabulary size.
"""

import keras
from keras import ops

from captioning.decoders.base import Decoder
from captioning.words.vocabulary import PAD, UNK


def word_nll(logits, targets):
    """Negative log-likelihood in nats of ``targets`` int ``(B, T)`` under float32 ``logits (B, T, V)``, and logits' log-sum-exp.

    Both ``(B, T)``.
    """
    log_total = ops.logsumexp(logits, axis=-1)
    # One-hot rather than a gather, whose gradient costs TensorFlow twice the time of this whole loss.
    return log_total - ops.sum(logits * ops.one_hot(targets, logits.shape[-1]), axis=-1), log_total


def drop_words(token_ids, share: float, seeds: keras.random.SeedGenerator):
    """``token_ids (B, T)`` with about this ``share`` of the words replaced by ``<unk>``; special tokens stay.

    Bowman et al. (2016), https://arxiv.org/abs/1511.06349.
    """
    drop = keras.random.uniform(ops.shape(token_ids), seed=seeds) < share
    return ops.where(ops.logical_and(drop, token_ids > UNK), UNK, token_ids)


class CaptionTrainer(keras.Model):
    """A decoder as a Keras model that ``fit`` and ``evaluate`` can drive: ``(features, inputs[, rows]) -> logits``.

    ``word_dropout``: share of the input words that training drops (see ``drop_words``). ``attention_penalty``: weight of
    the doubly stochastic penalty of Xu et al. (2015, equation 14) in the loss; the output then is the pair of logits and
    attention weights.

    ``loss`` is the mean over a batch's words of what the optimiser minimises; ``nll`` is the exact mean negative
    log-likelihood in nats per word (``<end>`` counts as a word) since the epoch began. Padding counts in neither.
    """

    def __init__(
        self,
        decoder: Decoder,
        label_smoothing: float = 0.0,
        word_dropout: float = 0.0,
        attention_penalty: float = 0.0,
    ):
        super().__init__()
        self.decoder = decoder
        self.label_smoothing = label_smoothing
        self.word_dropout = word_dropout
        self.attention_penalty = attention_penalty
        self.seeds = keras.random.SeedGenerator(0)
        self.nll = keras.metrics.Mean(name="nll")
        self.built = True

    def call(self, inputs, training=None):
        features, token_ids, rows = inputs if len(inputs) == 3 else (*inputs, None)
        if training and self.word_dropout:
            token_ids = drop_words(token_ids, self.word_dropout, self.seeds)
        if self.attention_penalty:
            return self.decoder.attend(features, token_ids, training=training, rows=rows)
        return self.decoder(features, token_ids, training=training, rows=rows)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean cross-entropy of targets ``y`` int ``(B, T)`` under ``y_pred``, logits ``(B, T, V)``; ``<pad>`` is left out."""
        logits, weights = y_pred if self.attention_penalty else (y_pred, None)
        logits = ops.cast(logits, "float32")
        mask = ops.cast(ops.not_equal(y, PAD), "float32")
        nll, log_total = word_nll(logits, y)
        # Flat: Keras averages over all axes but the first before it weighs, and long captions would count too little.
        self.nll.update_state(ops.reshape(nll, (-1,)), sample_weight=ops.reshape(mask, (-1,)))
        loss = nll
        if self.label_smoothing and training:
            uniform = log_total - ops.mean(logits, axis=-1)
            loss = (1 - self.label_smoothing) * nll + self.label_smoothing * uniform
        loss = ops.sum(loss * mask) / ops.sum(mask)
        if self.attention_penalty and training:
            # Over a caption each region should get its even share of all looks, as far as there are enough of them.
            looks = ops.sum(ops.cast(weights, "float32") * mask[..., None], axis=1)  # (B, R)
            words = ops.sum(mask, axis=1)
            unequal = ops.mean(ops.square(words[:, None] / weights.shape[-1] - looks), axis=-1)
            captions = ops.sum(ops.cast(words > 0, "float32"))  # all rows but those that only fill a batch up
            loss = loss + self.attention_penalty * ops.sum(unequal) / captions
        return loss
