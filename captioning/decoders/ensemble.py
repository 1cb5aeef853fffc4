"""Several decoders as one. At every step the probabilities of the next word are averaged.

An ensemble is made of several captioners, or of one captioner that sees several views of an image, or of both.
Legend: B images, R regions, D feature size, V vocabulary size.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class EnsembleDecoder(keras.Model):
    """``init_state`` and ``step`` of a decoder (see ``base.py``), made of the members' ``decoders``.

    Its state has two entries:

        "image"    list with the "image" of each member's state, or ``{}`` for a member without one
        "members"  list with the rest of each member's state
    """

    attends = False

    def __init__(self, decoders: Sequence[keras.Model]):
        super().__init__()
        self.decoders = list(decoders)
        self.built = True

    def init_state(self, features):
        """The state before the first word. ``features``: a tuple of float ``(B, R, D)``, one for each member."""
        states = [decoder.init_state(part) for decoder, part in zip(self.decoders, features, strict=True)]
        return _joined(states)

    def step(self, token_ids, state):
        """``(log p of the next word, float32 (B, V), next state)`` after one more token, int ``(B,)``."""
        probabilities, states = 0.0, []
        for decoder, member in zip(self.decoders, _parted(state), strict=True):
            logits, member = decoder.step(token_ids, member)
            probabilities += ops.softmax(ops.cast(logits, "float32"), axis=-1) / len(self.decoders)
            states.append(member)
        # The logarithm of zero is not finite. So the probability of a word is at least 1e-30.
        return ops.log(ops.maximum(probabilities, 1e-30)), _joined(states)


def _joined(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The members' states as the state of the ensemble."""
    rest = [{name: part for name, part in state.items() if name != "image"} for state in states]
    return {"image": [state.get("image", {}) for state in states], "members": rest}


def _parted(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The state of the ensemble as the members' states."""
    return [{"image": image, **rest} for image, rest in zip(state["image"], state["members"], strict=True)]
