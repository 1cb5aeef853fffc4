"""What is known of the words before training: vectors from a text file, BERT's input vectors, or all of a BERT.

Arrays by name, float32 unless said otherwise, kept as ``embedding.npz`` in the run folder and in the bundle, so that
neither resuming nor captioning needs the file, the BERT or KerasHub again. V words, W width:

bert-static and file:
    vectors     (V, W): one row per word
bert-prefix, with P the most pieces of a word, U the pieces that occur, S cells (see SPARE):
    pieces      int32 (V, P): the rows in ``vectors`` of each word's WordPieces, flush right behind -1
    vectors     (U, W): BERT's input vectors of the pieces
    positions   (S, W): those of the places in the text, with that of the first segment added
    embeddings_layer_norm.gamma, transformer_layer_0.self_attention_layer.query.kernel, ...: the weights of KerasHub's
                BertBackbone by their paths, with points for slashes; not the pooler's

BERT is read through KerasHub: a preset by its name, or a folder in Hugging Face's or KerasHub's own layout.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from captioning.base.errors import UserError
from config import Config

# WordPieces beyond one a word that a caption may have in all; of words beyond that only the last pieces are read. Because
# the bound is a number, all shapes follow from the number of words. Flickr8k's training captions have at most 6.
SPARE = 6

# BERT's counterparts of our special tokens. What stands behind <unk>, a rare word or one that word dropout took, is to
# BERT what stands behind [MASK]; its own [UNK] it has hardly ever seen.
_COUNTERPARTS = {"<pad>": "[PAD]", "<start>": "[CLS]", "<end>": "[SEP]", "<unk>": "[MASK]"}

# What a folder with a BERT must hold, one of each.
_FILES = {
    "configuration": ("config.json",),
    "vocabulary": ("vocab.txt", "assets/tokenizer/vocabulary.txt"),
    "weights": ("model.safetensors", "model.safetensors.index.json", "model.weights.h5", "model.weights.json"),
}


def load_pretrained(config: Config, words: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of the embedding that ``config`` names, for ``words`` in id order; none for a learned one.

    Prints how well the words are covered. Raises UserError: a file, folder, preset or library is missing or no good.
    """
    if config.embedding == "learned":
        return {}
    if config.embedding == "file":
        return {"vectors": _read_vectors(Path(config.embedding_file), words, config.seed)}
    pieces, weights = _read_bert(config.bert, words)
    several = sum(len(ids) > 1 for ids in pieces) / len(words)
    print(f"{config.bert}: {several:.1%} of {len(words)} words consist of several WordPieces")
    if config.embedding == "bert-static":
        table = weights["token_embedding/embeddings"]
        return {"vectors": np.stack([table[ids].mean(axis=0) for ids in pieces])}
    return _prefix_arrays(pieces, weights, config)


# Text files of word vectors ------------------------------------------------------------------------------------------


def _read_vectors(path: Path, words: Sequence[str], seed: int) -> np.ndarray:
    """Float32 ``(len(words), W)`` from lines of a word and W numbers, as GloVe has them.

    word2vec and fastText put a line with the number of words and W in front. Words without a vector get a random one,
    spread like the others.
    """
    ids = {word: i for i, word in enumerate(words)}
    found: dict[int, np.ndarray] = {}
    announced, width, lines = None, 0, 0
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                word, _, rest = line.rstrip().partition(" ")
                count = rest.count(" ") + 1 if rest else 0
                if number == 1 and count == 1 and word.isdecimal() and rest.isdecimal():
                    announced, width = int(word), int(rest)
                    continue
                lines += 1
                width = width or count
                if count > width and not _are_numbers([rest.split(" ")[0]]):
                    continue  # a word with a space in it, of which GloVe's largest file has a few and we have none
                if count == 0 or count != width:
                    raise UserError(
                        f"embedding_file: {path}, line {number}: {count} numbers where there should be {width or 'some'}; "
                        "it must be a text file in the format of word2vec, GloVe or fastText"
                    )
                if word in ids and ids[word] not in found:
                    values = rest.split(" ")
                    if not _are_numbers(values):
                        raise UserError(
                            f"embedding_file: {path}, line {number}: {word!r} has values that are no numbers"
                        )
                    found[ids[word]] = np.asarray(values, dtype=np.float32)
    except OSError as error:
        raise UserError(f"embedding_file: {path} cannot be read: {error.strerror or error}") from None
    if announced not in (None, lines):
        raise UserError(f"embedding_file: {path} announces {announced} words and holds {lines}; fetch it again")
    ordinary = len(words) - len(_COUNTERPARTS)
    missing = sum(word not in _COUNTERPARTS and ids[word] not in found for word in words)
    if missing == ordinary:
        raise UserError(f"embedding_file: {path} has none of the {ordinary} words of the captions; choose another file")
    print(f"{path}: {missing} of {ordinary} words ({missing / ordinary:.1%}) have no vector and start random")
    known = np.stack(list(found.values()))
    vectors = np.random.default_rng(seed).normal(known.mean(), known.std(), (len(words), width)).astype(np.float32)
    vectors[list(found)] = known
    return vectors


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return bool(np.isfinite(np.asarray(values, dtype=np.float32)).all())
    except ValueError:
        return False


# BERT ----------------------------------------------------------------------------------------------------------------


def read_wordpieces(name: str) -> list[str]:
    """The WordPieces of a BERT, in the order of their ids. Raises UserError."""
    hub = _keras_hub(name)
    with _reading(name):
        return _wordpieces(name, hub)


def _keras_hub(name: str) -> ModuleType:
    """KerasHub, once it is clear that ``name`` may be a BERT that it can read. Raises UserError."""
    folder = Path(name)
    if folder.is_dir():
        for what, files in _FILES.items():
            if not any((folder / file).is_file() for file in files):
                raise UserError(f"bert: {name} lacks its {what} ({' or '.join(files)}); fetch the whole folder again")
    elif os.sep in name and "://" not in name:
        raise UserError(f"bert: there is no folder {name}")
    try:
        import keras_hub
        import safetensors  # noqa: F401  KerasHub reads Hugging Face's folders with it, and does not bring it
    except ImportError as error:
        raise UserError(
            f"embedding: BERT is read through KerasHub, which cannot be imported ({error}); pip install -r "
            "requirements-bert.txt"
        ) from None
    presets = keras_hub.models.BertBackbone.presets
    if not folder.is_dir() and "://" not in name and name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        raise UserError(
            f"bert: there is neither a folder nor a KerasHub preset {name!r}; "
            + (f"did you mean {near[0]}?" if near else "bert_base_en_uncased is one, or name a folder")
        )
    return keras_hub


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Raise UserError for whatever goes wrong while the BERT ``name`` is read."""
    try:
        yield
    except Exception as error:  # KerasHub, its downloads and the readers of its files raise what they like
        brief = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"bert: {name} cannot be fetched, or read as a BERT: {brief}") from None


def _wordpieces(name: str, hub: ModuleType) -> list[str]:
    found = [file for file in _FILES["vocabulary"] if Path(name, file).is_file()]
    if found:
        return Path(name, found[0]).read_text(encoding="utf-8").rstrip("\n").split("\n")
    return hub.models.BertTokenizer.from_preset(name).get_vocabulary()


def _read_bert(name: str, words: Sequence[str]) -> tuple[list[list[int]], dict[str, np.ndarray]]:
    """The WordPiece ids of each word, at least one, and BERT's weights by their KerasHub paths."""
    hub = _keras_hub(name)
    from keras import ops

    with _reading(name):
        backbone = hub.models.BertBackbone.from_preset(name)
        weights = {weight.path: ops.convert_to_numpy(weight.value) for weight in backbone.weights}
        pieces = _wordpieces(name, hub)
        tokenizer = hub.models.BertTokenizer(pieces, lowercase=True, strip_accents=True)
    if len(pieces) > len(weights["token_embedding/embeddings"]):
        raise UserError(f"bert: the vocabulary of {name} has {len(pieces)} pieces, more than its weights know")
    ids = [[int(i) for i in row] or [tokenizer.token_to_id("[UNK]")] for row in tokenizer(list(words))]
    for i, word in enumerate(words):
        if word in _COUNTERPARTS or word.startswith("##"):  # what no text spells
            ids[i] = [tokenizer.token_to_id(_COUNTERPARTS.get(word, word))]
    return ids, weights


def _prefix_arrays(pieces: list[list[int]], weights: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """What ``embeddings.prefix`` runs, of the ``pieces`` of each word and the ``weights`` of KerasHub's BertBackbone."""
    slots = min(max(map(len, pieces)), SPARE + 1)
    used, rows = np.unique(np.concatenate([ids[-slots:] for ids in pieces]), return_inverse=True)
    table = np.full((len(pieces), slots), -1, dtype=np.int32)
    table[np.arange(slots) >= slots - np.asarray([[min(len(ids), slots)] for ids in pieces])] = rows
    cells = config.max_caption_length + 1 + (SPARE if slots > 1 else 0)
    places = weights["position_embedding/embeddings"]
    if cells > len(places):
        raise UserError(f"max_caption_length: {config.bert} reads {len(places)} WordPieces; choose a smaller one")
    arrays = {
        "pieces": table,
        "vectors": weights["token_embedding/embeddings"][used],
        "positions": places[:cells] + weights["segment_embedding/embeddings"][0],
    }
    kept = ("embeddings_layer_norm/", "transformer_layer_")
    return arrays | {path.replace("/", "."): weight for path, weight in weights.items() if path.startswith(kept)}
