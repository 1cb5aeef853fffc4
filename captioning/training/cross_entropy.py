"""Cross-entropy: the model that Keras trains is a decoder with teacher forcing and a loss that leaves out padding.

Legend: B images, S captions of each image, N captions, R regions, D feature size, T time, V vocabulary size.
"""

import keras
from keras import ops

from captioning.decoders.base import Decoder, beside, of_captions
from captioning.decoders.likelihood import word_nll
from captioning.training.counting import CountingTrainer, counted_images
from captioning.training.reading import at_places, needs_fixed_shapes, read_captions
from captioning.training.word_dropout import drop_words
from captioning.words.vocabulary import PAD


class CaptionTrainer(CountingTrainer):
    """A decoder as a Keras model for ``fit`` and ``evaluate``.

    Inputs are one of these, and targets have the shape of ``token_ids``:

        ``(features (B, R, D), token_ids (B, T))``                    one caption of each image
        ``(features (B, R, D), token_ids (B, S, T))``                 S captions of each image
        ``(features (B, R, D), token_ids (N, T), image_of (N,))``     ``image_of`` is the row of a caption's image

    The output is the dict of ``read_captions``. It has logits of the words alone, where the backend allows it. For
    ``attention_penalty`` it also has the "mask" of padded regions, bool ``(N, R)``.

    label_smoothing: The share of the probability that the training loss spreads over the whole vocabulary.
    word_dropout: The share of the input words that training drops (see ``drop_words``).
    attention_penalty: The weight in the loss of the doubly stochastic penalty of Xu et al. (2015, equation 14).

    The metric ``loss`` is what the optimiser minimises: a mean over the words of a batch. The metric ``nll`` is the
    exact mean negative log-likelihood since the epoch began, in nats per word. ``<end>`` counts as a word. Padding
    counts in neither, and neither do rows that only fill up a batch.
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
        features, token_ids, image_of = inputs if len(inputs) == 3 else (*inputs, None)
        found = self.teach(self.decoder.see(features, training), token_ids, image_of, training)
        mask = self.decoder.mask(features) if self.attention_penalty else None
        if mask is None:
            return found
        captions = ops.reshape(token_ids, (-1, ops.shape(token_ids)[-1]))
        return {**found, "mask": beside(of_captions(mask, image_of), captions)}

    def teach(self, image, token_ids, image_of=None, training=None):
        """``read`` of given captions, with words dropped in training."""
        seen = drop_words(token_ids, self.word_dropout, self.seeds) if training and self.word_dropout else token_ids
        return self.read(image, token_ids, seen, image_of, training)

    def read(self, image, token_ids, seen_ids, image_of=None, training=None):
        """``read_captions``, in the way that suits the decoder and the backend."""
        return read_captions(self.decoder, image, token_ids, seen_ids, image_of, training, self.keeps_padding)

    @property
    def keeps_padding(self) -> bool:
        """Whether padding is read too."""
        return needs_fixed_shapes(getattr(self, "jit_compile", False))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of targets ``y`` int ``(..., T)`` under ``y_pred``, a scalar."""
        loss = self.cross_entropy(y, y_pred, training)
        return self.count(loss, counted_images(y, x[2], ops.shape(x[0])[0]) if len(x) == 3 else counted_images(y))

    def cross_entropy(self, y, y_pred, training=True):
        """The mean cross-entropy of targets ``y`` int ``(..., T)`` under ``y_pred``; ``<pad>`` is left out."""
        logits, targets = ops.cast(y_pred["logits"], "float32"), at_places(y, y_pred)
        mask = ops.cast(ops.not_equal(targets, PAD), "float32")
        nll, log_total = word_nll(logits, targets)
        # Flat, because Keras averages over all axes but the first before it weighs. Long captions would count too
        # little.
        self.nll.update_state(ops.reshape(nll, (-1,)), sample_weight=ops.reshape(mask, (-1,)))
        loss = nll
        if self.label_smoothing and training:
            uniform = log_total - ops.mean(logits, axis=-1)
            loss = (1 - self.label_smoothing) * nll + self.label_smoothing * uniform
        loss = ops.sum(loss * mask) / ops.sum(mask)
        if self.attention_penalty and training:
            weights = y_pred["weights"]
            is_word = ops.cast(ops.not_equal(at_places(y, {}), PAD), "float32")[:, : ops.shape(weights)[1]]
            loss = loss + _doubly_stochastic(weights, is_word, self.attention_penalty, y_pred.get("mask"))
        return loss


def _doubly_stochastic(weights, mask, penalty: float, seen=None):
    """``penalty`` times the unevenness of a caption's looks, a scalar; zero where each region gets its even share.

    ``weights`` are attention weights ``(N, T, R)``. ``mask`` float32 ``(N, T)`` is 1 for words and 0 for padding.
    ``seen`` bool ``(N, R)``: false for padded regions, which have no share. None: there are none.
    """
    looks = ops.sum(ops.cast(weights, "float32") * mask[..., None], axis=1)  # (N, T, R) -> (N, R)
    words = ops.sum(mask, axis=1)
    if seen is None:
        unequal = ops.mean(ops.square(words[:, None] / weights.shape[-1] - looks), axis=-1)
    else:
        regions = ops.maximum(ops.sum(ops.cast(seen, "float32"), axis=-1), 1)
        unequal = ops.where(seen, ops.square((words / regions)[:, None] - looks), 0)
        unequal = ops.sum(unequal, axis=-1) / regions
    captions = ops.sum(ops.cast(words > 0, "float32"))  # without the rows that only fill up a batch
    return penalty * ops.sum(unequal) / captions
