"""A decoder that is told which words fit the picture.

Legend: B images, R regions, D feature size, V vocabulary size, N rows of a search.
"""

from typing import Any

import keras
from keras import ops

from captioning.concepts.detector import Concepts
from config import DecodingSettings


class ConceptDecoder(keras.Model):
    """``init_state`` and ``step`` of a ``decoder`` (see ``base.py``) whose logits the ``concepts`` of an image change.

    The entry "image" of its state holds that of the decoder, and what is added to the logits.
    """

    attends = False

    def __init__(self, decoder: keras.Model, concepts: Concepts, decoding: DecodingSettings, vocabulary_size: int):
        """``decoding`` has the weights of ``Concepts.preferences``."""
        super().__init__()
        self.decoder, self.concepts = decoder, concepts
        self.decoding, self.vocabulary_size = decoding, vocabulary_size
        self.built = True

    def init_state(self, features) -> dict[str, Any]:
        """The state before the first word, of ``features`` float ``(B, R, D)``."""
        state = self.decoder.init_state(features)
        added = self.concepts.preferences(features, self.decoding, self.vocabulary_size)
        return self._joined(state, added)

    def step(self, token_ids, state) -> tuple[Any, dict[str, Any]]:
        """``(logits float32 (N, V), next state)`` after one more token, int ``(N,)``."""
        own, added = state["image"]["decoder"], state["image"]["added"]
        logits, new = self.decoder.step(token_ids, {**state, "image": own})
        return ops.cast(logits, "float32") + added, self._joined(new, added)

    @staticmethod
    def _joined(state: dict[str, Any], added) -> dict[str, Any]:
        return {**state, "image": {"decoder": state.get("image", {}), "added": added}}
