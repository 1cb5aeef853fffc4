"""Captions become the words of the COCO evaluation, and words become captions again."""

import doctest
import random
import re
import sys

import pytest

from captioning.words import tokenizer
from captioning.words.tokenizer import detokenize, tokenize

EXAMPLES = [
    ("Two dogs run on the man's lawn .", "two dogs run on the man 's lawn"),
    ("I don't know, it's theirs.", "i do n't know it 's theirs"),
    ("They're here; we've won; I'm he'd you'll", "they 're here we 've won i 'm he 'd you 'll"),
    ("A black-and-white dog in a t-shirt", "a black-and-white dog in a t-shirt"),
    ("A man - with a hat -- sits", "a man with a hat sits"),
    ('A sign says "STOP" .', "a sign says stop"),
    ("``Go'' (now) [or] {never}!?", "go now or never"),
    ("The U.S. flag and the U.S.", "the u.s flag and the u.s"),
    ("A dog. A cat.", "a dog a cat"),
    ("Wait... what", "wait what"),
    ("Wait...", "wait"),
    ("A dog.\nA cat", "a dog a cat"),
    ("The dogs' tails", "the dogs tails"),
    ("He cannot stop", "he can not stop"),
    ("At 12:30 p.m. 3,000 people", "at 12:30 p.m 3,000 people"),
    ("#1 * car", "1 car"),
    ("Café ünter", "café ünter"),
    ("  spaces   and\ttabs ", "spaces and tabs"),
    ("", ""),
    (" . ,", ""),
]


@pytest.mark.parametrize(("caption", "words"), EXAMPLES)
def test_words_of_a_caption(caption, words):
    assert tokenize(caption) == words.split()


@pytest.mark.parametrize("caption", [caption for caption, _ in EXAMPLES])
def test_detokenised_words_are_the_same_words(caption):
    words = tokenize(caption)
    assert tokenize(detokenize(words)) == words


def test_plain_captions_take_a_shorter_way_to_the_same_words(monkeypatch):
    rng = random.Random(0)
    words = [
        "a",
        "dog",
        "5",
        "3,000",
        "t-shirt",
        "cannot",
        "wanna",
        "gonna",
        "it's",
        "A.",
        "u.s",
        "don't",
        "n't",
        "we've",
    ]
    parts = [*words, ",", ".", "-", "--", "'", "'s", "'ll", "'t", "d'ye", "&", "\t"]
    captions = [
        "".join(rng.choice(parts) + rng.choice(["", " ", " ", " ", "  "]) for _ in range(rng.randrange(6)))
        for _ in range(3000)
    ]
    found = [tokenize(caption) for caption in captions]
    assert sum(tokenizer._PLAIN.fullmatch(caption.lower()) is not None for caption in captions) > 500
    monkeypatch.setattr(tokenizer, "_PLAIN", re.compile("(?!)"))
    for caption, expected in zip(captions, found, strict=True):
        assert tokenize(caption) == expected, caption


def test_suffixes_are_joined_to_their_word():
    assert detokenize(["the", "man", "'s", "dog", "does", "n't", "bark"]) == "the man's dog doesn't bark"
    assert detokenize(["'s", "first"]) == "'s first"
    assert detokenize([]) == ""


def test_special_tokens_typed_in_a_caption_are_no_special_tokens():
    assert not {"<end>", "<unk>", "<pad>", "<start>"} & set(tokenize("a <end> <unk> <pad> <start> dog"))


def test_the_examples_of_the_docstrings():
    failed, tried = doctest.testmod(tokenizer)
    assert (failed, tried) == (0, 2)


def test_what_a_captioner_says_is_split_without_nltk(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    tokenizer._treebank.cache_clear()
    words = ["the", "man", "'s", "dog", "does", "n't", "eat", "salt", "&", "pepper", "in", "the", "u.s"]
    assert tokenize(detokenize(words)) == words
