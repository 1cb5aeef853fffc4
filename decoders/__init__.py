"""Decoders, one per file behind one seam (see ``decoders.base``), and the settings that build them."""

from config import Config
from decoders.base import Decoder
from decoders.inject import InjectDecoder
from decoders.merge import MergeDecoder

DECODERS: dict[str, type[Decoder]] = {"merge": MergeDecoder, "inject": InjectDecoder}


def build_decoder(config: Config, vocabulary_size: int, regions: int, feature_size: int) -> Decoder:
    """The decoder that ``config`` names, built, for features ``(B, regions, feature_size)``."""
    return DECODERS[config.decoder](
        vocabulary_size=vocabulary_size,
        regions=regions,
        feature_size=feature_size,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        dropout=config.dropout,
        image_scale=config.image_scale,
    )


__all__ = ["DECODERS", "Decoder", "build_decoder"]
