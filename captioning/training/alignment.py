"""Alignment: the two towers learn to put an image and its captions near each other, and away from all others.

Legend: B pairs, R regions, D feature size, T tokens.
"""

import keras
from keras import ops

from captioning.retrieval.contrast import contrast
from captioning.retrieval.towers import Towers
from captioning.training.counting import CountingTrainer, counted_images
from captioning.training.word_dropout import drop_words
from captioning.words.vocabulary import PAD
from config import AlignmentSettings


class AlignmentTrainer(CountingTrainer):
    """The towers as a Keras model for ``fit`` and ``evaluate``, on batches of ``batches.PairBatches``.

    Inputs are ``(features (B, R, D), token_ids (B, T), images (B,))``, where equal numbers in ``images`` mean the same
    image. Pairs without tokens only fill up the batch. The output is cosines ``(B, B)`` of images with captions.
    ``word_dropout`` is the share of the words that training drops (see ``drop_words``).
    """

    def __init__(self, towers: Towers, settings: AlignmentSettings, word_dropout: float = 0.0):
        super().__init__()
        self.towers, self.word_dropout = towers, word_dropout
        self.kind, self.margin, self.temperature = settings.alignment_loss, settings.margin, settings.temperature
        self.seeds = keras.random.SeedGenerator(0)
        self.built = True

    def call(self, inputs, training=None):
        features, token_ids, _ = inputs
        if training and self.word_dropout:
            token_ids = drop_words(token_ids, self.word_dropout, self.seeds)
        images, texts = self.towers.image(features, training=training), self.towers.text(token_ids, training=training)
        return ops.matmul(images, ops.transpose(texts))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The contrastive loss of the cosines ``y_pred``, a scalar (see ``retrieval.contrast``)."""
        _, token_ids, images = x
        is_pair = ops.any(ops.not_equal(token_ids, PAD), axis=1)
        loss = contrast(y_pred, images, self.kind, self.margin, self.temperature, is_pair)
        return self.count(loss, counted_images(token_ids))
