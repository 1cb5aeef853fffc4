"""Word embeddings, one kind per file behind one seam (see ``embeddings.base``), and the settings that build them."""

from collections.abc import Mapping

import numpy as np

from captioning.embeddings.base import PretrainedEmbedding, WordEmbedding
from captioning.embeddings.learned import LearnedEmbedding
from captioning.embeddings.prefix import PrefixEmbedding
from captioning.embeddings.vectors import VectorEmbedding
from config import Config


def build_embedding(config: Config, arrays: Mapping[str, np.ndarray]) -> PretrainedEmbedding | None:
    """The embedding that ``config`` names, with its ``arrays`` (see ``embedding_arrays``); None for one that a decoder learns."""
    if config.embedding == "learned":
        return None
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if config.embedding == "bert-prefix":
        embedding = PrefixEmbedding(shapes, config.embedding_size)
    else:
        embedding = VectorEmbedding(shapes, config.embedding_size, tuned=config.embedding_trainable)
    embedding.fill(arrays)
    return embedding


__all__ = [
    "LearnedEmbedding",
    "PrefixEmbedding",
    "PretrainedEmbedding",
    "VectorEmbedding",
    "WordEmbedding",
    "build_embedding",
]
