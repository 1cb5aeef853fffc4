"""A decoder that is told which words fit the picture.

Legend: B images, R regions, D feature size, V vocabulary size, N rows of a search.
"""

from typing import Any

import keras
from keras import ops

from captioning.concepts.detector import Concepts
from captioning.words.vocabulary import START
from config import DecodingSettings


class ConceptDecoder(keras.Model):
    """``init_state`` and ``step`` of a ``decoder`` (see ``base.py``) whose logits the ``concepts`` of an image change.

    The entry "image" of its state holds that of the decoder, and what is added to the logits. With classes of ImageNet
    the entry "said", float32 ``(N, G + 1)``, is 1 for names that the caption has.
    """

    attends = False

    def __init__(self, decoder: keras.Model, concepts: Concepts, decoding: DecodingSettings, vocabulary_size: int):
        """``decoding`` has the weights of ``Concepts.preferences``."""
        super().__init__()
        self.decoder, self.concepts = decoder, concepts
        self.decoding, self.vocabulary_size = decoding, vocabulary_size
        # int32 (V,): the name of each word, if classes count.
        counts = concepts.classes_count_in(decoding)
        self._names = concepts.names_of(range(vocabulary_size)) if counts else None
        self.built = True

    def init_state(self, features) -> dict[str, Any]:
        """The state before the first word, of ``features`` float ``(B, R, D)``."""
        state = self.decoder.init_state(features)
        image = {"added": self.concepts.preferences(features, self.decoding, self.vocabulary_size)}
        if self._names is None:
            return self._joined(state, image)
        image["names"] = self.concepts.of_names(features, self.decoding.class_weight)
        return {**self._joined(state, image), "said": ops.zeros_like(image["names"])}

    def step(self, token_ids, state) -> tuple[Any, dict[str, Any]]:
        """``(logits float32 (N, V), next state)`` after one more token, int ``(N,)``."""
        image = {name: part for name, part in state["image"].items() if name != "decoder"}
        own = {name: part for name, part in state.items() if name != "said"}
        logits, new = self.decoder.step(token_ids, {**own, "image": state["image"]["decoder"]})
        logits = ops.cast(logits, "float32") + image["added"]
        if self._names is None:
            return logits, self._joined(new, image)
        just = ops.one_hot(ops.take(self._names, token_ids), len(self.concepts.names) + 1, dtype="float32")
        said = ops.maximum(state["said"], just)
        begun = ops.cast(token_ids != START, "float32")[:, None]  # no caption begins with a bare noun
        logits += ops.take(image["names"] * (1.0 - said) * begun, self._names, axis=1)
        return logits, {**self._joined(new, image), "said": said}

    @staticmethod
    def _joined(state: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
        return {**state, "image": {"decoder": state.get("image", {}), **image}}
