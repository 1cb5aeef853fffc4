"""The mean loss of an epoch, in which rows that only fill up a batch count nothing.

Legend: B images, S captions of each image, N captions, T tokens.
"""

import keras
from keras import ops

from captioning.words.vocabulary import PAD


class CountingTrainer(keras.Model):
    """A Keras model whose metric ``loss`` weighs each batch by the images that count.

    Keras itself weighs a batch by its rows, also by those that only fill it up.
    """

    def __init__(self):
        super().__init__()
        self.mean_loss = _MeanLoss(name="loss")  # it comes after Keras' own metric, and takes its place in the logs

    def count(self, loss, images):
        """``loss``, a scalar, after it was counted as that of so many ``images``."""
        self.mean_loss.update_state(loss, sample_weight=ops.cast(images, "float32"))
        return loss


class _MeanLoss(keras.metrics.Mean):
    """A mean that no checkpoint holds. It begins anew with each epoch, and earlier checkpoints do not have it."""

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


def counted_images(token_ids, image_of=None, images=None):
    """How many images have a caption with words, a float32 scalar.

    ``token_ids`` is int ``(B, T)`` or ``(B, S, T)``, or ``(N, T)`` with ``image_of`` int ``(N,)``, the image of each
    caption, and ``images``, which is B.
    """
    is_caption = ops.any(ops.not_equal(token_ids, PAD), axis=-1)
    if image_of is not None:
        captions = ops.segment_sum(ops.cast(is_caption, "float32"), image_of, num_segments=images)
        return ops.sum(ops.cast(captions > 0, "float32"))
    return ops.sum(ops.cast(ops.any(ops.reshape(is_caption, (ops.shape(token_ids)[0], -1)), axis=1), "float32"))
