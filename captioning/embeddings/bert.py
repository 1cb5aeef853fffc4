"""WordPieces and weights of a BERT, read through KerasHub. Keras is imported only when a BERT is read.

A BERT is a KerasHub preset, by its name, or a folder in the layout of Hugging Face or KerasHub.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from unicodedata import category, normalize

import numpy as np

from captioning.base.errors import UserError
from captioning.base.presets import keras_hub_for, reading_preset
from config import DecoderSettings

# A caption has room for one WordPiece per word, and for this many more. If its words have more, only the last pieces of
# its later words are read. Because this number is fixed, all shapes follow from the number of words. The training
# captions of Flickr8k need 6 at most.
SPARE = 6

# BERT's pieces for our special words. <unk> stands for a rare word, or for one that word dropout hides.
# So it is [MASK], which BERT knows as a hidden word. BERT has hardly ever seen its own [UNK].
_COUNTERPARTS = {"<pad>": "[PAD]", "<start>": "[CLS]", "<end>": "[SEP]", "<unk>": "[MASK]"}

# What a folder with a BERT must hold: of each kind one of these files.
_FILES = {
    "configuration": ("config.json",),
    "vocabulary": ("vocab.txt", "assets/tokenizer/vocabulary.txt"),
    "weights": ("model.safetensors", "model.safetensors.index.json", "model.weights.h5", "model.weights.json"),
}

_TABLE = "token_embedding/embeddings"  # the path of BERT's input vectors, one row per WordPiece


def read_wordpieces(name: str) -> list[str]:
    """The WordPieces of the BERT ``name``, in the order of their ids. Raises UserError."""
    hub = _keras_hub(name)
    with reading_preset("bert", name, "a BERT", "fetch it again, or name another"):
        return _wordpieces(name, hub)


def read_bert(name: str, words: Sequence[str]) -> tuple[list[list[int]], dict[str, np.ndarray]]:
    """The ids of the WordPieces of each of ``words``, at least one per word; and the weights of the BERT ``name``.

    The weights are float32 arrays, named by their paths in KerasHub's BertBackbone. Raises UserError if the BERT cannot
    be fetched or read.
    """
    hub = _keras_hub(name)
    from keras import ops

    with reading_preset("bert", name, "a BERT", "fetch it again, or name another"):
        backbone = hub.models.BertBackbone.from_preset(name)
        weights = {weight.path: ops.convert_to_numpy(weight.value) for weight in backbone.weights}
        pieces = _wordpieces(name, hub)
        tokenizer = hub.models.BertTokenizer(pieces, lowercase=True, strip_accents=not _keeps_accents(pieces))
    if len(pieces) > len(weights[_TABLE]):
        raise UserError(
            f"bert: the vocabulary of {name} has {len(pieces)} pieces, more than its weights, which have "
            f"{len(weights[_TABLE])}; fetch both again from one place"
        )
    ids = [[int(i) for i in row] or [tokenizer.token_to_id("[UNK]")] for row in tokenizer(list(words))]
    for i, word in enumerate(words):
        if word in _COUNTERPARTS or word.startswith("##"):  # the tokeniser would take these words apart
            ids[i] = [tokenizer.token_to_id(_COUNTERPARTS.get(word, word))]
    return ids, weights


def _keeps_accents(pieces: Sequence[str]) -> bool:
    """Whether a BERT with these WordPieces reads accents and vowel signs, such as those of Hindi, as they are."""
    return any(category(mark) == "Mn" for piece in pieces if not piece.isascii() for mark in normalize("NFD", piece))


def mean_vectors(pieces: Sequence[Sequence[int]], weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mean input vector of each word's WordPieces, float32 ``(V, W)``. ``read_bert`` gives both arguments."""
    return np.stack([weights[_TABLE][list(ids)].mean(axis=0) for ids in pieces])


def prefix_arrays(
    pieces: Sequence[Sequence[int]], weights: Mapping[str, np.ndarray], settings: DecoderSettings
) -> dict[str, np.ndarray]:
    """The arrays of embedding=bert-prefix (see ``arrays.py``). ``read_bert`` gives the first two arguments."""
    slots = min(max(map(len, pieces)), SPARE + 1)
    used, rows = np.unique(np.concatenate([ids[-slots:] for ids in pieces]), return_inverse=True)
    table = np.full((len(pieces), slots), -1, dtype=np.int32)
    table[np.arange(slots) >= slots - np.asarray([[min(len(ids), slots)] for ids in pieces])] = rows
    cells = settings.max_caption_length + 1 + (SPARE if slots > 1 else 0)
    places = weights["position_embedding/embeddings"]
    if cells > len(places):
        raise UserError(
            f"max_caption_length: {settings.bert} reads {len(places)} WordPieces at most, and {cells} would be needed; "
            "choose a smaller one"
        )
    arrays = {
        "pieces": table,
        "vectors": weights[_TABLE][used],
        "positions": places[:cells] + weights["segment_embedding/embeddings"][0],
    }
    kept = ("embeddings_layer_norm/", "transformer_layer_")
    return arrays | {path.replace("/", "."): weight for path, weight in weights.items() if path.startswith(kept)}


def _keras_hub(name: str) -> ModuleType:
    """KerasHub, if ``name`` may be a BERT that it can read. Raises UserError."""
    folder = Path(name)
    if folder.is_dir():
        for what, files in _FILES.items():
            if not any((folder / file).is_file() for file in files):
                raise UserError(f"bert: {name} lacks its {what} ({' or '.join(files)}); fetch the whole folder again")
    elif os.sep in name and "://" not in name:
        raise UserError(f"bert: there is no folder {name}; name another one, or a KerasHub preset")
    keras_hub = keras_hub_for("embedding: BERT", "bert")
    presets = keras_hub.models.BertBackbone.presets
    if not folder.is_dir() and "://" not in name and name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        raise UserError(
            f"bert: there is neither a folder nor a KerasHub preset {name!r}; "
            + (f"did you mean {near[0]}?" if near else "bert_base_en_uncased is one, or name a folder")
        )
    return keras_hub


def _wordpieces(name: str, hub: ModuleType) -> list[str]:
    """The WordPieces of the BERT ``name``: from the file in its folder, or else from the preset."""
    found = [file for file in _FILES["vocabulary"] if Path(name, file).is_file()]
    if found:
        return Path(name, found[0]).read_text(encoding="utf-8").rstrip("\n").split("\n")
    return hub.models.BertTokenizer.from_preset(name).get_vocabulary()
