"""Attention: the state of the LSTM decides at every step where to look. What it sees enters the LSTM with the word.

Xu et al. (2015), "Show, attend and tell", https://arxiv.org/abs/1502.03044: soft attention (section 4.2) with additive
scores and a sigmoid gate on the context. Two things differ from the paper. A dense layer with layer norm projects the
regions. The output is tied to a learned embedding.
Legend: B images, N captions, R regions, D feature size, T time, E embedding, H hidden, A attention size, V vocabulary.
"""

import keras
from keras import layers, ops

from captioning.base.regions import mean_over_regions
from captioning.decoders.base import beside, captions_each, forget_bias, look_together, lstm, with_mask
from captioning.decoders.loops import LoopDecoder, read_in_parts


@keras.saving.register_keras_serializable(package="captioning")
class AttentionDecoder(LoopDecoder):
    """From regions and words to logits:

    regions -> dense H; their mean -> the first state of the LSTM
    hidden, regions -> attention -> gated context H
    word E, context -> LSTM H
    hidden, context, word -> dense E -> V

    ``attend`` gives float weights ``(N, T, R)``. Training computes for all steps at once what depends on the words
    alone. The rest of a step is two matrix products and the attention.
    """

    def __init__(self, attention_size: int = 256, **sizes):
        super().__init__(**sizes)
        self.sizes["attention_size"] = attention_size
        embedding_size, hidden_size = self.sizes["embedding_size"], self.sizes["hidden_size"]
        self.keys = layers.Dense(attention_size, name="keys")
        self.scores = layers.Dense(1, use_bias=False, name="scores")
        self.start = layers.Dense(2 * hidden_size, activation="tanh", name="start")
        self.word_gates = layers.Dense(4 * hidden_size, bias_initializer=forget_bias, name="word_gates")
        # It gives three things: the query of the attention, the gate of the context, and a part of the LSTM's gates.
        self.from_hidden = layers.Dense(attention_size + 5 * hidden_size, use_bias=False, name="from_hidden")
        self.from_context = layers.Dense(4 * hidden_size, use_bias=False, name="from_context")

        self.keys.build((None, None, hidden_size))
        self.scores.build((None, None, attention_size))
        self.start.build((None, hidden_size))
        self.word_gates.build((None, None, embedding_size))
        self.from_hidden.build((None, hidden_size))
        self.from_context.build((None, hidden_size))
        self.readout.build((None, None, 2 * hidden_size + embedding_size))
        self.built = True

    def see_regions(self, values, mask, training=None):
        """What the image alone decides: ``({"values": (B, R, H), "keys": (B, R, A)}, hidden (B, H), cell (B, H))``.

        ``hidden`` and ``cell`` are the first state of the LSTM. Padded images also have a "mask" ``(B, R)``.
        """
        hidden, cell = ops.split(self.start(mean_over_regions(values, mask)), 2, axis=-1)
        return with_mask({"values": values, "keys": self.keys(values)}, mask), hidden, cell

    def _advance(self, word_gates, hidden, cell, image, captions=1):
        """One step: ``(hidden (N, H), cell (N, H), context (N, H), weights (N, R))``.

        ``word_gates (N, 4 H)`` is the word's part of the gates. ``hidden`` and ``cell``, ``(N, H)``, are of the last
        step. ``image`` is the dict of ``see``. It has a row for so many ``captions`` that follow one another.
        """
        hidden_size, attention_size = self.sizes["hidden_size"], self.sizes["attention_size"]
        query, gate, hidden_gates = ops.split(
            self.from_hidden(hidden), [attention_size, attention_size + hidden_size], axis=-1
        )
        context, weights = look_together(self.scores, query, image, captions)
        context = ops.sigmoid(gate) * context
        return (*lstm(word_gates + hidden_gates + self.from_context(context), cell), context, weights)

    def read(self, image, token_ids, training=None, ending=None):
        image, hidden, cell = image
        hidden, cell = beside((hidden, cell), token_ids)
        words = self.embed(token_ids, training)  # (N, T, E)

        def prepare(words):
            captions = captions_each(image, words)

            def body(carry, word_gates):
                carry = self._advance(word_gates, carry[0], carry[1], image, captions)
                return carry, carry

            return body, self.word_gates(words)

        first = (hidden, cell, ops.zeros_like(hidden), beside(ops.zeros_like(image["keys"][..., 0]), token_ids))
        hidden, _, context, weights = read_in_parts(prepare, first, words, ending)
        return ops.concatenate([hidden, context, words], axis=-1), weights

    def init_state(self, features):
        image, hidden, cell = self.see(features)
        embedding = self.embedding.init_state(ops.shape(features)[0])
        return {"image": image, "embedding": embedding, "hidden": hidden, "cell": cell}

    def look(self, token_ids, state):
        word, embedding = self.embedding.step(token_ids, state["embedding"])
        hidden, cell, context, weights = self._advance(
            self.word_gates(word), state["hidden"], state["cell"], state["image"]
        )
        logits = self.word_logits(ops.concatenate([hidden, context, word], axis=-1))
        return logits, {**state, "embedding": embedding, "hidden": hidden, "cell": cell}, weights


DECODER = AttentionDecoder
