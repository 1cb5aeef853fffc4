"""The two towers: image features, and captions, as unit vectors in one joint space, where near means alike.

Faghri et al. (2018), "VSE++", https://arxiv.org/abs/1707.05612: a linear map of image features, and a GRU over learned word
vectors. Departures: heads that choose among regions, and a GRU that may read both ways.
Legend: B images, R regions, D feature size, N captions, T tokens, E embedding, H hidden, J joint size, K heads.
"""

import keras
from keras import layers, ops

from captioning.words.vocabulary import PAD
from config import Config

HEADS = 8


@keras.saving.register_keras_serializable(package="captioning")
class ImageTower(keras.Model):
    """``features (B, R, D) -> unit vectors (B, J)``: each of K heads averages the regions its own way; dropout; D to J / K.

    The heads start with plain averages, and over a single region they never do anything else.
    """

    def __init__(self, feature_size: int, joint_size: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.sizes = {"feature_size": feature_size, "joint_size": joint_size, "dropout": dropout}
        # What follows scales and shifts; without weights here, no gradient as large as the features is computed.
        self.norm = layers.LayerNormalization(center=False, scale=False, name="norm")
        self.scores = layers.Dense(HEADS, kernel_initializer="zeros", use_bias=False, name="scores")
        self.dropout = layers.Dropout(dropout)
        self.dense = layers.EinsumDense(
            "bkd,kdj->bkj", (HEADS, joint_size // HEADS), bias_axes="kj", name="image_joint"
        )
        self.norm.build((None, None, feature_size))
        self.scores.build((None, None, feature_size))
        self.dense.build((None, HEADS, feature_size))
        self.built = True

    def call(self, features, training=None):
        regions = self.norm(features)
        scores = self.scores(regions)  # (B, R, K)
        # Written out, because Keras warns of a softmax over the single region of pooled features.
        weights = ops.exp(scores - ops.logsumexp(scores, axis=1, keepdims=True))
        looks = ops.matmul(ops.transpose(weights, (0, 2, 1)), regions)  # (B, K, D)
        joint = self.dense(self.dropout(looks, training=training))  # (B, K, J / K)
        return unit(ops.reshape(joint, (-1, self.sizes["joint_size"])))

    def get_config(self):
        return {**super().get_config(), **self.sizes}


@keras.saving.register_keras_serializable(package="captioning")
class RecurrentTower(keras.Model):
    """``token_ids (N, T) -> unit vectors (N, J)``: embedding E, dropout, GRU H one way or both, its last state, dropout, J.

    No layer needs a mask: padding comes last, so a GRU has read the caption before it, and the other direction reads the
    caption turned round within its own length.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        joint_size: int,
        dropout: float,
        both_ways: bool,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sizes = {
            "vocabulary_size": vocabulary_size,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "joint_size": joint_size,
            "dropout": dropout,
            "both_ways": both_ways,
        }
        start = keras.initializers.RandomNormal(stddev=1.0)
        self.embedding = layers.Embedding(vocabulary_size, embedding_size, embeddings_initializer=start, name="words")
        self.word_dropout = layers.Dropout(dropout)
        self.readers = [
            layers.GRU(hidden_size, return_sequences=True, name=name)
            for name in ("forwards", "backwards")[: 1 + both_ways]
        ]
        self.dropout = layers.Dropout(dropout)
        self.dense = layers.Dense(joint_size, name="text_joint")
        self.embedding.build((None,))
        for reader in self.readers:
            reader.build((None, None, embedding_size))
        self.dense.build((None, hidden_size * len(self.readers)))
        self.built = True

    def call(self, token_ids, training=None):
        lengths = ops.sum(ops.cast(ops.not_equal(token_ids, PAD), "int32"), axis=1, keepdims=True)  # (N, 1)
        places = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None]
        is_last = ops.cast(ops.equal(places, lengths - 1), self.compute_dtype)[..., None]  # (N, T, 1)
        turned = ops.take_along_axis(token_ids, ops.where(places < lengths, lengths - 1 - places, places), axis=1)
        states = []
        for reader, ids in zip(self.readers, (token_ids, turned), strict=False):
            words = self.word_dropout(self.embedding(ids), training=training)
            states.append(ops.sum(reader(words, training=training) * is_last, axis=1))  # (N, T, H) -> (N, H)
        return unit(self.dense(self.dropout(ops.concatenate(states, axis=-1), training=training)))

    def get_config(self):
        return {**super().get_config(), **self.sizes}


def unit(vectors):
    """``vectors (..., J)`` divided by their length, float32; zeros stay zeros."""
    vectors = ops.cast(vectors, "float32")
    # Not ops.normalize, whose gradient is NaN at zeros, which dropout may leave of a small tower.
    return vectors * ops.rsqrt(ops.maximum(ops.sum(vectors**2, axis=-1, keepdims=True), 1e-14))


class Towers(keras.Model):
    """Both towers as one model, so that they are saved and trained as one: ``image`` and ``text``."""

    def __init__(self, image: keras.Model, text: keras.Model):
        super().__init__()
        self.image, self.text = image, text
        self.built = True


def build_towers(config: Config, vocabulary_size: int, feature_size: int) -> Towers:
    """The towers that ``config`` describes, for features ``(B, any, feature_size)``.

    A text tower of another kind is one more branch here and one more name of the setting text_encoder. It takes the
    vocabulary's ids, ``<start>`` and ``<end>`` included, and gives unit vectors.
    """
    text = RecurrentTower(
        vocabulary_size,
        config.embedding_size,
        config.hidden_size,
        config.joint_size,
        config.dropout,
        both_ways=config.text_encoder == "bigru",
    )
    return Towers(ImageTower(feature_size, config.joint_size, config.dropout), text)
