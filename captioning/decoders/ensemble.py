"""Several captioners as one, or one that looks several times: at every step the next word's probabilities are averaged.

Legend: B images, R regions, D feature size, V vocabulary size.
"""

from collections.abc import Sequence

import keras
from keras import ops

from captioning.decoders.build import Decoder


class EnsembleDecoder(keras.Model):
    """The stepping half of a decoder, over a tuple of features ``(B, R, D)``, one for each of ``decoders``."""

    attends = False

    def __init__(self, decoders: Sequence[Decoder]):
        super().__init__()
        self.decoders = list(decoders)
        self.built = True

    def init_state(self, features):
        states = [decoder.init_state(part) for decoder, part in zip(self.decoders, features, strict=True)]
        return {"image": [state.pop("image") for state in states], "members": states}

    def step(self, token_ids, state):
        probabilities, members = 0.0, []
        for decoder, image, member in zip(self.decoders, state["image"], state["members"], strict=True):
            logits, member = decoder.step(token_ids, {"image": image, **member})
            probabilities += ops.softmax(ops.cast(logits, "float32"), axis=-1) / len(self.decoders)
            members.append({name: part for name, part in member.items() if name != "image"})
        # A word that no member can imagine has no logarithm.
        return ops.log(ops.maximum(probabilities, 1e-30)), {"image": state["image"], "members": members}
