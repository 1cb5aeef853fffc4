"""BERT reads the caption as far as it has been written: its last layer's states of the words so far.

Devlin et al. (2019), "BERT", https://arxiv.org/abs/1810.04805, frozen. BERT looks both ways. Given a whole reference
caption, its state at t knows the word at t + 1, which the decoder is to predict; and there is no whole caption to give it
when a new image is captioned. So here every WordPiece sees itself and those before it, by a causal mask, in training and
in decoding alike.

The other sound way is to run BERT over every prefix anew, looking both ways inside it. It gives BERT what it is used to,
but a caption of T words costs T passes instead of one (``benchmarks/word_embeddings.py`` measures it).

A word is fed as its WordPieces, and the state of its last one is its vector. ``<start>`` is ``[CLS]``; ``<unk>``, which
stands for rare words and for words that word dropout hides, is ``[MASK]``, BERT's own sign for a hidden word.

Legend: B batch, T tokens, E embedding size, V vocabulary size, P most pieces of a word, U pieces that occur, W width,
heads x K = W, S cells: the places of pieces in BERT's input, one a token and ``SPARE`` more.
"""

import keras
from keras import ops

from captioning.embeddings.arrays import SPARE
from captioning.embeddings.base import PretrainedEmbedding


@keras.saving.register_keras_serializable(package="captioning")
class PrefixEmbedding(PretrainedEmbedding):
    """Token ids -> pieces -> BERT under a causal mask -> the state of each word's last piece, projected to E.

    The arrays are described in ``embedding_arrays``.
    """

    def __init__(self, shapes, embedding_size, **kwargs):
        super().__init__(shapes, embedding_size, **kwargs)
        self.slots = shapes["pieces"][1]
        self.spare = SPARE if self.slots > 1 else 0
        self.cells = shapes["positions"][0]
        self.depth = sum(name.endswith("attention_output.kernel") for name in shapes)

    def call(self, token_ids):
        tokens = ops.shape(token_ids)[1]
        pieces = ops.take(self.arrays["pieces"], token_ids, axis=0)  # (B, T, P)
        beyond = ops.cumsum(self._count(pieces) - 1, axis=1)
        last = ops.arange(tokens) + ops.minimum(beyond, self.spare)  # (B, T): cell of each word's last piece
        cell = ops.arange(tokens + self.spare)
        # Cells behind the last word hold what they hold; nothing looks at them.
        word = ops.sum(ops.cast(last[:, None] < cell[:, None], "int32"), axis=-1)  # (B, S)
        word = ops.minimum(word, tokens - 1)
        back = ops.take_along_axis(last, word, axis=1) - cell
        slot = self.slots - 1 - ops.clip(back, 0, self.slots - 1)
        flat = ops.reshape(pieces, (-1, tokens * self.slots))
        x = self._read(ops.take_along_axis(flat, word * self.slots + slot, axis=1), cell)
        causal = cell[:, None] >= cell
        for layer in range(self.depth):
            x = self._layer(layer, x, *self._keys_values(layer, x), causal[None])
        # A product with ones and zeros, because a gather of long vectors is slow on TensorFlow; it is just as exact.
        return self.project(ops.matmul(ops.cast(last[..., None] == cell, x.dtype), x))

    def init_state(self, batch):
        _, heads, size = self.shapes["transformer_layer_0.self_attention_layer.key.kernel"]
        empty = ops.zeros((batch, self.cells, heads, size), dtype=self.compute_dtype)
        none = ops.zeros((batch,), dtype="int32")
        return {"keys_values": [(empty, empty)] * self.depth, "filled": none, "spent": none}

    def step(self, token_ids, state):
        pieces = ops.take(self.arrays["pieces"], token_ids, axis=0)  # (B, P)
        read = 1 + ops.minimum(self._count(pieces) - 1, self.spare - state["spent"])  # (B,): the last so many are read
        filled = state["filled"] + read
        cell = ops.arange(self.cells)
        # (B, P): the cell of each slot. Slots in front of those that are read are computed for nothing and kept nowhere.
        at = (filled - self.slots)[:, None] + ops.arange(self.slots)
        x = self._read(ops.maximum(pieces, 0), ops.maximum(at, 0))
        place = ops.logical_and(cell == at[..., None], cell >= state["filled"][:, None, None])  # (B, P, S)
        is_new = ops.any(place, axis=1)[..., None, None]
        place = ops.cast(place, x.dtype)
        allowed = cell <= ops.maximum(at, 0)[..., None]
        kept = []
        for layer, old in enumerate(state["keys_values"]):
            new = [ops.einsum("bps,bphk->bshk", place, part) for part in self._keys_values(layer, x)]
            kept.append(tuple(ops.where(is_new, *parts) for parts in zip(new, old, strict=True)))
            x = self._layer(layer, x, *kept[-1], allowed)
        state = {"keys_values": kept, "filled": filled, "spent": state["spent"] + read - 1}
        return self.project(x[:, -1]), state

    def _count(self, pieces):
        """Pieces of each word: ``(..., P) -> (...)``."""
        return ops.sum(ops.cast(pieces >= 0, "int32"), axis=-1)

    def _read(self, pieces, cell):
        """BERT's input ``(B, N, W)`` of ``pieces (B, N)`` in cells ``(N,)`` or ``(B, N)``."""
        # A batch may be padded beyond the longest caption; those cells are padding too.
        positions = ops.take(self._array("positions"), ops.minimum(cell, self.cells - 1), axis=0)
        return self._norm("embeddings_layer_norm", ops.take(self._array("vectors"), pieces, axis=0) + positions)

    def _keys_values(self, layer, x):
        """What a layer has to look at: keys and values ``(B, N, heads, K)`` of ``x (B, N, W)``."""
        name = f"transformer_layer_{layer}.self_attention_layer"
        return tuple(self._dense(f"{name}.{part}", "bnw,whk->bnhk", x) for part in ("key", "value"))

    def _layer(self, layer, x, keys, values, allowed):
        """One layer of BERT: ``x (B, N, W)`` looks at ``(B, M, heads, K)`` where it is ``allowed (B or 1, N, M)``."""
        name = f"transformer_layer_{layer}"
        query = self._dense(f"{name}.self_attention_layer.query", "bnw,whk->bnhk", x)
        # Written out: JAX has no dot_product_attention in float16 on the CPU.
        scores = ops.einsum("bnhk,bmhk->bhnm", query, keys) * query.shape[-1] ** -0.5
        weights = ops.softmax(ops.where(allowed[:, None], scores, -1e4), axis=-1)
        seen = ops.einsum("bhnm,bmhk->bnhk", weights, values)
        seen = self._dense(f"{name}.self_attention_layer.attention_output", "bnhk,hkw->bnw", seen)
        x = self._norm(f"{name}.self_attention_layer_norm", x + seen)
        inner = self._dense(f"{name}.feedforward_intermediate_dense", "bnw,wi->bni", x)
        inner = ops.gelu(inner, approximate=True)  # as KerasHub has it
        fed = self._dense(f"{name}.feedforward_output_dense", "bni,iw->bnw", inner)
        return self._norm(f"{name}.feedforward_layer_norm", x + fed)

    def _dense(self, name, equation, x):
        return ops.einsum(equation, x, self._array(f"{name}.kernel")) + self._array(f"{name}.bias")

    def _norm(self, name, x):
        return ops.layer_normalization(x, self._array(f"{name}.gamma"), self._array(f"{name}.beta"), epsilon=1e-12)

    def _array(self, name):
        """In the compute type, which Keras sees to in ``call`` but not in ``step``."""
        return ops.cast(self.arrays[name], self.compute_dtype)
