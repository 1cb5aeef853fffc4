"""Word vectors that are learned with the decoder, from a random start."""

from typing import Any

import keras
from keras import ops

from captioning.embeddings.base import WordEmbedding


@keras.saving.register_keras_serializable(package="captioning")
class LearnedEmbedding(WordEmbedding):
    """A table ``(V, E)``. Its entries start with a standard deviation of 1 / ``scale`` and are multiplied by ``scale``.

    So the vectors start with unit variance. With Keras' own start, +-0.05, an LSTM hardly notices the words in the
    first few hundred batches. A ``scale`` of sqrt(E) suits a table that also holds the output weights: the loss then
    starts near log V.
    """

    def __init__(self, vocabulary_size: int, embedding_size: int, scale: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.sizes = {"vocabulary_size": vocabulary_size, "embedding_size": embedding_size, "scale": scale}
        start = keras.initializers.RandomNormal(stddev=1 / scale)
        self.table = self.add_weight(shape=(vocabulary_size, embedding_size), initializer=start, name="embeddings")
        self.built = True

    def call(self, token_ids):
        """Vectors ``(..., E)`` of int ``token_ids (...)``."""
        return ops.take(self.table, token_ids, axis=0) * self.sizes["scale"]

    def get_config(self):
        return {**super().get_config(), **self.sizes}
