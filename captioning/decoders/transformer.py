"""Transformer: an encoder over the regions, and a decoder that attends to its own words and to the regions.

Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, with the layer norms in front of the blocks (Xiong et al.,
2020, https://arxiv.org/abs/2002.04745). ``step`` keeps keys and values of the words so far, so each word is computed
once.
Legend: B images or captions, R regions, D feature size, T words, S words or regions that may be looked at, L tokens for
which a state has room, E embedding, H width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from captioning.base.regions import masked
from captioning.decoders.base import RegionDecoder, beside, with_mask


def mixed_by_heads(query, keys_values, heads: int, allowed=None):
    """What each head finds, side by side: ``(mixtures of values (B, T, H), weights (B, heads, T, S))``.

    ``query (B, T, H)`` and ``keys_values (B, S, 2 H)``. All are float. ``allowed``: bool that broadcasts to ``(B,
    heads, T, S)``, false where a query must not look. None: it may look anywhere. Vaswani et al., equation 1 and
    section 3.2.2, without the projections.
    """
    size = query.shape[-1] // heads

    def split(x):  # (B, S, H) -> (B, heads, S, H / heads)
        return ops.swapaxes(ops.reshape(x, (-1, ops.shape(x)[1], heads, size)), 1, 2)

    keys, values = ops.split(keys_values, 2, axis=-1)
    scores = ops.matmul(split(query), ops.swapaxes(split(keys), -1, -2)) * size**-0.5
    weights = ops.softmax(masked(scores, allowed), axis=-1)
    mixed = ops.swapaxes(ops.matmul(weights, split(values)), 1, 2)  # (B, T, heads, H / heads)
    return ops.reshape(mixed, ops.shape(query)), weights  # (B, T, heads, H / heads) -> (B, T, H)


def over_regions(mask):
    """A ``mask (B, R)`` as ``(B, 1, 1, R)``, as ``mixed_by_heads`` wants it; None stays None."""
    return None if mask is None else mask[:, None, None]


class Attention(layers.Layer):
    """Multi-head dot-product attention of width H (Vaswani et al., section 3.2). Keys and values can be kept."""

    def __init__(self, size: int, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.size, self.heads = size, heads
        self.query = layers.Dense(size, name="query")
        self.key_value = layers.Dense(2 * size, name="key_value")
        self.merge = layers.Dense(size, name="merge")

    def build(self, shape):
        for layer in (self.query, self.key_value, self.merge):
            layer.build(shape)

    def call(self, x, keys_values, allowed=None):
        """``(output (B, T, H), weights (B, heads, T, S))`` of ``x (B, T, H)`` over ``keys_values (B, S, 2 H)``.

        All are float. ``allowed``: where x may look, as in ``mixed_by_heads``.
        """
        mixed, weights = mixed_by_heads(self.query(x), keys_values, self.heads, allowed)
        return self.merge(mixed), weights


class Block(layers.Layer):
    """One layer: self-attention, attention to the regions (if ``cross``), feed-forward. Each has its norm in front.

    Its parts are built in ``build``, under the layer's own name. So no two variables have the same path. The PyTorch
    backend needs this, because it clears gradients by path.
    """

    def __init__(self, size: int, heads: int, dropout: float, cross: bool, **kwargs):
        super().__init__(**kwargs)
        self.self_norm = layers.LayerNormalization(name="self_norm")
        self.self_attention = Attention(size, heads, name="self_attention")
        self.feed_norm = layers.LayerNormalization(name="feed_norm")
        self.feed_in = layers.Dense(4 * size, activation="gelu", name="feed_in")
        self.feed_out = layers.Dense(size, name="feed_out")
        self.dropout = layers.Dropout(dropout)
        self.cross = cross
        if cross:
            self.cross_norm = layers.LayerNormalization(name="cross_norm")
            self.cross_attention = Attention(size, heads, name="cross_attention")

    def build(self, shape):
        for layer in (self.self_norm, self.self_attention, self.feed_norm, self.feed_in):
            layer.build(shape)
        self.feed_out.build((*shape[:-1], 4 * shape[-1]))
        if self.cross:
            self.cross_norm.build(shape)
            self.cross_attention.build(shape)

    def own(self, x):
        """Keys and values of words ``x (B, T, H)`` for self-attention, float ``(B, T, 2 H)``."""
        return self.self_attention.key_value(self.self_norm(x))

    def call(self, x, own=None, allowed=None, regions=None, seen=None, training=None):
        """``(next x (B, T, H), weights of the last attention)`` of ``x (B, T, H)``.

        All are float but ``allowed`` and ``seen``.

        ``own (B, S, 2 H)``: keys and values for self-attention. None: they come from ``x``.
        ``allowed``: where self-attention may look, as in ``Attention``. ``seen``: which regions may be looked at.
        ``regions (B, R, 2 H)``: keys and values of the regions. With them the weights are ``(B, heads, T, R)``, and
        otherwise ``(B, heads, T, S)``.
        """
        normed = self.self_norm(x)
        own = self.self_attention.key_value(normed) if own is None else own
        attended, weights = self.self_attention(normed, own, allowed)
        x = x + self.dropout(attended, training=training)
        if regions is not None:
            attended, weights = self.cross_attention(self.cross_norm(x), regions, seen)
            x = x + self.dropout(attended, training=training)
        fed = self.feed_out(self.feed_in(self.feed_norm(x)))
        return x + self.dropout(fed, training=training), weights


class LayeredDecoder(RegionDecoder):
    """The base of decoders with layers that attend to the regions and to the words so far.

    A subclass calls ``make_blocks`` in ``__init__`` and has ``see_regions`` and ``finish``. A decoder block is called
    as ``Block``, and has ``own`` like it. ``max_length``: tokens that a state of ``step`` has room for.
    """

    bounded = True

    def __init__(self, layers: int = 2, heads: int = 8, max_length: int = 31, **sizes):
        super().__init__(**sizes)
        self.sizes |= {"layers": layers, "heads": heads, "max_length": max_length}
        self.word_dense = keras.layers.Dense(self.sizes["hidden_size"], name="word_dense")

    def make_blocks(self, encoder_block: Callable[[str], Any], decoder_block: Callable[[str], Any]) -> None:
        """Make and build all layers that this class knows. The arguments make a block of the given name."""
        count, width = self.sizes["layers"], (None, None, self.sizes["hidden_size"])
        self.encoder_blocks = [encoder_block(f"encoder_{i}") for i in range(count)]
        self.decoder_blocks = [decoder_block(f"decoder_{i}") for i in range(count)]
        self.word_dense.build((None, None, self.sizes["embedding_size"]))
        for layer in (*self.encoder_blocks, *self.decoder_blocks, self.readout):
            layer.build(width)

    def see_regions(self, regions, mask, training=None) -> dict[str, Any]:
        """A dict. "regions": for each decoder layer their keys and values ``(B, R, 2 H)``, or a nest of them.

        Padded images also have a "mask" ``(B, R)``.
        """
        raise NotImplementedError

    def finish(self, x):
        """What ``word_logits`` reads, float ``(..., H)``, of the last layer's output ``x (..., H)``."""
        raise NotImplementedError

    def _place(self, words, positions):
        """Word vectors ``(..., E)`` projected to ``(..., H)``, plus sines and cosines of int ``positions (...)``.

        The positions are encoded as in section 3.5 of Vaswani et al., with all sines before all cosines.
        """
        half = -(-self.sizes["hidden_size"] // 2)
        rates = ops.convert_to_tensor(1e4 ** -(np.arange(half) / half), dtype="float32")
        angles = ops.cast(positions, "float32")[..., None] * rates
        waves = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)[..., : self.sizes["hidden_size"]]
        return self.word_dense(words) + ops.cast(waves, words.dtype)

    def read(self, image, token_ids, training=None):
        image = beside(image, token_ids)
        positions = ops.arange(ops.shape(token_ids)[1])
        x = self._place(self.embed(token_ids, training), positions)
        causal = positions[:, None] >= positions[None]
        seen = over_regions(image.get("mask"))
        for block, regions in zip(self.decoder_blocks, image["regions"], strict=True):
            x, weights = block(x, allowed=causal, regions=regions, seen=seen, training=training)
        return self.finish(x), ops.mean(weights, axis=1)

    def init_state(self, features):
        image = self.see(features)
        first = keras.tree.flatten(image["regions"])[0][:, :1]
        empty = ops.repeat(ops.zeros_like(first), self.sizes["max_length"], axis=1)  # (B, L, 2 H)
        position = ops.zeros_like(first[:, 0, 0], dtype="int32")
        embedding = self.embedding.init_state(ops.shape(features)[0])
        words = [empty] * self.sizes["layers"]
        return {"image": image, "embedding": embedding, "words": words, "position": position}

    def look(self, token_ids, state):
        position = state["position"]  # int32 (B,): the same for all rows
        word, embedding = self.embedding.step(token_ids, state["embedding"])
        x = self._place(word, position)[:, None]
        places = ops.arange(self.sizes["max_length"])
        here = places == position[:, None]  # (B, L)
        known = (places <= position[:, None])[:, None, None]  # (B, 1, 1, L)
        words, seen = [], over_regions(state["image"].get("mask"))
        for block, own, regions in zip(self.decoder_blocks, state["words"], state["image"]["regions"], strict=True):
            words.append(ops.where(here[..., None], block.own(x), own))  # (B, 1, 2 H) and (B, L, 2 H)
            x, weights = block(x, own=words[-1], allowed=known, regions=regions, seen=seen)
        logits = self.word_logits(self.finish(x))[:, 0]
        state = {**state, "embedding": embedding, "words": words, "position": position + 1}
        return logits, state, ops.mean(weights, axis=1)[:, 0]


@keras.saving.register_keras_serializable(package="captioning")
class TransformerDecoder(LayeredDecoder):
    """From regions and words to logits:

    regions -> dense H -> encoder layers
    words -> embedding E -> dense H, plus position -> decoder layers -> dense E -> V

    ``attend`` gives the last layer's weights over the regions, averaged over the heads.
    ``max_length``: tokens that a state of ``step`` has room for.
    """

    def __init__(self, **sizes):
        super().__init__(**sizes)
        size, heads, dropout = (self.sizes[name] for name in ("hidden_size", "heads", "dropout"))
        self.make_blocks(
            lambda name: Block(size, heads, dropout, False, name=name),
            lambda name: Block(size, heads, dropout, True, name=name),
        )
        self.encoder_norm = layers.LayerNormalization(name="encoder_norm")
        self.decoder_norm = layers.LayerNormalization(name="decoder_norm")
        self.encoder_norm.build((None, None, size))
        self.decoder_norm.build((None, None, size))
        self.built = True

    def see_regions(self, regions, mask, training=None):
        """Keys and values of the regions for each decoder layer: "regions" is a list of float ``(B, R, 2 H)``."""
        for block in self.encoder_blocks:
            regions, _ = block(regions, allowed=over_regions(mask), training=training)
        regions = self.encoder_norm(regions)
        return with_mask({"regions": [block.cross_attention.key_value(regions) for block in self.decoder_blocks]}, mask)

    def finish(self, x):
        return self.decoder_norm(x)


DECODER = TransformerDecoder
