"""Up-Down: one LSTM decides where to look, and a second LSTM says the next word of what it sees there.

Anderson et al. (2018), "Bottom-up and top-down attention", https://arxiv.org/abs/1707.07998, section 3.2. Two things
differ from the paper. A dense layer with layer norm projects the regions. The output is tied to a learned embedding.
Legend: B images, N captions, R regions, D feature size, T time, E embedding, H hidden, A attention size, V vocabulary.
"""

import keras
from keras import layers, ops

from captioning.base.regions import mean_over_regions
from captioning.decoders.base import beside, captions_each, forget_bias, look_together, lstm, with_mask
from captioning.decoders.loops import LoopDecoder, read_in_parts


@keras.saving.register_keras_serializable(package="captioning")
class UpDownDecoder(LoopDecoder):
    """From regions and words to logits. The numbers are those of the paper's equations:

    v_1 ... v_R = regions -> dense H
    h1 = LSTM([h2', mean of v, word E], h1')                          (2); ' marks the last step
    a_i = w tanh(W_v v_i + W_h h1), alpha = softmax(a)                (3, 4)
    c = sum of alpha_i v_i                                            (5)
    h2 = LSTM([c, h1], h2')                                           (6)
    h2 -> dense E -> V                                                (7)

    ``attend`` gives float weights alpha ``(N, T, R)``. Training computes for all steps at once what depends on image
    and words alone.
    """

    def __init__(self, attention_size: int = 256, **sizes):
        super().__init__(**sizes)
        self.sizes["attention_size"] = attention_size
        embedding_size, hidden_size = self.sizes["embedding_size"], self.sizes["hidden_size"]
        self.keys = layers.Dense(attention_size, name="keys")
        self.scores = layers.Dense(1, use_bias=False, name="scores")
        self.word_gates = layers.Dense(4 * hidden_size, bias_initializer=forget_bias, name="word_gates")
        self.image_gates = layers.Dense(4 * hidden_size, use_bias=False, name="image_gates")
        # The parts of the first LSTM's gates that come from h1 and h2 of the last step.
        self.hidden_gates = layers.Dense(4 * hidden_size, use_bias=False, name="hidden_gates")
        # It gives two things from the new h1: the query of the attention, and a part of the second LSTM's gates.
        self.from_attending = layers.Dense(attention_size + 4 * hidden_size, use_bias=False, name="from_attending")
        # The rest of the second LSTM's gates, from c and from h2 of the last step.
        self.language_gates = layers.Dense(4 * hidden_size, bias_initializer=forget_bias, name="language_gates")

        self.keys.build((None, None, hidden_size))
        self.scores.build((None, None, attention_size))
        self.word_gates.build((None, None, embedding_size))
        self.image_gates.build((None, hidden_size))
        self.hidden_gates.build((None, 2 * hidden_size))
        self.from_attending.build((None, hidden_size))
        self.language_gates.build((None, 2 * hidden_size))
        self.readout.build((None, None, hidden_size))
        self.built = True

    def see_regions(self, values, mask, training=None):
        """What the image alone decides: values ``(B, R, H)``, keys ``(B, R, A)``, a part of the gates ``(B, 4 H)``.

        Padded images also have a "mask" ``(B, R)``.
        """
        gates = self.image_gates(mean_over_regions(values, mask))
        return with_mask({"values": values, "keys": self.keys(values), "gates": gates}, mask)

    def _advance(self, gates, memory, image, captions=1):
        """One step: ``(memory, weights (N, R))``. ``memory`` is ``(h1, its cell, h2, its cell)``, each ``(N, H)``.

        ``gates (N, 4 H)`` is the part of image and word. ``image`` is the dict of ``see``. It has a row for so many
        ``captions`` that follow one another.
        """
        hidden, cell, spoken, language_cell = memory
        hidden, cell = lstm(gates + self.hidden_gates(ops.concatenate([hidden, spoken], axis=-1)), cell)
        query, language = ops.split(self.from_attending(hidden), [self.sizes["attention_size"]], axis=-1)
        context, weights = look_together(self.scores, query, image, captions)
        language = language + self.language_gates(ops.concatenate([context, spoken], axis=-1))
        return (hidden, cell, *lstm(language, language_cell)), weights

    def read(self, image, token_ids, training=None, ending=None):
        def prepare(words):
            captions, of_image = captions_each(image, words), beside(image["gates"], words)

            def body(carry, step_gates):
                memory, weights = self._advance(step_gates, carry[:4], image, captions)
                carry = (*memory, weights)
                return carry, carry

            return body, self.word_gates(words) + of_image[:, None]  # (N, T, 4 H)

        zeros = beside(ops.zeros_like(image["values"][:, 0]), token_ids)
        first = (*[zeros] * 4, beside(ops.zeros_like(image["keys"][..., 0]), token_ids))
        *_, spoken, _, weights = read_in_parts(prepare, first, self.embed(token_ids, training), ending)
        return spoken, weights

    def init_state(self, features):
        image = self.see(features)
        image["minus_gates"] = -image.pop("gates")  # the reason stands in ``init_state`` of adaptive.py
        embedding = self.embedding.init_state(ops.shape(features)[0])
        return {"image": image, "embedding": embedding, "memory": (ops.zeros_like(image["values"][:, 0]),) * 4}

    def look(self, token_ids, state):
        word, embedding = self.embedding.step(token_ids, state["embedding"])
        gates = self.word_gates(word) - state["image"]["minus_gates"]
        memory, weights = self._advance(gates, state["memory"], state["image"])
        return self.word_logits(memory[2]), {**state, "embedding": embedding, "memory": memory}, weights


DECODER = UpDownDecoder
