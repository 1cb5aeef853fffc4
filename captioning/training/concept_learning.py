"""Visual concepts: the detector learns which words the captions of an image have.

Legend: B images, R regions, D feature size, N captions, T tokens, W words that learn, V vocabulary size.
"""

from keras import ops

from captioning.concepts.detector import Concepts
from captioning.training.counting import CountingTrainer
from captioning.words.vocabulary import PAD


class ConceptTrainer(CountingTrainer):
    """A detector as a Keras model for ``fit`` and ``evaluate``.

    Inputs are ``(features (B, R, D), token_ids (N, T), image_of (N,))``, or without ``image_of`` if each caption has a
    row of features. The output is logits ``(B, W)``. The target of a word is the share of the image's captions that
    have it. The loss is the mean binary cross-entropy over words and images, in nats.
    """

    def __init__(self, concepts: Concepts, vocabulary_size: int):
        """``vocabulary_size`` is V."""
        super().__init__()
        self.concepts = concepts
        self._places = concepts.places(vocabulary_size)
        self.built = True

    def call(self, inputs, training=None):
        return self.concepts.detect(inputs[0], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of targets ``y`` int ``(N, T)``, the tokens of all captions, under logits ``y_pred (B, W)``."""
        count, images = y_pred.shape[-1], ops.shape(y_pred)[0]
        image_of = x[2] if len(x) == 3 else ops.arange(ops.shape(y)[0])
        is_caption = ops.cast(ops.any(ops.not_equal(y, PAD), axis=1), "float32")  # others only fill up a batch
        # Padding is a special word, so the detector does not know it.
        named = ops.max(ops.one_hot(ops.take(self._places, y), count + 1, dtype="float32"), axis=1)[:, :count]  # (N, W)
        captions = ops.segment_sum(is_caption, image_of, num_segments=images)
        shares = ops.segment_sum(named * is_caption[:, None], image_of, num_segments=images)
        shares = shares / ops.maximum(captions, 1.0)[:, None]
        loss = ops.mean(ops.softplus(y_pred) - shares * y_pred, axis=-1)  # (B,)
        is_image = ops.cast(captions > 0, "float32")
        counted = ops.sum(is_image)
        return self.count(ops.sum(loss * is_image) / ops.maximum(counted, 1.0), counted)
