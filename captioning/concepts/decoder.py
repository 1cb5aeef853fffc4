"""A decoder that is told which words fit the picture.

Legend: B images, R regions, D feature size, V vocabulary size, N rows of a search.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from captioning.concepts.detector import Concepts
from captioning.words.vocabulary import START
from config import DecodingSettings


class ConceptDecoder(keras.Model):
    """``init_state`` and ``step`` of a ``decoder`` (see ``base.py``) whose logits the ``concepts`` of an image change.

    A word is preferred until it has been said, or another word of its name. With a repeat_weight it is avoided then.

    The entry "image" of the state holds that of the decoder, and what is taken from the logits. With classes of
    ImageNet it also holds what is added for their names. The entry "preferred", float32 ``(N, V)``, is what is added
    for words that were not said, and for those that were.
    """

    attends = False

    def __init__(self, decoder: keras.Model, concepts: Concepts, decoding: DecodingSettings, vocabulary_size: int):
        """``decoding`` has the weights of ``Concepts``. Raises UserError if they cannot be followed."""
        super().__init__()
        self.decoder, self.concepts = decoder, concepts
        self.decoding, self.vocabulary_size = decoding, vocabulary_size
        self._repetition = concepts.repetition(decoding.repeat_weight, vocabulary_size)
        # int32 (V,): words of one name have the same mark.
        self._marks = np.arange(vocabulary_size, dtype="int32")
        for name in concepts.names:
            self._marks[[*name.ids]] = name.ids[0]
        self.built = True

    def init_state(self, features) -> dict[str, Any]:
        """The state before the first word, of ``features`` float ``(B, R, D)``."""
        state = self.decoder.init_state(features)
        added = self.concepts.preferences(features, self.decoding, self.vocabulary_size)
        image, preferred = {"avoided": ops.minimum(added, 0.0)}, ops.maximum(added, 0.0)
        if self.concepts.classes_count_in(self.decoding):
            image["names"] = self.concepts.of_names(features, self.decoding.class_weight, self.vocabulary_size)
            preferred += image["names"]
        return self._joined(state, image, preferred)

    def step(self, token_ids, state) -> tuple[Any, dict[str, Any]]:
        """``(logits float32 (N, V), next state)`` after one more token, int ``(N,)``."""
        image = {name: part for name, part in state["image"].items() if name != "decoder"}
        own = {name: part for name, part in state.items() if name != "preferred"}
        logits, new = self.decoder.step(token_ids, {**own, "image": state["image"]["decoder"]})
        is_said = ops.take(self._marks, token_ids)[:, None] == self._marks  # (N, V)
        preferred = ops.where(is_said, self._repetition, state["preferred"])
        added = image["avoided"] + preferred
        if "names" in image:  # no caption begins with a bare noun
            added -= ops.where(token_ids[:, None] == START, image["names"], 0.0)
        return ops.cast(logits, "float32") + added, self._joined(new, image, preferred)

    @staticmethod
    def _joined(state: dict[str, Any], image: dict[str, Any], preferred) -> dict[str, Any]:
        return {**state, "image": {"decoder": state.get("image", {}), **image}, "preferred": preferred}
