"""One pretrained vector per word: a row of BERT's input embedding (bert-static), or of a file of word vectors (file).

A word of several WordPieces has the mean of their rows. BERT adds up the rows of a word's pieces over its layers, with
weights that depend on the sentence; without a sentence the mean is the one combination that treats them alike.
"""

import keras
from keras import ops

from captioning.embeddings.base import PretrainedEmbedding


@keras.saving.register_keras_serializable(package="captioning")
class VectorEmbedding(PretrainedEmbedding):
    """Rows of ``vectors (V, W)``, projected to E; the rows are trained too when they are ``tuned``."""

    def call(self, token_ids):
        return self.project(ops.take(self.arrays["vectors"], token_ids, axis=0))
