"""Which search is chosen, what is said of it, and which positions of faiss belong to which pictures. Needs no faiss."""

import importlib.util
import re

import numpy as np
import pytest

from captioning.base.errors import UserError
from captioning.retrieval import index_types
from captioning.retrieval.approximate import Approximate, keys_of
from captioning.retrieval.index import create
from captioning.retrieval.index_types import attach, random_sentences, require_faiss
from captioning.words.vocabulary import Vocabulary


@pytest.fixture
def small(tmp_path):
    return create(tmp_path / "index", "m", "s", [("0.jpg", (1, 1)), ("1.jpg", (1, 1))], {}, [np.eye(2)], 2)


def test_without_faiss_an_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("hnsw", "ivfpq"):
        with pytest.raises(
            UserError, match=rf'^--index-type {name}: faiss is not installed; pip install -e "\.\[faiss\]"$'
        ):
            require_faiss(name)
    require_faiss("exact")
    require_faiss(None)


@pytest.mark.parametrize(
    ("asked", "pictures", "installed", "chosen", "said"),
    [
        (None, 1_000_000, True, "exact", ""),
        (None, 1_000_001, True, "hnsw", ""),
        (None, 1_000_001, False, "exact", r"all 1,000,001 pictures are compared .*\[faiss\].* a tenth of the time\n"),
        ("exact", 5_000_000, False, "exact", ""),
        ("ivfpq", 1_000, True, "ivfpq", ""),
        ("hnsw", 999, True, "exact", "gains nothing below 1,000 pictures, so all 999 are compared\n"),
    ],
)
def test_the_type_follows_from_the_option_and_the_number(monkeypatch, capsys, asked, pictures, installed, chosen, said):
    monkeypatch.setattr(index_types, "_has_faiss", lambda: installed)
    assert index_types._chosen(asked, pictures) == chosen
    err = capsys.readouterr().err
    assert err.count("\n") == bool(said)
    assert re.search(said, err)


def test_exact_search_needs_and_writes_nothing(small, capsys):
    assert attach(small, None) is None
    assert attach(small, "hnsw") is None
    assert small.search(np.eye(2, dtype="float32")[1:], 1)[0].tolist() == [[1]]
    assert sorted(path.name for path in small.folder.iterdir()) == ["index.json", "vectors-1.npy"]
    assert "gains nothing" in capsys.readouterr().err


def test_positions_belong_to_the_pictures_with_the_same_vectors():
    known = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    known[3] = known[1]  # a picture and its copy
    keys = keys_of(known)
    assert len(set(keys.tolist())) == 5
    searcher = Approximate("hnsw", None, keys, np.arange(6), known, 6)
    now = np.stack([known[5], known[1], np.ones(4, "float32"), known[0], known[1], known[1]])
    new = searcher.place(keys_of(now))
    assert new.tolist() == [2, 5], "a third copy is new, as is what was never there"
    assert searcher.rows.tolist() == [3, 1, -1, 4, -1, 0]
    assert keys_of(known[:0]).shape == (0,)


def test_one_changed_bit_changes_the_key():
    vectors = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    changed = vectors.copy()
    changed.view(np.uint32)[np.arange(64), np.arange(64) % 4] ^= np.uint32(1) << np.arange(64, dtype=np.uint32) % 32
    assert (keys_of(vectors) != keys_of(changed)).all()


def test_random_sentences_are_the_same_every_time_and_of_known_words():
    vocabulary = Vocabulary(["a", "dog", "runs"])
    sentences = random_sentences(vocabulary)
    assert sentences == random_sentences(vocabulary)
    assert {word for sentence in sentences for word in sentence.split()} == {"a", "dog", "runs"}
    assert {len(sentence.split()) for sentence in sentences} == set(range(3, 9))
