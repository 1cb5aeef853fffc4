"""Alignment: the two towers learn to put an image and its caption near one another, and away from all others.

Two losses over a batch of B captions with their images, in both directions. Another caption of the same image is never
held against it. ``triplet``: the hardest other image, and the hardest other caption, must stay a margin behind (VSE++,
Faghri et al., 2018, https://arxiv.org/abs/1707.05612, equation 6). ``infonce``: the right one must be told from all others
by a softmax over cosines divided by a temperature (van den Oord et al., 2018, https://arxiv.org/abs/1807.03748).
Legend: B pairs, R regions, D feature size, T tokens.
"""

import keras
from keras import ops

from captioning.retrieval.towers import Towers
from captioning.training.cross_entropy import drop_words
from config import Config

_NEVER = -1e9  # a cosine that no maximum and no softmax notices


def contrast(cosines, images, kind: str, margin: float, temperature: float):
    """The loss, a scalar, of ``cosines (B, B)`` of images with captions, pair by pair; ``images`` int (B,) tells which are one.

    The mean over the pairs, and over both directions: captions for an image, and images for a caption.
    """
    own = ops.diagonal(cosines)
    others = ops.where(ops.equal(images[:, None], images[None]), _NEVER, cosines)
    if kind == "triplet":
        losses = [ops.relu(margin + ops.max(others, axis=axis) - own) for axis in (0, 1)]
    else:
        losses = [ops.softplus(ops.logsumexp(others / temperature, axis=axis) - own / temperature) for axis in (0, 1)]
    return ops.mean(losses[0] + losses[1]) / 2


class AlignmentTrainer(keras.Model):
    """The towers as a model that ``fit`` and ``evaluate`` can drive, on batches of ``generator.PairBatches``:
    ``(features (B, R, D), token_ids (B, T), images (B,)) -> cosines (B, B)``.
    """

    def __init__(self, towers: Towers, config: Config):
        super().__init__()
        self.towers, self.word_dropout = towers, config.word_dropout
        self.objective = {
            "kind": config.alignment_loss,
            "margin": config.margin,
            "temperature": config.temperature,
        }
        self.seeds = keras.random.SeedGenerator(0)
        self.built = True

    def call(self, inputs, training=None):
        features, token_ids, _ = inputs
        if training and self.word_dropout:
            token_ids = drop_words(token_ids, self.word_dropout, self.seeds)
        images, texts = self.towers.image(features, training=training), self.towers.text(token_ids, training=training)
        return ops.matmul(images, ops.transpose(texts))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return contrast(y_pred, x[2], **self.objective)
