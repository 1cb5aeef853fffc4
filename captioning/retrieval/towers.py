"""The two towers turn image features and captions into unit vectors of one joint space. Near vectors go together.

The design follows Faghri et al. (2018), "VSE++", https://arxiv.org/abs/1707.05612: a linear map of image features, and
a GRU over learned word vectors. Two things differ. Heads choose among regions, and a second GRU may read backwards.
Legend: B images, R regions, D feature size, N captions, T tokens, E embedding, H hidden, J joint size, K heads.
"""

import keras
from keras import layers, ops

from captioning.words.vocabulary import PAD
from config import AlignmentSettings

HEADS = 8


@keras.saving.register_keras_serializable(package="captioning")
class ImageTower(keras.Model):
    """Float features ``(B, R, D)`` to unit vectors float32 ``(B, J)``. K = ``HEADS`` must divide J.

    Each of K heads takes a weighted average of the regions. Then come dropout and a linear map of each average from D
    to J / K. Training starts with equal weights. With a single region they stay equal.
    """

    def __init__(self, feature_size: int, joint_size: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.sizes = {"feature_size": feature_size, "joint_size": joint_size, "dropout": dropout}
        # No weights here, because the next layers scale and shift anyway. Their gradients would be as large as the
        # features.
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
        # A softmax over regions, written out: Keras warns about its own softmax when there is a single region.
        weights = ops.exp(scores - ops.logsumexp(scores, axis=1, keepdims=True))
        looks = ops.matmul(ops.transpose(weights, (0, 2, 1)), regions)  # (B, K, D)
        joint = self.dense(self.dropout(looks, training=training))  # (B, K, J / K)
        return unit(ops.reshape(joint, (-1, self.sizes["joint_size"])))

    def get_config(self):
        return {**super().get_config(), **self.sizes}


@keras.saving.register_keras_serializable(package="captioning")
class RecurrentTower(keras.Model):
    """Token ids int ``(N, T)`` to unit vectors float32 ``(N, J)``.

    The steps are word vectors (E), dropout, a GRU (H) forwards and perhaps one backwards, their last states, dropout,
    and a linear map to J. No layer needs a mask. Padding comes after the caption, so the forward GRU reads the caption
    first. The backward GRU reads the caption reversed within its own length.
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
    """``vectors`` float ``(..., J)`` divided by their lengths, float32 ``(..., J)``. Zeros stay zeros."""
    vectors = ops.cast(vectors, "float32")
    # Not ops.normalize: its gradient is NaN at zeros, and dropout may leave zeros in a small tower.
    return vectors * ops.rsqrt(ops.maximum(ops.sum(vectors**2, axis=-1, keepdims=True), 1e-14))


class Towers(keras.Model):
    """The towers ``image`` and ``text`` as one model, which is trained and saved as one."""

    def __init__(self, image: keras.Model, text: keras.Model):
        super().__init__()
        self.image, self.text = image, text
        self.built = True


def build_towers(config: AlignmentSettings, vocabulary_size: int, feature_size: int) -> Towers:
    """The towers that ``config`` describes, for features ``(B, any, feature_size)``.

    A new kind of text tower needs a branch here and a name in the setting text_encoder. A text tower takes token ids
    int ``(N, T)``, ``<start>`` and ``<end>`` included. It gives unit vectors float32 ``(N, J)``.
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
