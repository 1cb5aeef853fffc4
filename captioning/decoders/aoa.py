"""Attention on attention: a gate decides how much of what the attention found is of use for the query.

Huang et al. (2019), "Attention on attention for image captioning", https://arxiv.org/abs/1908.06954. An encoder
refines the regions by attention on attention among them. The decoder is an LSTM with attention on attention over the
refined regions. Two things differ from the paper. A dense layer with layer norm projects the regions. The output is
tied to a learned embedding.
Legend: B images or captions, N captions, R regions, D feature size, T time or queries, E embedding, H hidden, V
vocabulary.
"""

import keras
from keras import layers, ops

from captioning.base.regions import mean_over_regions
from captioning.decoders.base import beside, captions_each, forget_bias, lstm, with_mask
from captioning.decoders.loops import LoopDecoder, read_in_parts
from captioning.decoders.transformer import mixed_by_heads, over_regions


class AttentionOnAttention(layers.Layer):
    """Section 3.1 of the paper, with multi-head attention, for queries, keys and values of width H.

    v = the heads' mixtures of values, side by side
    i = W_qi q + W_vi v + b_i, the information
    g = sigmoid(W_qg q + W_vg v + b_g), the gate
    output = g * i
    """

    def __init__(self, size: int, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.size, self.heads = size, heads
        self.query = layers.Dense(size, name="query")
        self.key_value = layers.Dense(2 * size, name="key_value")
        self.information_gate = layers.Dense(2 * size, name="information_gate")

    def build(self, shape):
        self.query.build(shape)
        self.key_value.build(shape)
        self.information_gate.build((*shape[:-1], 2 * self.size))

    def call(self, x, keys_values, seen=None):
        """``(output (B, T, H), weights (B, heads, T, R))`` of ``x (B, T, H)`` over ``keys_values (B, R, 2 H)``.

        All are float. ``seen`` bool ``(B, R)``: false for regions that nobody looks at.
        """
        query = self.query(x)
        mixed, weights = mixed_by_heads(query, keys_values, self.heads, over_regions(seen))
        information, gate = ops.split(self.information_gate(ops.concatenate([query, mixed], axis=-1)), 2, axis=-1)
        return ops.sigmoid(gate) * information, weights


class Refiner(layers.Layer):
    """One layer of the encoder: a' = LayerNorm(a + AoA(a)) (section 3.2.1). It has no feed-forward.

    There is dropout on AoA(a) in training.
    """

    def __init__(self, size: int, heads: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.attention = AttentionOnAttention(size, heads, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.dropout = layers.Dropout(dropout)

    def build(self, shape):
        self.attention.build(shape)
        self.norm.build(shape)

    def call(self, x, seen=None, training=None):
        """The next regions, float ``(B, R, H)``, of ``x (B, R, H)``. ``seen``: as in ``AttentionOnAttention``."""
        found, _ = self.attention(x, self.attention.key_value(x), seen)
        return self.norm(x + self.dropout(found, training=training))


@keras.saving.register_keras_serializable(package="captioning")
class AoADecoder(LoopDecoder):
    """From regions and words to logits (section 3.2 of the paper). The mark ' stands for the last step:

    a_1 ... a_R = regions -> dense H -> refining layers
    h = LSTM([word E, mean of a + c'], h')
    c = AoA(h, a)
    c -> dense E -> V

    ``attend`` gives float weights ``(N, T, R)``: those of the decoder's attention, averaged over the heads. Training
    computes for all steps at once what depends on the words alone.
    """

    def __init__(self, layers: int = 2, heads: int = 8, **sizes):
        super().__init__(**sizes)
        self.sizes |= {"layers": layers, "heads": heads}
        hidden_size, dropout = self.sizes["hidden_size"], self.sizes["dropout"]
        self.refiners = [Refiner(hidden_size, heads, dropout, name=f"refiner_{i}") for i in range(layers)]
        self.attention = AttentionOnAttention(hidden_size, heads, name="attention")
        self.word_gates = keras.layers.Dense(4 * hidden_size, bias_initializer=forget_bias, name="word_gates")
        # The parts of the LSTM's gates that come from h' and from the mean of a + c'.
        self.other_gates = keras.layers.Dense(4 * hidden_size, use_bias=False, name="other_gates")

        for refiner in self.refiners:
            refiner.build((None, None, hidden_size))
        self.attention.build((None, None, hidden_size))
        self.word_gates.build((None, None, self.sizes["embedding_size"]))
        self.other_gates.build((None, 2 * hidden_size))
        self.readout.build((None, None, hidden_size))
        self.built = True

    def see_regions(self, regions, mask, training=None):
        """What the image alone decides: ``{"mean": (B, H), "keys_values": (B, R, 2 H)}`` of the refined regions.

        Padded images also have a "mask" ``(B, R)``.
        """
        for refine in self.refiners:
            regions = refine(regions, mask, training=training)
        image = {"mean": mean_over_regions(regions, mask), "keys_values": self.attention.key_value(regions)}
        return with_mask(image, mask)

    def _advance(self, word_gates, hidden, cell, context, mean, keys_values, mask=None, captions=1):
        """One step: ``(hidden, cell, context, weights (N, R))``; the others and the arguments are ``(N, H)``.

        ``word_gates (N, 4 H)`` is the word's part of the gates. ``mean (N, H)``, ``keys_values (B, R, 2 H)`` and
        ``mask (B, R)`` are those of ``see``. There are so many ``captions`` of each image, which follow one another.
        """
        others = self.other_gates(ops.concatenate([hidden, mean + context], axis=-1))
        hidden, cell = lstm(word_gates + others, cell)
        size = self.sizes["hidden_size"]
        # All captions of an image look at it together.
        context, weights = self.attention(ops.reshape(hidden, (-1, captions, size)), keys_values, mask)
        weights = ops.reshape(ops.mean(weights, axis=1), (-1, ops.shape(keys_values)[1]))  # (B, N / B, R) -> (N, R)
        return hidden, cell, ops.reshape(context, (-1, size)), weights

    def read(self, image, token_ids, training=None, ending=None):
        def prepare(words):
            captions, mean = captions_each(image, words), beside(image["mean"], words)

            def body(carry, word_gates):
                hidden, cell, context, _ = carry
                looked = (image["keys_values"], image.get("mask"), captions)
                carry = self._advance(word_gates, hidden, cell, context, mean, *looked)
                return carry, carry

            return body, self.word_gates(words)

        zeros = beside(ops.zeros_like(image["mean"]), token_ids)
        first = (zeros, zeros, zeros, beside(ops.zeros_like(image["keys_values"][..., 0]), token_ids))
        *_, context, weights = read_in_parts(prepare, first, self.embed(token_ids, training), ending)
        return context, weights

    def init_state(self, features):
        image = self.see(features)
        zeros = ops.zeros_like(image["mean"])
        embedding = self.embedding.init_state(ops.shape(features)[0])
        return {"image": image, "embedding": embedding, "hidden": zeros, "cell": zeros, "context": zeros}

    def look(self, token_ids, state):
        word, embedding = self.embedding.step(token_ids, state["embedding"])
        hidden, cell, context, weights = self._advance(
            self.word_gates(word), state["hidden"], state["cell"], state["context"], **state["image"]
        )
        state = {**state, "embedding": embedding, "hidden": hidden, "cell": cell, "context": context}
        return self.word_logits(context), state, weights


DECODER = AoADecoder
