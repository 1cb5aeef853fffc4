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

    A word is preferred until it has been said, or another word of its name. Then what is added to its logit is at most
    0. The entry "image" of the state holds that of the decoder, what is added to the logits, and with classes of
    ImageNet what is added to the names of classes. The entry "said", float32 ``(N, V)``, is 1 for words that were said.
    """

    attends = False

    def __init__(self, decoder: keras.Model, concepts: Concepts, decoding: DecodingSettings, vocabulary_size: int):
        """``decoding`` has the weights of ``Concepts.preferences``."""
        super().__init__()
        self.decoder, self.concepts = decoder, concepts
        self.decoding, self.vocabulary_size = decoding, vocabulary_size
        self._classes_count = concepts.classes_count_in(decoding)
        # int32 (V,): the name of each word, and the word that is marked when it is said.
        self._names = concepts.names_of(range(vocabulary_size))
        self._marks = np.arange(vocabulary_size, dtype="int32")
        for name in concepts.names:
            self._marks[[*name.ids]] = name.ids[0]
        self.built = True

    def init_state(self, features) -> dict[str, Any]:
        """The state before the first word, of ``features`` float ``(B, R, D)``."""
        state = self.decoder.init_state(features)
        image = {"added": self.concepts.preferences(features, self.decoding, self.vocabulary_size)}
        if self._classes_count:
            image["names"] = self.concepts.of_names(features, self.decoding.class_weight)
        return self._joined(state, image, ops.zeros_like(image["added"]))

    def step(self, token_ids, state) -> tuple[Any, dict[str, Any]]:
        """``(logits float32 (N, V), next state)`` after one more token, int ``(N,)``."""
        image = {name: part for name, part in state["image"].items() if name != "decoder"}
        own = {name: part for name, part in state.items() if name != "said"}
        logits, new = self.decoder.step(token_ids, {**own, "image": state["image"]["decoder"]})
        just = ops.one_hot(ops.take(self._marks, token_ids), self.vocabulary_size, dtype="float32")
        said = ops.maximum(state["said"], just)
        added = image["added"]
        preferred = ops.maximum(added, 0.0)
        if self._classes_count:
            begun = ops.cast(token_ids != START, "float32")[:, None]  # no caption begins with a bare noun
            names = ops.take(image["names"], self._names, axis=1) * begun
            added, preferred = added + names, preferred + names
        added -= preferred * ops.take(said, self._marks, axis=1)
        return ops.cast(logits, "float32") + added, self._joined(new, image, said)

    @staticmethod
    def _joined(state: dict[str, Any], image: dict[str, Any], said) -> dict[str, Any]:
        return {**state, "image": {"decoder": state.get("image", {}), **image}, "said": said}
