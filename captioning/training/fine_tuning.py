"""Fine-tuning: the encoder learns with the decoder, from pixels.

It is a second stage, after the decoder has learned on fixed features (as in Xu et al., 2015, and Lu et al., 2017). The
encoder, or its last layers, gets gradients too. Each picture is encoded once for all its captions.
Legend: B images, S pixels per side, R regions, D feature size, N captions of all B images, T tokens.
"""

import keras
from keras import ops

from captioning.decoders.base import Decoder
from captioning.features.folding import fold_to_learn
from captioning.training.cross_entropy import CaptionTrainer


class PixelTrainer(CaptionTrainer):
    """A CaptionTrainer whose training batches hold pixels: ``(pixels (B, S, S, 3), inputs (N, T), image_of (N,))``.

    The encoder computes in Keras' global dtype policy. Validation batches are those of CaptionTrainer: they hold
    features.
    """

    def __init__(self, encoder: keras.Model, decoder: Decoder, *args: float):
        """``args`` are label_smoothing, word_dropout and attention_penalty, as CaptionTrainer takes them."""
        super().__init__(decoder, *args)
        self.encoder = encoder
        # A method. Keras would track a model, and checkpoints would hold the encoder twice.
        self.encode = fold_to_learn(encoder).__call__

    def call(self, inputs, training=None):
        first, *captions = inputs
        if len(captions) == 2:  # a training batch
            # In inference mode: in training mode a backbone's own dropout would draw.
            first = self.encode(ops.cast(first, "float32"), training=False)  # (B, S, S, 3) -> (B, R, D)
        return super().call((first, *captions), training=training)
