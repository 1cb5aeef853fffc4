"""Inject: one LSTM reads the words, and a second LSTM reads its output and the image at every step ("par-inject").

Tanti, Gatt and Camilleri (2018), "Where to put the image in an image caption generator",
https://arxiv.org/abs/1703.09137.
Legend: B images, N captions, R regions, D feature size, T time, E embedding, H hidden, V vocabulary.
"""

import keras
from keras import layers, ops

from captioning.decoders.base import OneVectorDecoder, beside, zero_state


@keras.saving.register_keras_serializable(package="captioning")
class InjectDecoder(OneVectorDecoder):
    """From image and words to logits:

    image -> times ``image_scale`` -> dropout -> dense E, ReLU: the same at every step
    words -> embedding E -> dropout -> LSTM H -> dense E
    both  -> LSTM H -> dropout -> dense V
    """

    def __init__(self, **sizes):
        super().__init__(**sizes)
        vocabulary_size, embedding_size, hidden_size, dropout = (
            self.sizes[name] for name in ("vocabulary_size", "embedding_size", "hidden_size", "dropout")
        )
        self.language_lstm = layers.LSTM(hidden_size, return_sequences=True, name="language_lstm")
        self.language_dense = layers.Dense(embedding_size, name="language")
        self.lstm = layers.LSTM(hidden_size, return_sequences=True, name="lstm")
        self.output_dropout = layers.Dropout(dropout)
        self.output_dense = layers.Dense(vocabulary_size, name="logits")

        self.language_lstm.build((None, None, embedding_size))
        self.language_dense.build((None, hidden_size))
        self.lstm.build((None, None, 2 * embedding_size))
        self.output_dense.build((None, hidden_size))
        self.built = True

    def read(self, image, token_ids, training=None):
        image = beside(image, token_ids)
        words = self.embed(token_ids, training)  # (N, T, E)
        language = self.language_dense(self.language_lstm(words, training=training))  # (N, T, E)
        image = ops.broadcast_to(image[:, None], ops.shape(language))  # (N, E) -> (N, T, E)
        hidden = self.lstm(ops.concatenate([image, language], axis=-1), training=training)  # (N, T, H)
        return hidden, None

    def word_logits(self, vectors, training=None):
        return self.output_dense(self.output_dropout(vectors, training=training))

    def init_state(self, features):
        return {
            "image": self.see(features),
            "embedding": self.embedding.init_state(ops.shape(features)[0]),
            "language": zero_state(self.language_lstm.cell, features),
            "lstm": zero_state(self.lstm.cell, features),
        }

    def step(self, token_ids, state):
        word, embedding = self.embedding.step(token_ids, state["embedding"])
        language, language_state = self.language_lstm.cell(word, state["language"])
        both = ops.concatenate([state["image"], self.language_dense(language)], axis=-1)
        hidden, lstm_state = self.lstm.cell(both, state["lstm"])
        state = {**state, "embedding": embedding, "language": language_state, "lstm": lstm_state}
        return self.word_logits(hidden), state


DECODER = InjectDecoder
