"""What is known about the words before training, as arrays. No Keras.

The arrays are kept as ``embedding.npz`` in the run folder and in the bundle. So nothing else is needed to resume
training or to caption: not the file of vectors, not the BERT, not KerasHub.

Legend: V words of the vocabulary, W width of the vectors, P most WordPieces of a word, U WordPieces that occur,
S WordPieces that a caption has room for (``SPARE`` in ``bert.py``). Arrays are float32 unless another type is named.

embedding=file and embedding=bert-static:
    vectors     (V, W): one row per word

embedding=bert-prefix:
    pieces      int32 (V, P): the WordPieces of each word as rows of ``vectors``, at the end of the row, after -1
    vectors     (U, W): BERT's input vectors of the WordPieces
    positions   (S, W): BERT's vectors of the positions, each plus that of the first segment
    embeddings_layer_norm.gamma, transformer_layer_0.self_attention_layer.query.kernel, ...
                the weights of KerasHub's BertBackbone without the pooler, by their paths with dots for slashes
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.embeddings.bert import mean_vectors, prefix_arrays, read_bert
from captioning.embeddings.file import read_vectors
from config import DecoderSettings


def load_pretrained(settings: DecoderSettings, words: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """The arrays of the word embedding that ``settings`` name, by name; none for a learned one.

    ``words``: all words of the vocabulary in id order. ``seed``: draws the vectors of words that the file does not
    have. Prints how many words are covered. Raises UserError if a file, folder, preset or library is missing or
    damaged.
    """
    if settings.embedding == "learned":
        return {}
    if settings.embedding == "file":
        return {"vectors": read_vectors(Path(settings.embedding_file), words, seed)}
    pieces, weights = read_bert(settings.bert, words)
    several = sum(len(ids) > 1 for ids in pieces) / len(words)
    print(f"{settings.bert}: {several:.1%} of {len(words)} words consist of several WordPieces")
    if settings.embedding == "bert-static":
        return {"vectors": mean_vectors(pieces, weights)}
    return prefix_arrays(pieces, weights, settings)


def extended_arrays(
    settings: DecoderSettings, arrays: dict[str, np.ndarray], words: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
    """``arrays`` of the word embedding that ``settings`` name, completed for the last of ``words``, which they lack.

    ``words``: all words of the vocabulary in id order. The arrays of the first ones stay as they are. Raises UserError
    as ``load_pretrained`` does, and when vectors or BERT are others than those of ``arrays``.
    """
    known = len(arrays["pieces" if "pieces" in arrays else "vectors"]) if arrays else len(words)
    if known == len(words):
        return arrays
    whole = load_pretrained(settings, words, seed)
    fixed = [name for name in arrays if name not in ("pieces", "vectors", "positions")]
    if arrays["vectors"].shape[1:] != whole["vectors"].shape[1:] or not all(
        np.array_equal(arrays[name], whole[name]) for name in fixed
    ):
        source = "embedding_file" if settings.embedding == "file" else "bert"
        raise UserError(
            f"{source}: {getattr(settings, source)} is not the one that the captioner was trained with; put that one in its "
            "place, or leave out --extend-vocabulary"
        )
    if "pieces" in arrays:
        return whole  # BERT reads known words as before
    return {"vectors": np.concatenate([arrays["vectors"], whole["vectors"][known:]])}
