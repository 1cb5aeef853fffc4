"""BERT reads the caption as far as it is written. The vectors of the words are the states of its last layer.

Devlin et al. (2019), "BERT", https://arxiv.org/abs/1810.04805, with frozen weights.

BERT was trained to look both ways. That must not be here. In training, its state at t would know the word at t + 1,
which the decoder has to predict. In decoding, that word does not exist yet. So a causal mask lets each WordPiece see
itself and the pieces before it, in training and in decoding alike.

There is another sound way: run BERT anew over every prefix, looking both ways inside it. BERT is used to that. But a
caption of T words then costs T passes instead of one (``benchmarks/word_embeddings.py`` measures it).

A word goes in as its WordPieces, and the state of the last piece is its vector. ``<start>`` is BERT's ``[CLS]``.
``<unk>`` stands for rare words and for words that word dropout hides; it is ``[MASK]``, BERT's sign for a hidden word.

Legend: B batch, T tokens, E embedding size, V vocabulary size, P most pieces of a word, U pieces that occur, W width of
BERT, K width of a head (heads x K = W), S cells. A cell is a position in BERT's input and takes one piece. There is one
for each token, and ``SPARE`` more.
"""

from typing import Any

import keras
from keras import ops

from captioning.embeddings.base import PretrainedEmbedding
from captioning.embeddings.bert import SPARE


@keras.saving.register_keras_serializable(package="captioning")
class PrefixEmbedding(PretrainedEmbedding):
    """Token ids -> WordPieces -> BERT with a causal mask -> the state of each word's last piece -> projected to E.

    ``arrays.py`` describes the arrays.
    """

    def __init__(self, shapes, embedding_size, **kwargs):
        super().__init__(shapes, embedding_size, **kwargs)
        self.slots = shapes["pieces"][1]  # P
        self.spare = SPARE if self.slots > 1 else 0
        self.cells = shapes["positions"][0]  # S
        self.depth = sum(name.endswith("attention_output.kernel") for name in shapes)

    def call(self, token_ids):
        """Vectors ``(B, T, E)`` of int ``token_ids (B, T)``."""
        tokens = ops.shape(token_ids)[1]
        pieces = ops.take(self.arrays["pieces"], token_ids, axis=0)  # (B, T, P)
        beyond = ops.cumsum(self._count(pieces) - 1, axis=1)  # (B, T): pieces so far beyond one per word
        last = ops.arange(tokens) + ops.minimum(beyond, self.spare)  # (B, T): cell of each word's last piece
        cell = ops.arange(tokens + self.spare)
        word = ops.sum(ops.cast(last[:, None] < cell[:, None], "int32"), axis=-1)  # (B, S): word of each cell
        # Cells after the last word get a piece of it. Nothing looks at them.
        word = ops.minimum(word, tokens - 1)
        back = ops.take_along_axis(last, word, axis=1) - cell  # (B, S): cells to the word's last piece
        slot = self.slots - 1 - ops.clip(back, 0, self.slots - 1)  # (B, S): which piece of the word
        flat = ops.reshape(pieces, (-1, tokens * self.slots))
        x = self._read(ops.take_along_axis(flat, word * self.slots + slot, axis=1), cell)
        causal = cell[:, None] >= cell
        for layer in range(self.depth):
            x = self._layer(layer, x, *self._keys_values(layer, x), causal[None])
        # A product with ones and zeros is as exact as a gather, which is slow on TensorFlow for long vectors.
        return self.project(ops.matmul(ops.cast(last[..., None] == cell, x.dtype), x))

    def init_state(self, batch):
        """Before the first word: empty keys and values of each layer, and how many cells and spare cells are taken."""
        _, heads, size = self.shapes["transformer_layer_0.self_attention_layer.key.kernel"]
        empty = ops.zeros((batch, self.cells, heads, size), dtype=self.compute_dtype)
        none = ops.zeros((batch,), dtype="int32")
        return {"keys_values": [(empty, empty)] * self.depth, "filled": none, "spent": none}

    def step(self, token_ids, state):
        pieces = ops.take(self.arrays["pieces"], token_ids, axis=0)  # (B, P)
        # (B,): how many pieces of the word are read, counted from its last one.
        read = 1 + ops.minimum(self._count(pieces) - 1, self.spare - state["spent"])
        filled = state["filled"] + read
        cell = ops.arange(self.cells)
        # (B, P): the cell of each piece. Pieces before those that are read are computed too, and not kept.
        at = (filled - self.slots)[:, None] + ops.arange(self.slots)
        x = self._read(ops.maximum(pieces, 0), ops.maximum(at, 0))
        place = ops.logical_and(cell == at[..., None], cell >= state["filled"][:, None, None])  # (B, P, S)
        is_new = ops.any(place, axis=1)[..., None, None]
        place = ops.cast(place, x.dtype)
        allowed = cell <= ops.maximum(at, 0)[..., None]
        kept = []
        for layer, old in enumerate(state["keys_values"]):
            new = [ops.einsum("bps,bphk->bshk", place, part) for part in self._keys_values(layer, x)]
            keys, values = (ops.where(is_new, *parts) for parts in zip(new, old, strict=True))
            kept.append((keys, values))
            x = self._layer(layer, x, keys, values, allowed)
        state = {"keys_values": kept, "filled": filled, "spent": state["spent"] + read - 1}
        return self.project(x[:, -1]), state

    def _count(self, pieces):
        """How many pieces each word has: int32 ``(..., P) -> (...)``."""
        return ops.sum(ops.cast(pieces >= 0, "int32"), axis=-1)

    def _read(self, pieces, cell):
        """BERT's input ``(B, N, W)`` of int ``pieces (B, N)`` in cells int ``(N,)`` or ``(B, N)``."""
        # A batch may be padded beyond the longest caption. Cells there are padding too.
        positions = ops.take(self._array("positions"), ops.minimum(cell, self.cells - 1), axis=0)
        return self._norm("embeddings_layer_norm", ops.take(self._array("vectors"), pieces, axis=0) + positions)

    def _keys_values(self, layer, x) -> tuple[Any, Any]:
        """Keys and values ``(B, N, heads, K)`` of ``x (B, N, W)``, at which layer ``layer`` looks."""
        name = f"transformer_layer_{layer}.self_attention_layer"
        key, value = (self._dense(f"{name}.{part}", "bnw,whk->bnhk", x) for part in ("key", "value"))
        return key, value

    def _layer(self, layer, x, keys, values, allowed):
        """One layer of BERT: ``(B, N, W)`` of ``x (B, N, W)``.

        ``keys`` and ``values`` ``(B, M, heads, K)``: what x looks at.
        ``allowed`` bool ``(B or 1, N, M)``: where x may look.
        """
        name = f"transformer_layer_{layer}"
        query = self._dense(f"{name}.self_attention_layer.query", "bnw,whk->bnhk", x)
        # Written out, because JAX has no dot_product_attention in float16 on the CPU.
        scores = ops.einsum("bnhk,bmhk->bhnm", query, keys) * query.shape[-1] ** -0.5
        weights = ops.softmax(ops.where(allowed[:, None], scores, -1e4), axis=-1)
        seen = ops.einsum("bhnm,bmhk->bnhk", weights, values)
        seen = self._dense(f"{name}.self_attention_layer.attention_output", "bnhk,hkw->bnw", seen)
        x = self._norm(f"{name}.self_attention_layer_norm", x + seen)
        inner = self._dense(f"{name}.feedforward_intermediate_dense", "bnw,wi->bni", x)
        inner = ops.gelu(inner, approximate=True)  # as in KerasHub
        fed = self._dense(f"{name}.feedforward_output_dense", "bni,iw->bnw", inner)
        return self._norm(f"{name}.feedforward_layer_norm", x + fed)

    def _dense(self, name, equation, x):
        return ops.einsum(equation, x, self._array(f"{name}.kernel")) + self._array(f"{name}.bias")

    def _norm(self, name, x):
        return ops.layer_normalization(x, self._array(f"{name}.gamma"), self._array(f"{name}.beta"), epsilon=1e-12)

    def _array(self, name):
        """The array ``name`` in the compute type. Keras casts weights in ``call``, but not in ``step``."""
        return ops.cast(self.arrays[name], self.compute_dtype)
