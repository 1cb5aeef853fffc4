"""The decoder that the settings name.

The setting ``decoder`` is the name of a file in this folder. The file ends with ``DECODER = ...``, which is its class.
A new decoder is a new file, whose name is added to the kinds of decoders in config.py.
"""

import importlib
from collections.abc import Mapping

import numpy as np

from captioning.base.settings import read_by_choice
from captioning.decoders.base import Decoder
from captioning.embeddings.build import build_embedding
from config import DecoderSettings


def decoder_class(name: str) -> type[Decoder]:
    """The class of the decoder ``name``."""
    return importlib.import_module(f"captioning.decoders.{name}").DECODER


def build_decoder(
    settings: DecoderSettings,
    vocabulary_size: int,
    regions: int,
    feature_size: int,
    pretrained: Mapping[str, np.ndarray] | None = None,
    padded: bool = False,
) -> Decoder:
    """The decoder that ``settings`` name, built for float features ``(B, regions, feature_size)``.

    ``pretrained``: the arrays of a word embedding that is not learned (see ``captioning/embeddings/arrays.py``).
    ``padded``: images have different numbers of regions (see ``captioning/base/regions.py``).

    >>> decoder = build_decoder(DecoderSettings(decoder="merge"), vocabulary_size=1000, regions=1, feature_size=2048)
    >>> features, token_ids = np.zeros((2, 1, 2048), "float32"), np.ones((2, 5), "int32")
    >>> tuple(decoder(features, token_ids).shape)
    (2, 5, 1000)
    >>> logits, state = decoder.step(token_ids[:, 0], decoder.init_state(features))
    >>> tuple(logits.shape)
    (2, 1000)
    """
    kind = decoder_class(settings.decoder)
    own = read_by_choice(settings, DecoderSettings, "decoder")  # the settings that this decoder reads and others do not
    if kind.bounded:
        own["max_length"] = settings.max_caption_length + 1  # <start> and the words
    return kind(
        vocabulary_size=vocabulary_size,
        regions=regions,
        feature_size=feature_size,
        embedding_size=settings.embedding_size,
        hidden_size=settings.hidden_size,
        dropout=settings.dropout,
        embedding=build_embedding(settings, pretrained or {}),
        padded=padded,
        **own,
    )
