"""The seam between word embeddings and decoders.

Legend: B batch, T time, E embedding size, W width of pretrained vectors.

Training reads whole captions:

    embedding(token_ids (B, T)) -> vectors (B, T, E)

The vector at t depends on the tokens up to t, and on no later one. Decoding goes word by word and gives the same
vectors:

    init_state(batch) -> state
    step(token_ids (B,), state) -> (vectors (B, E), next state)

Token ids are int, and vectors are float in the compute type. A state is a nest of tensors. Their first axis is the
batch, and their shapes stay the same from step to step. So a search can reorder a state, and can be compiled. Vectors
have about unit variance, which the kernels behind them expect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers, ops


class WordEmbedding(layers.Layer):
    """Base of all word embeddings. An embedding without a state writes ``call`` only."""

    def init_state(self, batch):
        """The state before the first word, for ``batch`` rows."""
        return {}

    def step(self, token_ids, state):
        """``(vectors (B, E), next state)`` after one more token, int ``(B,)``."""
        return self(token_ids), state


class PretrainedEmbedding(WordEmbedding):
    """Base of embeddings made of pretrained arrays (``arrays.py``). Their vectors pass a layer norm and a dense layer.

    Arrays are trained only if ``tuned``. Otherwise ``.weights.h5`` files do not hold them: ``embedding.npz`` in the run
    folder and in the bundle does.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], embedding_size: int, tuned: bool = False, **kwargs: Any):
        """``shapes``: those of the arrays, by name. "pieces" is int32, all others are float32."""
        super().__init__(**kwargs)
        self.shapes, self.embedding_size, self.tuned = dict(shapes), embedding_size, tuned
        self.arrays = {
            name: self.add_weight(
                shape=tuple(shape),
                initializer="zeros",
                dtype="int32" if name == "pieces" else None,
                trainable=tuned,
                name=name.replace(".", "_"),  # PyTorch allows no dots in names
            )
            for name, shape in shapes.items()
        }
        # Layer norm, because some sources have vectors that are ten times as long as those of others.
        self.norm = layers.LayerNormalization(name="norm")
        self.projection = layers.Dense(embedding_size, name="projection")
        width = shapes["vectors"][-1]
        self.norm.build((None, width))
        self.projection.build((None, width))
        self.built = True

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the arrays to ``arrays``, which have the shapes and dtypes given to ``__init__``."""
        for name, weight in self.arrays.items():
            weight.assign(arrays[name])

    def pretrained(self) -> dict[str, np.ndarray]:
        """The present values of the arrays, by name."""
        return {name: ops.convert_to_numpy(weight.value) for name, weight in self.arrays.items()}

    def project(self, vectors):
        """Vectors ``(..., W)`` of the source as word vectors ``(..., E)``: layer norm, dense."""
        return self.projection(self.norm(vectors))

    def save_own_variables(self, store):
        if self.tuned:
            super().save_own_variables(store)

    def load_own_variables(self, store):
        if self.tuned:
            super().load_own_variables(store)

    def get_config(self):
        own = {"shapes": self.shapes, "embedding_size": self.embedding_size, "tuned": self.tuned}
        return {**super().get_config(), **own}
