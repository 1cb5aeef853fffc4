"""Searches that are asked for words: prefix, include and exclude_words, against all captions of a tiny vocabulary."""

import itertools
from functools import cache

import numpy as np
import pytest
from keras import ops
from toy_search import all_captions, assert_same, next_log_p, random_tables, search, toy

from captioning.base.errors import UserError
from captioning.search.compiled import Search
from captioning.search.hypotheses import IMPOSSIBLE
from captioning.search.phrases import PhraseRules
from captioning.words.constraints import asking, check_constraints, constraints_of
from captioning.words.vocabulary import END, Vocabulary
from config import Config

WORDS = Vocabulary(["a", "b"])
# "b" may be the word b or, in another spelling, the beginning of "ba"; "a" + "##b" is the word "ab".
PIECES = Vocabulary(["a", "b", "##b"], wordpieces=True)
LETTERS = Vocabulary(["a", "b", "c"])
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


@cache
def tables(kind: str) -> np.ndarray:
    return random_tables(2, len(VOCABULARY[kind]) - 4, LENGTH[kind], seed=3)


@cache
def captions_of(kind: str, image: int, **options):
    return all_captions(tables(kind)[image], LENGTH[kind], length_penalty=0.7, **options)


@cache
def rare() -> np.ndarray:
    """Tables in which the first word is very improbable."""
    found = random_tables(8, words=3, max_length=5)
    found[:, :, 4] -= 12
    return found


class ToyDecoder:
    """The models of ``rare``, as a decoder."""

    def init_state(self, features):
        return toy(rare(), 5)[1]

    def step(self, token_ids, state):
        return toy(rare(), 5)[0](token_ids, state)


def banked_reference(table, max_length, beam_size, phrases, length_penalty=1.0):
    """Beam search in banks, in plain Python. ``phrases``: the required ones, as tuples of ids."""
    last = sum(map(len, phrases))

    def bank(tokens):
        held = begun = 0
        for phrase in phrases:
            n = len(phrase)
            if any(tuple(tokens[i : i + n]) == phrase for i in range(len(tokens))):
                held += n
            else:
                begun = max(begun, *(m for m in range(n) if m == 0 or tuple(tokens[-m:]) == phrase[:m]), 0)
        return held + begun

    def share(candidates):
        of_bank = [sorted((c for c in candidates if bank(c[0]) == b), key=lambda c: -c[1]) for b in range(last, -1, -1)]
        turns = [each for turn in itertools.zip_longest(*of_bank) for each in turn if each]
        return sorted(turns[:beam_size], key=lambda c: -c[1])

    live, ended = [([], 0.0)], []
    for t in range(max_length + 1):
        candidates = [
            ([*prefix, word], log_p + following)
            for prefix, log_p in live
            for word, following in next_log_p(table, prefix).items()
            if word != END or bank(prefix) == last
        ]
        ended += [(tokens, p, p / len(tokens) ** length_penalty) for tokens, p in share(candidates) if END in tokens]
        if t < max_length:
            live = share([item for item in candidates if END not in item[0]])
        ended = sorted(ended, key=lambda item: -item[2])[:beam_size]
        if len(ended) == beam_size and live[0][1] / (t + 1) ** length_penalty <= ended[-1][2]:
            break
    whole = [item for item in live if bank(item[0]) == last and len(item[0]) == max_length]
    return (ended + [(tokens, p, p / len(tokens) ** length_penalty) for tokens, p in whole])[:beam_size]


# Searches ------------------------------------------------------------------------------------------------------------

SLOW = pytest.mark.slow
ASKED = [
    pytest.param("words", {"prefix": "b a"}, marks=SLOW),
    pytest.param("words", {"exclude_words": ("a",)}, marks=SLOW),
    pytest.param("words", {"exclude_words": ("a b", "b b a")}, marks=SLOW),
    pytest.param("words", {"include": ("b",)}, marks=SLOW),
    pytest.param("words", {"include": ("b", "a a")}, marks=SLOW),
    pytest.param("words", {"include": ("a a|b b b", "b a")}, marks=SLOW),
    ("words", {"prefix": "b", "include": ("b a", "a b b"), "exclude_words": ("a a",)}),
    pytest.param("pieces", {"prefix": "a"}, marks=SLOW),
    pytest.param("pieces", {"prefix": "ab"}, marks=SLOW),
    pytest.param("pieces", {"exclude_words": ("a",)}, marks=SLOW),
    ("pieces", {"exclude_words": ("ab", "b b")}),
    pytest.param("pieces", {"include": ("b",)}, marks=SLOW),
    pytest.param("pieces", {"include": ("a", "ab")}, marks=SLOW),
    ("pieces", {"include": ("bb b|abb",), "exclude_words": ("a",)}),
]


@pytest.mark.backends
@pytest.mark.parametrize(("kind", "asked"), ASKED)
@pytest.mark.parametrize("options", [{}, pytest.param({"no_repeat_ngram": 2, "min_length": 3}, marks=SLOW)])
def test_a_wide_beam_finds_all_captions_that_are_as_asked(kind, asked, options):
    vocabulary, max_length = VOCABULARY[kind], LENGTH[kind]
    words = len(vocabulary) - 4
    phrases = rules(vocabulary, max_length, **asked)
    beams = words**max_length * (words + 1)
    found = search(tables(kind), max_length, beams, length_penalty=0.7, phrases=phrases, **options)
    for image in range(len(tables(kind))):
        expected = [item for item in captions_of(kind, image, **options) if is_as_asked(vocabulary, item[0], **asked)]
        assert expected or options
        assert_same(found, expected, image)


@pytest.mark.backends
@pytest.mark.parametrize("beam_size", [4, pytest.param(7, marks=SLOW)])
def test_beams_in_banks_equal_a_plain_search_in_banks(beam_size):
    found = search(rare(), 5, beam_size, phrases=rules(LETTERS, 5, include=("a", "b c")))
    for image, table in enumerate(rare()):
        assert_same(found, banked_reference(table, 5, beam_size, [(4,), (5, 6)]), image)


def test_as_many_beams_as_required_words_and_one_are_enough():
    """Also where the words are very improbable, and where phrases begin alike."""
    phrases = rules(LETTERS, 5, include=("a b", "a c"))
    assert phrases.banks == 5
    tokens, log_probs, _ = search(rare(), 5, 5, phrases=phrases)
    assert (log_probs[:, 0] > IMPOSSIBLE).all()
    for row, log_p in zip(tokens.reshape(-1, 6).tolist(), log_probs.ravel(), strict=True):
        assert log_p <= IMPOSSIBLE or is_as_asked(LETTERS, row, include=("a b", "a c"))


@pytest.mark.slow
def test_required_words_that_the_prefix_holds_change_nothing():
    plain, again = (
        search(rare(), 5, 3, phrases=rules(LETTERS, 5, prefix="c a", include=include)) for include in ((), ("a",))
    )
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.backends
def test_greedy_search_takes_the_best_word_that_is_allowed():
    logits = random_tables(8, 3, 5)
    found = search(logits, 5, phrases=rules(LETTERS, 5, prefix="b", exclude_words=("a a", "c")))
    for image, table in enumerate(logits):
        tokens, log_p = [5], next_log_p(table, [])[5]
        while tokens[-1] != END and len(tokens) < 6:
            following = next_log_p(table, tokens)
            del following[6]
            if tokens[-1] == 4:
                del following[4]
            word = max(following, key=following.get)
            if len(tokens) == 5 and word != END:
                break
            tokens, log_p = [*tokens, word], log_p + following[word]
        assert_same(found, [(tokens, log_p, log_p / len(tokens))], image)


@pytest.mark.parametrize("beam_size", [1, pytest.param(3, marks=SLOW)])
def test_a_search_takes_the_beams_that_it_needs_and_gives_those_that_were_wanted(beam_size):
    settings = Config(beam_size=beam_size, include=("a", "b c"), max_caption_length=5)
    found = Search(ToyDecoder(), settings, vocabulary=LETTERS).search(ops.zeros((8, 1, 1)))
    wide = search(rare(), 5, 4, phrases=rules(LETTERS, 5, include=("a", "b c")))
    for one, other in zip(found[:3], wide, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other[:, :beam_size], rtol=1e-6)
    with pytest.raises(ValueError, match="vocabulary"):
        Search(ToyDecoder(), settings)


def test_who_judges_captions_does_not_see_the_prefix():
    """So a prefix changes nothing in how sure the model was of the words behind it."""
    settings = Config(beam_size=1, prefix="c a", max_caption_length=5)
    seen = []
    search = Search(ToyDecoder(), settings, lambda features, found: seen.append(found), LETTERS)
    tokens = ops.convert_to_numpy(search.call(ops.zeros((8, 1, 1)))[0])
    assert (tokens[:, :, :2] == [6, 4]).all()
    np.testing.assert_array_equal(ops.convert_to_numpy(seen[0].tokens), tokens[:, :, 2:])
    assert seen[0].trace.log_p.shape == (8, 1, 4)


def test_where_no_caption_is_as_asked_none_is_possible():
    phrases = rules(LETTERS, 5, include=("a b", "b a"))
    _, log_probs, _ = search(rare(), 5, 5, phrases=phrases, no_repeat_ngram=1)
    assert (log_probs <= IMPOSSIBLE).all()


# What cannot be ------------------------------------------------------------------------------------------------------

ENGLISH = Vocabulary(["a", "photo", "of", "cat", "cats", "black", "dog", "man", "'s"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prefix": "a foto of"}, r"prefix: .*'foto' \(did you mean photo\?\)"),
        ({"include": ("cat|kat",)}, r"include: .* know 'kat' \(did you mean cat\?"),
        ({"include": ("xyzzy",)}, r"include: .* know 'xyzzy';"),
        ({"include": ("...",)}, r"include: '\.\.\.' holds no word"),
        ({"include": ("cat|",)}, r"include: '' holds no word"),
        ({"include": ("cat，dog",)}, "include: 'cat，dog' holds '，', which separates nothing; write a plain comma"),
        ({"exclude_words": ("cat、dog",)}, "exclude_words: 'cat、dog' holds '、', which"),
        ({"prefix": "!"}, "prefix: '!' holds no word"),
        (
            {"include": ("black cat",), "exclude_words": ("cat",)},
            "include: 'black cat' holds 'cat', which exclude_words",
        ),
        ({"prefix": "a cat", "exclude_words": ("A cat",)}, "prefix: holds 'a cat', which exclude_words"),
        ({"prefix": "a photo of a cat"}, "prefix: has 5 words, and max_caption_length is 4"),
        ({"include": ("a", "cat", "dog", "of", "black")}, "include: needs 5 words, and max_caption_length is 4"),
        ({"prefix": "a photo of", "include": ("black cat",)}, "include: needs 2 words behind the prefix"),
        ({"prefix": "a cat a cat", "no_repeat_ngram": 2}, "prefix: repeats a sequence of 2 words"),
    ],
)
def test_what_no_caption_can_hold_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        constraints_of(ENGLISH, Config(max_caption_length=4, **asked))


@pytest.mark.parametrize(
    "asked",
    [
        {"include": ("black cat|dog",), "exclude_words": ("cat",)},
        {"prefix": "a photo of a"},
        {"prefix": "a photo", "include": ("photo of", "of cat")},
        {"include": ("a", "a cat", "cat", "black|dog", "dog|cat")},
        {"include": ("A man's",)},
        {"prefix": "a cat，a dog"},
        {"prefix": "a cat a dog", "no_repeat_ngram": 2},
    ],
)
def test_what_a_caption_can_hold_is_not_refused(asked):
    constraints_of(ENGLISH, Config(max_caption_length=4, **asked))


def test_excluded_words_that_are_unknown_are_named_and_need_no_rule(capsys):
    settings = Config(exclude_words=("dgo", "black xyzzy", "dog"))
    check_constraints(ENGLISH, settings)
    assert capsys.readouterr().err == (
        "note: exclude_words: no caption has 'dgo' (did you mean dog?) anyway\n"
        "note: exclude_words: no caption has 'xyzzy' anyway\n"
    )
    alone = constraints_of(ENGLISH, Config(exclude_words=("dog",))).forbidden
    for one, other in zip(constraints_of(ENGLISH, settings).forbidden, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_names_of_hugging_face_take_the_place_of_settings():
    settings = Config(prefix="a", include=("dog",), exclude_words=("man",))
    assert asking(settings, None, None, None) is settings
    found = asking(settings, "", ["black cat", ["cat", "cats"]], [])
    assert (found.prefix, found.include, found.exclude_words) == ("", ("black cat", "cat|cats"), ())
    found = asking(settings, None, "black cat", "cat")
    assert (found.include, found.exclude_words) == (("black cat",), ("cat",)), "a text alone is one phrase, not letters"
