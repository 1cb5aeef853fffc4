"""Searches that are asked for words: prefix, include and exclude_words, against all captions of a tiny vocabulary."""

import itertools

import numpy as np
import pytest
from keras import ops
from toy_search import all_captions, assert_same, next_log_p, random_tables, search, toy

from captioning.base.errors import UserError
from captioning.search.beam import beam_search
from captioning.search.hypotheses import BANNED, IMPOSSIBLE
from captioning.search.phrases import PhraseRules
from captioning.words.constraints import check_constraints, constraints_of
from captioning.words.vocabulary import END, PAD, Vocabulary
from config import Config

WORDS = Vocabulary(["a", "b"])
# "b" may be the word b or, in another spelling, the beginning of "ba"; "a" + "##b" is the word "ab".
PIECES = Vocabulary(["a", "b", "##b"], wordpieces=True)
LENGTH = {"words": 5, "pieces": 4}
VOCABULARY = {"words": WORDS, "pieces": PIECES}


def rules(vocabulary, max_length, **settings) -> PhraseRules:
    settings = Config(max_caption_length=max_length, **settings)
    return PhraseRules(constraints_of(vocabulary, settings), max_length)


def holds(words: list[str], phrase: str) -> bool:
    wanted = phrase.split()
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words)))


def is_as_asked(vocabulary, tokens, prefix="", include=(), exclude_words=()) -> bool:
    words = vocabulary.spell(tokens)
    start = prefix.split()
    spelled = vocabulary.encode(prefix, 99).tolist()[1:-1]
    if tokens[: len(spelled)] != spelled:  # the prefix is spelled as the vocabulary spells it
        return False
    return (
        words[: len(start)] == start
        and all(any(holds(words, each) for each in asked.split("|")) for asked in include)
        and not any(holds(words, each) for each in exclude_words)
    )


def expected(vocabulary, table, max_length, asked, **options):
    """All captions that are as asked, best first, those that are cut last."""
    captions = all_captions(table, max_length, **options)
    return [item for item in captions if is_as_asked(vocabulary, item[0], **asked)]


ASKED = [
    ("words", {"prefix": "b a"}),
    ("words", {"exclude_words": ("a",)}),
    ("words", {"exclude_words": ("a b", "b b a")}),
    ("words", {"include": ("b",)}),
    ("words", {"include": ("b", "a a")}),
    ("words", {"include": ("a a|b b b", "b a")}),
    ("words", {"prefix": "b", "include": ("b a", "a b b"), "exclude_words": ("a a",)}),
    ("pieces", {"prefix": "a"}),
    ("pieces", {"prefix": "ab"}),
    ("pieces", {"exclude_words": ("a",)}),
    ("pieces", {"exclude_words": ("ab", "b b")}),
    ("pieces", {"include": ("b",)}),
    ("pieces", {"include": ("a", "ab")}),
    ("pieces", {"include": ("bb b|abb",), "exclude_words": ("a",)}),
]


@pytest.mark.backends
@pytest.mark.parametrize(("kind", "asked"), ASKED)
def test_a_wide_beam_finds_all_captions_that_are_as_asked(kind, asked):
    vocabulary, max_length = VOCABULARY[kind], LENGTH[kind]
    words = len(vocabulary) - 4
    options = {"length_penalty": 0.7}
    tables = random_tables(5, words, max_length, seed=3)
    beams = words**max_length * (words + 1)
    found = search(tables, max_length, beams, phrases=rules(vocabulary, max_length, **asked), **options)
    for image, table in enumerate(tables):
        captions = expected(vocabulary, table, max_length, asked, **options)
        assert captions
        assert_same(found, captions, image)
