"""Fine-tuning: the encoder learns with the decoder, from pixels.

A second stage, after the decoder has learned on fixed features (as Xu et al., 2015, and Lu et al., 2017, do it): the
encoder, or its last layers, gets gradients too, at a learning rate of its own. Each picture is encoded once for all its captions.
Legend: B images, S pixels per side, R regions, D feature size, N captions of all B images, T tokens.
"""

from keras import ops

from captioning.features.folding import fold_to_learn
from captioning.training.cross_entropy import CaptionTrainer


class PixelTrainer(CaptionTrainer):
    """A CaptionTrainer whose training batches hold pixels: ``(pixels (B, S, S, 3), inputs (N, T), image of each row (N,))``.

    The encoder computes in Keras' global dtype policy. Validation batches are those of CaptionTrainer, with features from
    the encoder as it is by then.
    """

    def __init__(self, encoder, decoder, *args):
        super().__init__(decoder, *args)
        self.encoder = encoder
        self.encode = fold_to_learn(encoder).__call__  # a method, of which checkpoints know nothing

    def call(self, inputs, training=None):
        first, *captions = inputs
        if len(captions) == 2:  # not in validation
            # Not in training mode, in which a backbone's own dropout would draw.
            first = self.encode(ops.cast(first, "float32"), training=False)  # (B, S, S, 3) -> (B, R, D)
        return super().call((first, *captions), training=training)
