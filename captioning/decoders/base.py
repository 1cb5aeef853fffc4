"""The seam between decoders and everything else.

Legend: B batch, R regions, D feature size, E embedding size, T time, V vocabulary size.

``decoder(features (B, R, D), token_ids (B, T)) -> logits (B, T, V)`` is the training call: the logits at t predict the
word after ``token_ids[:, t]`` and depend on no later token. ``init_state(features) -> state`` and ``step(token_ids (B,),
state) -> (logits (B, V), state)`` give the same logits one word at a time; a state is a dict of nests of tensors that lead
with the batch axis. Its entry "image" depends on the image alone and is handed on as it is; "embedding" is the state of
the word embedding (see ``embeddings``). Padding stands at the end of a row, so no mask is needed: the loss leaves it out.

Decoders that look at regions also offer ``attend(features, token_ids) -> (logits, weights (B, T, R))``: where they look
while they predict the word after ``token_ids[:, t]``. The weights of a word sum to one.
"""

import keras
from keras import layers, ops

from captioning.base.backend import compiles_scans
from captioning.embeddings.build import LearnedEmbedding, WordEmbedding


class Decoder(keras.Model):
    """Base of all decoders: holds the sizes; subclasses build their layers in ``__init__``.

    That includes ``embedding``, the one they are given or else a learned one, and ``word_dropout``.
    """

    attends = False  # whether there is an ``attend``
    by_image = False  # whether most of the work is on the image alone, so that its captions had better share a batch

    def __init__(
        self,
        vocabulary_size: int,
        regions: int,
        feature_size: int,
        embedding_size: int,
        hidden_size: int,
        dropout: float,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sizes = {
            "vocabulary_size": vocabulary_size,
            "regions": regions,
            "feature_size": feature_size,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "dropout": dropout,
        }

    def embed(self, token_ids, training=None):
        """Word vectors ``(B, T, E)`` of ``token_ids (B, T)``, with dropout in training."""
        return self.word_dropout(self.embedding(token_ids), training=training)

    def call(self, features, token_ids, training=None, rows=None):
        """Logits ``(N, T, V)`` of the next words, given ``features (B, R, D)`` and int ``token_ids (N, T)``.

        ``rows`` int ``(N,)``: the row of ``features`` that each caption is about, so that what the image alone decides is
        computed once for all its captions. None: N = B captions in the order of the images.
        """
        raise NotImplementedError

    def init_state(self, features):
        """The state before the first word, from ``features (B, R, D)``."""
        raise NotImplementedError

    def step(self, token_ids, state):
        """``(logits (B, V), next state)`` after one more token ``(B,)``. Without dropout."""
        raise NotImplementedError

    def get_config(self):
        learned = isinstance(self.embedding, LearnedEmbedding)
        embedding = None if learned else keras.saving.serialize_keras_object(self.embedding)
        return {**super().get_config(), **self.sizes, "embedding": embedding}

    @classmethod
    def from_config(cls, config):
        embedding = config["embedding"] and keras.saving.deserialize_keras_object(config["embedding"])
        return cls(**{**config, "embedding": embedding})


class OneVectorDecoder(Decoder):
    """Base of decoders that read the image as one vector: all regions side by side, scaled, projected to E."""

    def __init__(
        self,
        vocabulary_size,
        regions,
        feature_size,
        embedding_size,
        hidden_size,
        dropout,
        embedding: WordEmbedding | None = None,
        image_scale=1.0,
        **kwargs,
    ):
        super().__init__(vocabulary_size, regions, feature_size, embedding_size, hidden_size, dropout, **kwargs)
        self.sizes["image_scale"] = image_scale
        self.flatten = layers.Reshape((regions * feature_size,))
        self.image_dropout = layers.Dropout(dropout)
        self.image_dense = layers.Dense(embedding_size, activation="relu", name="image")
        self.embedding = embedding or LearnedEmbedding(vocabulary_size, embedding_size, name="words")
        self.word_dropout = layers.Dropout(dropout)
        self.image_dense.build((None, regions * feature_size))

    def project_image(self, features, training=None):
        """The image vector ``(B, E)`` of ``features (B, R, D)``: scale, dropout, dense, ReLU."""
        flat = self.flatten(features) * self.sizes["image_scale"]  # (B, R, D) -> (B, R * D)
        return self.image_dense(self.image_dropout(flat, training=training))


class RegionDecoder(Decoder):
    """Base of decoders that attend over regions: the regions' projection, the embedding, and an output tied to it.

    Tied (Press and Wolf, 2017, https://arxiv.org/abs/1608.05859): a word's input vector and its output weights are one.
    Only a learned table can be both: what BERT makes of a prefix is no word's vector, and frozen vectors do not learn.
    So with any other embedding the output has a table of its own, of the same size and start as a learned one's; with
    ``untied_output`` also with a learned one, which then differs from the others in its input alone.
    """

    attends = True

    def __init__(
        self,
        vocabulary_size,
        regions,
        feature_size,
        embedding_size,
        hidden_size,
        dropout,
        embedding: WordEmbedding | None = None,
        untied_output=False,
        **kwargs,
    ):
        super().__init__(vocabulary_size, regions, feature_size, embedding_size, hidden_size, dropout, **kwargs)
        self.sizes["untied_output"] = untied_output
        self.supports_jit = compiles_scans()
        self.region_dense = layers.Dense(hidden_size, name="regions")
        self.region_norm = layers.LayerNormalization(name="regions_norm")
        self.region_dropout = layers.Dropout(dropout)
        self.embedding = embedding or LearnedEmbedding(
            vocabulary_size, embedding_size, scale=embedding_size**0.5, name="words"
        )
        self.word_dropout = layers.Dropout(dropout)
        start = keras.initializers.VarianceScaling(0.1, mode="fan_avg", distribution="uniform")
        self.readout = layers.Dense(embedding_size, kernel_initializer=start, name="readout")
        self.readout_dropout = layers.Dropout(dropout)
        self.output_bias = self.add_weight(shape=(vocabulary_size,), initializer="zeros", name="output_bias")
        self.output_table = None
        if embedding or untied_output:
            start = keras.initializers.RandomNormal(stddev=embedding_size**-0.5)
            self.output_table = self.add_weight(
                shape=(vocabulary_size, embedding_size), initializer=start, name="output_table"
            )
        self.region_dense.build((None, None, feature_size))
        self.region_norm.build((None, None, hidden_size))

    def project_regions(self, features, training=None):
        """Region vectors ``(B, R, H)`` of ``features (B, R, D)``: dense, layer norm, ReLU, dropout."""
        return self.region_dropout(ops.relu(self.region_norm(self.region_dense(features))), training=training)

    def word_logits(self, hidden, training=None):
        """Logits ``(..., V)`` of ``hidden (..., any size)``: dense to E, dropout, times the words' output weights."""
        vectors = self.readout_dropout(self.readout(hidden), training=training)
        table = self.embedding.table if self.output_table is None else self.output_table
        return ops.matmul(vectors, ops.transpose(table)) + self.output_bias

    def call(self, features, token_ids, training=None, rows=None):
        return self.attend(features, token_ids, training, rows)[0]

    def attend(self, features, token_ids, training=None, rows=None):
        """``(logits (N, T, V), weights (N, T, R))``, the weights of a word summing to one."""
        raise NotImplementedError


def of_captions(parts, rows):
    """A nest of tensors ``(B, ...)``, one row per image, as ``(N, ...)``, one row per caption (see ``Decoder.call``)."""
    if rows is None:
        return parts
    return keras.tree.map_structure(lambda part: ops.take(part, rows, axis=0), parts)


def lstm(gates, cell):
    """``(hidden, cell)``, each ``(..., H)``, from the sum of all inputs to the ``gates (..., 4 H)`` and the last cell.

    Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000).
    """
    inward, forget, new, outward = ops.split(gates, 4, axis=-1)
    cell = ops.sigmoid(forget) * cell + ops.sigmoid(inward) * ops.tanh(new)
    return ops.sigmoid(outward) * ops.tanh(cell), cell


def forget_bias(shape, dtype=None):
    """Biases of ``lstm``'s gates: one for the forget gate, zero for the others (Jozefowicz et al., 2015)."""
    size = shape[0] // 4
    return ops.concatenate([ops.zeros((size,)), ops.ones((size,)), ops.zeros((2 * size,))])


def zero_state(cell, features) -> list:
    """Zeros ``(B, units)`` for each state of a recurrent ``cell``, with the batch size of ``features``."""
    return cell.get_initial_state(batch_size=ops.shape(features)[0])
