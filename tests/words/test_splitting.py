"""Captions of many scripts become words, characters, and captions again."""
# ruff: noqa: RUF001  signs of many scripts

import doctest
from typing import get_args
from unicodedata import normalize

import pytest

from captioning.base.errors import UserError
from captioning.words import splitting
from captioning.words.constraints import constraints_of
from captioning.words.sides import names_sides
from captioning.words.splitting import CHARACTERS, SPLITTINGS, TREEBANK, UNICODE, share_in_one_piece
from captioning.words.tokenizer import tokenize
from captioning.words.vocabulary import Vocabulary
from config import CaptionSettings, Config

# A caption, its words by Unicode, and what these words are joined to.
CAPTIONS = [
    ("Two dogs run on the man's lawn.", "two|dogs|run|on|the|man's|lawn", "two dogs run on the man's lawn"),
    ("The man’s 3.5 m t-shirt (red)", "the|man's|3.5|m|t|shirt|red", "the man's 3.5 m t shirt red"),
    ("一只狗，穿红色T恤。", "一|只|狗|穿|红|色|t|恤", "一只狗穿红色t恤"),
    ("「犬」がドッグ・ランで走る！", "犬|が|ドッグ|ラン|で|走|る", "犬がドッグ ランで走る"),
    ("लाल गेंद, नीले घन के बाईं ओर है।", "लाल|गेंद|नीले|घन|के|बाईं|ओर|है", "लाल गेंद नीले घन के बाईं ओर है"),
    ("قط أحمر، وكلب؟", "قط|أحمر|وكلب", "قط أحمر وكلب"),
    ("¿Un «perro» ROJO?", "un|perro|rojo", "un perro rojo"),
    ("개가 달린다.", "개가|달린다", "개가 달린다"),
    ("หมา วิ่ง", "ห|ม|า|วิ่|ง", "หมาวิ่ง"),
    ("می‌رود\u200f .", "می‌رود", "می‌رود"),
    ("👩‍👩‍👧 dog 🇩🇪🇫🇷", "👩‍👩‍👧|dog|🇩🇪|🇫🇷", "👩‍👩‍👧 dog 🇩🇪 🇫🇷"),
    ("Bir KIZ İstanbul’da", "bir|kiz|i̇stanbul'da", "bir kiz i̇stanbul'da"),
    ("。 , ...", "", ""),
]


@pytest.mark.parametrize(("caption", "words", "joined"), CAPTIONS)
def test_words_by_unicode_and_captions_of_them(caption, words, joined):
    assert UNICODE.split(caption) == [word for word in words.split("|") if word]
    assert UNICODE.join(UNICODE.split(caption)) == joined


@pytest.mark.parametrize("way", SPLITTINGS.values(), ids=SPLITTINGS)
@pytest.mark.parametrize("caption", [caption for caption, _, _ in CAPTIONS])
def test_joined_words_are_split_into_the_same_words(caption, way):
    """Also where the caption came in Unicode's other normal form."""
    words = way.split(caption)
    assert way.split(way.join(words)) == words
    assert way.split(normalize("NFD", caption)) == words
    assert not {"<unk>", "<end>"} & set(way.split(f"{caption} <unk> <end>"))


def test_characters_are_those_that_a_reader_sees():
    assert CHARACTERS.split("A dog, 红色。") == ["a", " ", "d", "o", "g", "红", "色"]
    assert CHARACTERS.split("नीला है।") == ["नी", "ला", " ", "है"]
    assert CHARACTERS.join([" ", "a", " ", " ", "b", "红"]) == "a b红"


def test_treebank_leaves_out_the_punctuation_of_other_scripts():
    assert tokenize("लाल गेंद है।") == ["लाल", "गेंद", "है"]
    assert tokenize("红狗，黑猫。") == ["红狗", "黑猫"]
    assert tokenize("قط أحمر، وكلب؟") == ["قط", "أحمر", "وكلب"]
    assert tokenize("“It’s” – 5 € … café") == ["“it’s”", "–", "5", "€", "…", "café"], "as ever"


def test_the_setting_offers_these_ways_and_treebank_unless_told():
    field = CaptionSettings.model_fields["words"]
    assert get_args(field.annotation) == tuple(SPLITTINGS)
    assert SPLITTINGS[field.default] is TREEBANK


def test_characters_have_no_wordpieces():
    with pytest.raises(ValueError, match="words: characters have no parts"):
        CaptionSettings(words="characters", vocabulary="wordpieces")


def test_sentences_in_one_piece_are_noticed():
    assert share_in_one_piece(["一只红色的狗在草地上奔跑。", "สุนัขสีน้ำตาลกำลังวิ่งเล่นบนสนามหญ้า", "a dog", "开 心"]) == 0.5
    assert share_in_one_piece(["一只 红色 的 狗 在 草地 上 奔跑", "สุนัข วิ่ง"]) == 0
    assert share_in_one_piece([]) == 0


@pytest.mark.parametrize(
    ("caption", "treebank", "others"),
    [
        ("a dog on the Left", True, True),
        ("a left-hand glove", True, True),
        ("links on a golf course", False, True),
        ("ein Hund links im Bild", False, True),
        ("球在左边", True, True),
        ("गेंद घन के बाईं ओर है", True, True),
        ("गेंद घन के दाएँ है", True, True),
        ("собака слева", True, True),
        ("un perro rojo", False, False),
        ("一只狗", False, False),
    ],
)
def test_captions_that_say_left_or_right(caption, treebank, others):
    assert [names_sides(caption, way) for way in (TREEBANK, UNICODE, CHARACTERS)] == [treebank, others, others]


def test_words_that_captions_must_hold_are_split_like_captions():
    vocabulary = Vocabulary([*"一只红色的狗猫"], splitting=UNICODE)
    asked = constraints_of(vocabulary, Config(prefix="一只", include=("红色",), exclude_words=("黑猫", "猫")))
    (required,) = asked.required

    def missing(caption: str) -> int:
        state = 0
        for token in vocabulary.encode(caption, 9)[1:-1]:
            state = required.follow[state, required.kinds[token]]
        return int(required.missing[state])

    assert vocabulary.decode(asked.prefix) == "一只"
    assert (missing("一只红色的狗"), missing("一只红"), missing("一只色红")) == (0, 1, 1)
    with pytest.raises(UserError, match="include: this captioner does not know '黑'"):
        constraints_of(vocabulary, Config(include=("黑猫",)))


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(splitting) == (0, 3)
