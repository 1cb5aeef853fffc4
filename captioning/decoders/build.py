"""Decoders, one per file behind one seam (see ``decoders.base``), and the settings that build them."""

from collections.abc import Mapping

import numpy as np

from captioning.base.settings import read_by_choice
from captioning.decoders.adaptive import AdaptiveDecoder
from captioning.decoders.attention import AttentionDecoder
from captioning.decoders.base import Decoder
from captioning.decoders.inject import InjectDecoder
from captioning.decoders.merge import MergeDecoder
from captioning.decoders.transformer import TransformerDecoder
from captioning.embeddings.build import build_embedding
from config import Config, DecoderSettings

DECODERS: dict[str, type[Decoder]] = {
    "merge": MergeDecoder,
    "inject": InjectDecoder,
    "attention": AttentionDecoder,
    "adaptive": AdaptiveDecoder,
    "transformer": TransformerDecoder,
}


def build_decoder(
    config: Config,
    vocabulary_size: int,
    regions: int,
    feature_size: int,
    pretrained: Mapping[str, np.ndarray] | None = None,
) -> Decoder:
    """The decoder that ``config`` names, built, for features ``(B, regions, feature_size)``.

    ``pretrained``: the arrays of its word embedding (see ``embedding_arrays``), unless that is learned.
    """
    own = read_by_choice(config, DecoderSettings, "decoder")
    if config.decoder == "transformer":
        own["max_length"] = config.max_caption_length + 1
    return DECODERS[config.decoder](
        vocabulary_size=vocabulary_size,
        regions=regions,
        feature_size=feature_size,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        dropout=config.dropout,
        embedding=build_embedding(config, pretrained or {}),
        **own,
    )


__all__ = ["DECODERS", "Decoder", "build_decoder"]
