"""Merge: the LSTM reads words only. The image joins its output.

Tanti, Gatt and Camilleri (2018), "Where to put the image in an image caption generator",
https://arxiv.org/abs/1703.09137.
Legend: B images, N captions, R regions, D feature size, T time, E embedding, H hidden, V vocabulary.
"""

import keras
from keras import layers, ops

from captioning.decoders.base import OneVectorDecoder, beside, zero_state


@keras.saving.register_keras_serializable(package="captioning")
class MergeDecoder(OneVectorDecoder):
    """From image and words to logits:

    image -> times ``image_scale`` -> dropout -> dense E, ReLU
    words -> embedding E -> dropout -> LSTM H
    both  -> dense H, ReLU -> dense V
    """

    def __init__(self, **sizes):
        super().__init__(**sizes)
        vocabulary_size, embedding_size, hidden_size = (
            self.sizes[name] for name in ("vocabulary_size", "embedding_size", "hidden_size")
        )
        self.lstm = layers.LSTM(hidden_size, return_sequences=True, name="lstm")
        self.merged_dense = layers.Dense(hidden_size, activation="relu", name="merged")
        self.output_dense = layers.Dense(vocabulary_size, name="logits")

        self.lstm.build((None, None, embedding_size))
        self.merged_dense.build((None, embedding_size + hidden_size))
        self.output_dense.build((None, hidden_size))
        self.built = True

    def read(self, image, token_ids, training=None):
        image = beside(image, token_ids)
        words = self.embed(token_ids, training)  # (N, T, E)
        sentence = self.lstm(words, training=training)  # (N, T, H)
        image = ops.broadcast_to(image[:, None], (*ops.shape(sentence)[:2], image.shape[-1]))  # (N, E) -> (N, T, E)
        return ops.concatenate([image, sentence], axis=-1), None

    def word_logits(self, vectors, training=None):
        return self.output_dense(self.merged_dense(vectors))

    def init_state(self, features):
        return {
            "image": self.see(features),
            "embedding": self.embedding.init_state(ops.shape(features)[0]),
            "lstm": zero_state(self.lstm.cell, features),
        }

    def step(self, token_ids, state):
        word, embedding = self.embedding.step(token_ids, state["embedding"])
        sentence, lstm = self.lstm.cell(word, state["lstm"])
        logits = self.word_logits(ops.concatenate([state["image"], sentence], axis=-1))
        return logits, {**state, "embedding": embedding, "lstm": lstm}


DECODER = MergeDecoder
