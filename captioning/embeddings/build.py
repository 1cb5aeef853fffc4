"""The word embedding that the settings name, one kind per file."""

from collections.abc import Mapping

import numpy as np

from captioning.embeddings.base import PretrainedEmbedding
from captioning.embeddings.prefix import PrefixEmbedding
from captioning.embeddings.vectors import VectorEmbedding
from config import DecoderSettings


def build_embedding(settings: DecoderSettings, arrays: Mapping[str, np.ndarray]) -> PretrainedEmbedding | None:
    """The pretrained embedding that ``settings`` name, with the values of ``arrays`` (see ``arrays.py``).

    None for a learned embedding, which each decoder makes itself.
    """
    if settings.embedding == "learned":
        return None
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    embedding: PretrainedEmbedding
    if settings.embedding == "bert-prefix":
        embedding = PrefixEmbedding(shapes, settings.embedding_size)
    else:
        embedding = VectorEmbedding(shapes, settings.embedding_size, tuned=settings.embedding_trainable)
    embedding.fill(arrays)
    return embedding
