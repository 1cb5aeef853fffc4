"""The seam between decoders and everything else.

Legend: B batch, R regions, D feature size, E embedding size, T time, V vocabulary size.

``decoder(features (B, R, D), token_ids (B, T)) -> logits (B, T, V)`` is the training call: the logits at t predict the
word after ``token_ids[:, t]`` and depend on no later token. ``init_state(features) -> state`` and ``step(token_ids (B,),
state) -> (logits (B, V), state)`` give the same logits one word at a time; a state is a nest of tensors that lead with
the batch axis. Padding stands at the end of a row, so no mask is needed: the loss leaves it out.
"""

import keras


class Decoder(keras.Model):
    """Base of all decoders: holds the sizes; subclasses build their layers in ``__init__``."""

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

    def call(self, features, token_ids, training=None):
        """Logits ``(B, T, V)`` of the next words, given ``features (B, R, D)`` and int ``token_ids (B, T)``."""
        raise NotImplementedError

    def init_state(self, features):
        """The state before the first word, from ``features (B, R, D)``."""
        raise NotImplementedError

    def step(self, token_ids, state):
        """``(logits (B, V), next state)`` after one more token ``(B,)``. Without dropout."""
        raise NotImplementedError

    def get_config(self):
        return {**super().get_config(), **self.sizes}


class OneVectorDecoder(Decoder):
    """Base of decoders that read the image as one vector: all regions side by side, scaled, projected to E."""

    def __init__(
        self, vocabulary_size, regions, feature_size, embedding_size, hidden_size, dropout, image_scale=1.0, **kwargs
    ):
        super().__init__(vocabulary_size, regions, feature_size, embedding_size, hidden_size, dropout, **kwargs)
        self.sizes["image_scale"] = image_scale
        self.flatten = keras.layers.Reshape((regions * feature_size,))
        self.image_dropout = keras.layers.Dropout(dropout)
        self.image_dense = keras.layers.Dense(embedding_size, activation="relu", name="image")
        # Entries of unit variance, as the kernels behind expect of an input. Keras' own start, +-0.05, leaves the first
        # LSTM nearly blind to the words for the first few hundred batches.
        start = keras.initializers.RandomNormal(stddev=1.0)
        self.embedding = keras.layers.Embedding(
            vocabulary_size, embedding_size, embeddings_initializer=start, name="words"
        )
        self.word_dropout = keras.layers.Dropout(dropout)
        self.image_dense.build((None, regions * feature_size))
        self.embedding.build((None,))

    def project_image(self, features, training=None):
        """The image vector ``(B, E)`` of ``features (B, R, D)``: scale, dropout, dense, ReLU."""
        flat = self.flatten(features) * self.sizes["image_scale"]  # (B, R, D) -> (B, R * D)
        return self.image_dense(self.image_dropout(flat, training=training))

    def embed(self, token_ids, training=None):
        """Word vectors ``(B, T, E)`` of ``token_ids (B, T)``, with dropout in training."""
        return self.word_dropout(self.embedding(token_ids), training=training)


def zero_state(cell, features) -> list:
    """Zeros ``(B, units)`` for each state of a recurrent ``cell``, with the batch size of ``features``."""
    return cell.get_initial_state(batch_size=keras.ops.shape(features)[0])
