"""Adaptive attention: the decoder looks at the image, or at a visual sentinel, which is its own memory.

Lu et al. (2017), "Knowing when to look", https://arxiv.org/abs/1612.01887. The LSTM reads the words and the mean
region. Its new state decides where to look (spatial attention). The sentinel serves words that the image does not show,
such as "of" and "the". The attention gives nothing back to the LSTM, so training computes it for all steps at once.
Legend: B images, N captions, R regions, D feature size, T time, E embedding, H hidden, A attention size, V vocabulary.
"""

import keras
from keras import layers, ops

from captioning.base.regions import masked, mean_over_regions
from captioning.decoders.base import beside, captions_each, for_queries, forget_bias, lstm, with_mask
from captioning.decoders.loops import LoopDecoder, read_in_parts


@keras.saving.register_keras_serializable(package="captioning")
class AdaptiveDecoder(LoopDecoder):
    """From regions and words to logits:

    regions -> dense H
    word E, mean region -> LSTM H and sentinel H
    hidden, regions, sentinel -> attention -> context H, a mixture of regions and sentinel
    context + hidden -> dense E -> V

    ``attend`` gives float weights ``(N, T, R + 1)``. The last weight is the sentinel's. It is 1 if the decoder does not
    look at the image.
    """

    has_sentinel = True

    def __init__(self, attention_size: int = 256, **sizes):
        super().__init__(**sizes)
        self.sizes["attention_size"] = attention_size
        embedding_size, hidden_size = self.sizes["embedding_size"], self.sizes["hidden_size"]
        self.image_dense = layers.Dense(hidden_size, activation="relu", name="image")
        # Four gates of the LSTM and one of the sentinel. Each is a sum of parts from word, image and hidden state.
        self.word_gates = layers.Dense(5 * hidden_size, bias_initializer=_five_biases, name="word_gates")
        self.image_gates = layers.Dense(5 * hidden_size, use_bias=False, name="image_gates")
        self.hidden_gates = layers.Dense(5 * hidden_size, use_bias=False, name="hidden_gates")
        self.keys = layers.Dense(attention_size, name="keys")
        self.sentinel_key = layers.Dense(attention_size, name="sentinel_key")
        self.query = layers.Dense(attention_size, use_bias=False, name="query")
        self.scores = layers.Dense(1, use_bias=False, name="scores")

        self.image_dense.build((None, hidden_size))
        self.word_gates.build((None, None, embedding_size))
        self.image_gates.build((None, hidden_size))
        self.hidden_gates.build((None, hidden_size))
        self.keys.build((None, None, hidden_size))
        self.sentinel_key.build((None, None, hidden_size))
        self.query.build((None, None, hidden_size))
        self.scores.build((None, None, attention_size))
        self.readout.build((None, None, hidden_size))
        self.built = True

    def see_regions(self, values, mask, training=None):
        """What the image alone decides: values ``(B, R, H)``, keys ``(B, R, A)``, a part of the gates ``(B, 5 H)``.

        Padded images also have a "mask" ``(B, R)``.
        """
        gates = self.image_gates(self.image_dense(mean_over_regions(values, mask)))
        return with_mask({"values": values, "keys": self.keys(values), "gates": gates}, mask)

    def _advance(self, gates, hidden, cell):
        """One step of the LSTM: ``(hidden, cell, sentinel)``, each ``(N, H)``.

        ``gates (N, 5 H)`` is the part from word and image. ``hidden`` and ``cell``, ``(N, H)``, are of the last step.
        """
        gates = gates + self.hidden_gates(hidden)
        size = self.sizes["hidden_size"]
        hidden, cell = lstm(gates[..., : 4 * size], cell)
        return hidden, cell, ops.sigmoid(gates[..., 4 * size :]) * ops.tanh(cell)

    def _attend(self, hidden, sentinel, image):
        """Context plus hidden ``(N, T, H)``, and weights ``(N, T, R + 1)``.

        ``hidden`` and ``sentinel`` are ``(N, T, H)``.
        """
        query = self.query(hidden)  # (N, T, A)
        scores = self.scores(ops.tanh(image["keys"][:, None] + query[:, :, None]))[..., 0]  # (N, T, R)
        scores = masked(scores, for_queries(image.get("mask")))
        blind = self.scores(ops.tanh(self.sentinel_key(sentinel) + query))  # (N, T, 1)
        weights = ops.softmax(ops.concatenate([scores, blind], axis=-1), axis=-1)
        context = ops.matmul(weights[..., :-1], image["values"]) + weights[..., -1:] * sentinel
        return context + hidden, weights

    def read(self, image, token_ids, training=None, ending=None):
        def prepare(words):
            def body(carry, step_gates):
                carry = self._advance(step_gates, carry[0], carry[1])
                return carry, carry

            return body, self.word_gates(words) + beside(image["gates"], words)[:, None]

        zeros = beside(ops.zeros_like(image["values"][:, 0]), token_ids)
        words = self.embed(token_ids, training)
        hidden, _, sentinel = read_in_parts(prepare, (zeros, zeros, zeros), words, ending)
        # All words of all captions of an image look at it together: (N, T, H) -> (B, N / B * T, H).
        shape = ops.shape(hidden)
        together = (ops.shape(image["values"])[0], captions_each(image, token_ids) * shape[1], shape[2])
        hidden, sentinel = (ops.reshape(part, together) for part in (hidden, sentinel))
        vectors, weights = self._attend(hidden, sentinel, image)
        return ops.reshape(vectors, shape), ops.reshape(weights, (*shape[:2], ops.shape(weights)[-1]))

    def init_state(self, features):
        image = self.see(features)
        # ``step`` subtracts the negative, so that it holds no sum of three. TensorFlow computes such a sum in a
        # temporary variable. The last pass of a search's loop leaves this variable behind, and with many rows the next
        # batch then fails (tensorflow/tensorflow#23780).
        image["minus_gates"] = -image.pop("gates")
        zeros = ops.zeros_like(image["values"][:, 0])
        embedding = self.embedding.init_state(ops.shape(features)[0])
        return {"image": image, "embedding": embedding, "hidden": zeros, "cell": zeros}

    def look(self, token_ids, state):
        word, embedding = self.embedding.step(token_ids, state["embedding"])
        gates = self.word_gates(word) - state["image"]["minus_gates"]
        hidden, cell, sentinel = self._advance(gates, state["hidden"], state["cell"])
        vectors, weights = self._attend(hidden[:, None], sentinel[:, None], state["image"])
        return (
            self.word_logits(vectors[:, 0]),
            {**state, "embedding": embedding, "hidden": hidden, "cell": cell},
            weights[:, 0],
        )


def _five_biases(shape, dtype=None):
    """Biases ``(5 H,)``: ``forget_bias`` for the LSTM's gates, then zeros for the sentinel's gate."""
    size = shape[0] // 5
    return ops.concatenate([forget_bias((4 * size,)), ops.zeros((size,))])


DECODER = AdaptiveDecoder
