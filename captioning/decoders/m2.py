"""Meshed-memory transformer: its encoder also looks at learned memories, and its decoder looks at every encoder layer.

Cornia et al. (2020), "Meshed-memory transformer for image captioning", https://arxiv.org/abs/1912.08226. As in the
paper, a layer norm stands behind each part. Two things differ from the paper. A dense layer with layer norm projects
the regions. The output is tied to a learned embedding.
Legend: B images or captions, R regions, T words, S words that may be looked at, H width, M memory slots, V vocabulary.
"""

import keras
from keras import layers, ops

from captioning.decoders.base import with_mask
from captioning.decoders.transformer import Attention, LayeredDecoder, over_regions


class FeedForward(layers.Layer):
    """F(x) = U relu(V x + b) + c, and AddNorm: LayerNorm(x + F(x)). There is dropout on F(x) in training."""

    def __init__(self, size: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(4 * size, activation="relu", name="inner")
        self.outer = layers.Dense(size, name="outer")
        self.norm = layers.LayerNormalization(name="norm")
        self.dropout = layers.Dropout(dropout)

    def build(self, shape):
        self.inner.build(shape)
        self.outer.build((*shape[:-1], 4 * shape[-1]))
        self.norm.build(shape)

    def call(self, x, training=None):
        """The next ``x``, float ``(B, T, H)``."""
        return self.norm(x + self.dropout(self.outer(self.inner(x)), training=training))


class MemoryBlock(layers.Layer):
    """One layer of the encoder: attention over the regions and M learned memories, then feed-forward.

    K = [W_k x, M_k], V = [W_v x, M_v]
    z = AddNorm(attention(W_q x, K, V)), next x = AddNorm(F(z))

    Section 3.1 of the paper.
    """

    def __init__(self, size: int, heads: int, slots: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.slots = slots
        self.attention = Attention(size, heads, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.feed = FeedForward(size, dropout, name="feed")
        self.dropout = layers.Dropout(dropout)

    def build(self, shape):
        self.attention.build(shape)
        self.norm.build(shape)
        self.feed.build(shape)
        size = shape[-1]
        deviations = {"keys": (size // self.attention.heads) ** -0.5, "values": self.slots**-0.5}
        self.memory_keys, self.memory_values = (
            self.add_weight(
                shape=(self.slots, size), initializer=keras.initializers.RandomNormal(stddev=deviation), name=name
            )
            for name, deviation in deviations.items()
        )

    def call(self, x, seen=None, training=None):
        """The next ``x``, float ``(B, R, H)``. ``seen`` bool ``(B, R)``: false for regions that nobody looks at."""
        own = self.attention.key_value(x)
        memory = ops.cast(ops.concatenate([self.memory_keys, self.memory_values], axis=-1), own.dtype)
        memory = ops.broadcast_to(memory, (ops.shape(x)[0], *memory.shape))  # (B, M, 2 H)
        if seen is not None:
            always = ops.broadcast_to(ops.ones((1, self.slots), "bool"), (ops.shape(x)[0], self.slots))
            seen = ops.concatenate([seen, always], axis=1)  # (B, R + M)
        found, _ = self.attention(x, ops.concatenate([own, memory], axis=1), over_regions(seen))  # over (B, R + M, 2 H)
        return self.feed(self.norm(x + self.dropout(found, training=training)), training=training)


class MeshedBlock(layers.Layer):
    """One layer of the decoder: self-attention, gated attention to all encoder layers, feed-forward.

    y = AddNorm(masked self-attention(y))
    c_i = attention(W_q y, W_k x_i, W_v x_i), for the output x_i of each encoder layer
    a_i = sigmoid(W_i [y, c_i] + b_i)
    z = AddNorm(sum of a_i * c_i), next y = AddNorm(F(z))

    Section 3.2 of the paper.
    """

    def __init__(self, size: int, heads: int, levels: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.self_attention = Attention(size, heads, name="self_attention")
        self.self_norm = layers.LayerNormalization(name="self_norm")
        self.cross_attention = Attention(size, heads, name="cross_attention")
        self.gates = [layers.Dense(size, activation="sigmoid", name=f"gate_{i}") for i in range(levels)]
        self.cross_norm = layers.LayerNormalization(name="cross_norm")
        self.feed = FeedForward(size, dropout, name="feed")
        self.dropout = layers.Dropout(dropout)

    def build(self, shape):
        for layer in (self.self_attention, self.self_norm, self.cross_attention, self.cross_norm, self.feed):
            layer.build(shape)
        for gate in self.gates:
            gate.build((*shape[:-1], 2 * shape[-1]))

    def own(self, x):
        """Keys and values of words ``x (B, T, H)`` for self-attention, float ``(B, T, 2 H)``."""
        return self.self_attention.key_value(x)

    def call(self, x, regions, own=None, allowed=None, seen=None, training=None):
        """``(next x (B, T, H), weights (B, heads, T, R))`` of ``x (B, T, H)``.

        All are float but ``allowed`` and ``seen``.

        ``regions``: keys and values ``(B, R, 2 H)`` of each encoder layer's output. The weights are means over these
        layers. ``own (B, S, 2 H)``: keys and values for self-attention. None: they come from ``x``. ``allowed``: where
        self-attention may look, as in ``mixed_by_heads``. ``seen``: which regions may be looked at.
        """
        attended, _ = self.self_attention(x, self.own(x) if own is None else own, allowed)
        x = self.self_norm(x + self.dropout(attended, training=training))
        meshed, weights = [], []
        for gate, level in zip(self.gates, regions, strict=True):
            found, looked = self.cross_attention(x, level, seen)
            meshed.append(gate(ops.concatenate([x, found], axis=-1)) * found)
            weights.append(looked)
        # Stacked. TensorFlow would compute a chain of sums in a temporary variable (see ``init_state`` of adaptive.py).
        found, looked = ops.sum(ops.stack(meshed), axis=0), ops.mean(ops.stack(weights), axis=0)
        x = self.cross_norm(x + self.dropout(found, training=training))
        return self.feed(x, training=training), looked


@keras.saving.register_keras_serializable(package="captioning")
class M2Decoder(LayeredDecoder):
    """From regions and words to logits:

    regions -> dense H -> encoder layers with memories
    words -> embedding E -> dense H, plus position -> decoder layers, each over all encoder layers -> dense E -> V

    ``attend`` gives the last layer's weights over the regions, averaged over heads and encoder layers.
    ``memory_slots``: the memories of an encoder layer. ``max_length``: tokens that a state of ``step`` has room for.
    """

    def __init__(self, memory_slots: int = 40, **sizes):
        super().__init__(**sizes)
        self.sizes["memory_slots"] = memory_slots
        size, heads, dropout, levels = (self.sizes[name] for name in ("hidden_size", "heads", "dropout", "layers"))
        self.make_blocks(
            lambda name: MemoryBlock(size, heads, memory_slots, dropout, name=name),
            lambda name: MeshedBlock(size, heads, levels, dropout, name=name),
        )
        self.built = True

    def see_regions(self, regions, mask, training=None):
        """For each decoder layer keys and values of every encoder layer: "regions" are lists of ``(B, R, 2 H)``."""
        levels = []
        for block in self.encoder_blocks:
            regions = block(regions, mask, training=training)
            levels.append(regions)
        found = [[block.cross_attention.key_value(level) for level in levels] for block in self.decoder_blocks]
        return with_mask({"regions": found}, mask)

    def finish(self, x):
        return x


DECODER = M2Decoder
