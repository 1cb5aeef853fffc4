"""What a decoder that is told of visual concepts adds to the logits of a plain one, for the tests of both."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from captioning.concepts.decoder import ConceptDecoder
from captioning.concepts.detector import Concepts
from captioning.decoders.build import build_decoder
from config import DecoderSettings, DecodingSettings


def what_is_added(
    concepts: Concepts,
    decoding: DecodingSettings,
    features: np.ndarray,
    steps: Sequence[Sequence[int]],
    words: int,
    name: str = "merge",
) -> Iterator[np.ndarray]:
    """The difference of logits, float ``(B, words)``, after each of the ``steps``: the ids of ``B`` words."""
    settings = DecoderSettings(decoder=name, embedding_size=4, hidden_size=4, attention_size=4, max_caption_length=5)
    plain: keras.Model = build_decoder(settings, words, regions=features.shape[1], feature_size=features.shape[2])
    decoders = plain, ConceptDecoder(plain, concepts, decoding, words)
    states = [each.init_state(ops.convert_to_tensor(features)) for each in decoders]
    for step in steps:
        tokens = ops.convert_to_tensor(np.array(step, "int32"))
        found = [each.step(tokens, state) for each, state in zip(decoders, states, strict=True)]
        (before, _), (after, _) = found
        states = [state for _, state in found]
        yield ops.convert_to_numpy(after) - ops.convert_to_numpy(before)
