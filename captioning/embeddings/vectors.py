"""One pretrained vector per word: from a file of word vectors (file), or from BERT's input embedding (bert-static).

A word of several WordPieces has the mean of their vectors. BERT itself weighs the pieces of a word by the sentence.
Without a sentence the mean is the one way to treat all pieces alike.
"""

import keras
from keras import ops

from captioning.embeddings.base import PretrainedEmbedding


@keras.saving.register_keras_serializable(package="captioning")
class VectorEmbedding(PretrainedEmbedding):
    """Rows of ``vectors (V, W)``, projected to E. The rows are trained too if ``tuned``."""

    def call(self, token_ids):
        """Vectors ``(..., E)`` of int ``token_ids (...)``."""
        return self.project(ops.take(self.arrays["vectors"], token_ids, axis=0))
