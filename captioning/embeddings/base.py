"""The seam between embeddings and decoders.

Legend: B batch, T time, E embedding size, W width of pretrained vectors.

``embedding(token_ids (B, T)) -> (B, T, E)`` is the training call: the vectors at t depend on the tokens up to t and on no
later one. ``init_state(batch) -> state`` and ``step(token_ids (B,), state) -> (vectors (B, E), state)`` give the same
vectors one word at a time; a state is a nest of tensors that lead with the batch axis and keep their shapes, so that a
search can reorder it and be compiled. Vectors have about unit variance, as the kernels behind expect of an input.
"""

from collections.abc import Mapping

import numpy as np
from keras import layers, ops


class WordEmbedding(layers.Layer):
    """Base of all embeddings. One that looks at each word by itself has no state, and writes ``call`` alone."""

    def init_state(self, batch):
        """The state before the first word, of ``batch`` rows."""
        return {}

    def step(self, token_ids, state):
        """``(vectors (B, E), next state)`` of one more token ``(B,)``."""
        return self(token_ids), state


class PretrainedEmbedding(WordEmbedding):
    """Base of embeddings made of ``arrays`` from elsewhere (see ``embedding_arrays``): their vectors, W to E by norm and dense.

    Arrays that are not ``tuned`` are no part of ``.weights.h5`` files, each of which would hold them again: run folder and
    bundle have them once, in ``embedding.npz``.
    """

    def __init__(self, shapes: Mapping[str, list[int]], embedding_size: int, tuned: bool = False, **kwargs):
        """``shapes``: of the arrays, by name. "vectors" is ``(any, W)``; "pieces" is int32, all others float32."""
        super().__init__(**kwargs)
        self.shapes, self.embedding_size, self.tuned = dict(shapes), embedding_size, tuned
        self.arrays = {
            name: self.add_weight(
                shape=tuple(shape),
                initializer="zeros",
                dtype="int32" if name == "pieces" else None,
                trainable=tuned,
                name=name.replace(".", "_"),  # PyTorch takes no dots
            )
            for name, shape in shapes.items()
        }
        # Layer norm, because the vectors of some sources are ten times as long as those of others.
        self.norm = layers.LayerNormalization(name="norm")
        self.projection = layers.Dense(embedding_size, name="projection")
        width = shapes["vectors"][-1]
        self.norm.build((None, width))
        self.projection.build((None, width))
        self.built = True

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over the values of ``arrays``."""
        for name, weight in self.arrays.items():
            weight.assign(arrays[name])

    def pretrained(self) -> dict[str, np.ndarray]:
        """The arrays as they are now."""
        return {name: ops.convert_to_numpy(weight.value) for name, weight in self.arrays.items()}

    def project(self, vectors):
        """``(..., W) -> (..., E)``."""
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
