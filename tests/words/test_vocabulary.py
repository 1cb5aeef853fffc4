"""The ids of words: which words have one, that they are stable, and how ids become text again."""

import random

import numpy as np
import pytest

from captioning.base.errors import UserError
from captioning.words.splitting import TREEBANK, UNICODE
from captioning.words.vocabulary import END, PAD, START, UNK, Vocabulary

CAPTIONS = ["A dog runs .", "A dog sits .", "The man's dog", "A cat"]


def test_words_follow_the_special_ones_by_frequency_then_spelling():
    found = Vocabulary.fit(CAPTIONS, 1)
    assert found.words == ["<pad>", "<start>", "<end>", "<unk>", "a", "dog", "'s", "cat", "man", "runs", "sits", "the"]
    assert len(found) == 12
    assert (PAD, START, END, UNK) == (0, 1, 2, 3)


def test_threshold_counts_occurrences():
    assert Vocabulary.fit(CAPTIONS, 2).words[4:] == ["a", "dog"]
    assert Vocabulary.fit(["dog dog dog"], 3).words[4:] == ["dog"]  # occurrences, not captions


def test_order_of_captions_changes_no_id():
    captions = [f"word{i % 17} word{i % 5} word{i}" for i in range(60)]
    first = Vocabulary.fit(captions, 1).to_json()
    for seed in range(3):
        random.Random(seed).shuffle(captions)
        assert Vocabulary.fit(captions, 1).to_json() == first


def test_threshold_that_leaves_no_word_is_named():
    with pytest.raises(UserError, match="vocab_threshold"):
        Vocabulary.fit(CAPTIONS, 9)
    with pytest.raises(UserError, match="vocab_threshold"):
        Vocabulary.fit([], 1)


def test_encode():
    words = Vocabulary.fit(CAPTIONS, 1)
    ids = words.encode("The dog's zebra runs!", 10)
    assert ids.dtype == np.int32
    assert [words.words[i] for i in ids] == ["<start>", "the", "dog", "'s", "<unk>", "runs", "<end>"]


PIECES = ["[PAD]", "[UNK]", "a", "snow", "##board", "##er", "##s", "'", "skate", "##ing", "k", "##k"]


def test_words_are_put_together_of_wordpieces():
    captions = ["A snowboarder snowboards .", "a skater's skateboard", "a kkk"]
    found = Vocabulary.fit(captions, 1, PIECES)
    # "skater" begins with a piece, but "##r" is not one. Pieces that no word needs are left out.
    assert found.words[4:] == ["##board", "a", "##k", "##s", "snow", "##er", "'", "k", "skate"]
    ids = found.encode("a snowboarder's zebra skates", 30)
    assert [found.words[i] for i in ids] == [
        *("<start>", "a", "snow", "##board", "##er", "'", "##s", "<unk>", "skate", "##s", "<end>"),
    ]
    assert found.lengths("a snowboarder's zebra skates") == [1, 3, 2, 1, 2]
    assert found.encode("a snowboarder", 2).tolist() == ids[:3].tolist(), (
        "what is kept of a caption is counted in pieces"
    )
    assert [found.knows(word) for word in ("snowskates", "kkkk", "skateboarding")] == [False, True, False]


def test_wordpieces_are_spelled_as_words():
    found = Vocabulary.fit(["snowboarder's skateboards a"], 1, PIECES)
    assert found.decode(found.encode("a snowboarder's skateboards", 30)) == "a snowboarder's skateboards"
    assert found.spell(found.encode("a snowboarder's skate", 30)) == ["a", "snowboarder", "'s", "skate"]
    # A decoder may begin a caption with a piece from the middle of a word.
    number = {word: i for i, word in enumerate(found.words)}
    assert found.decode([number["##board"], number["##er"], number["a"]]) == "boarder a"
    again = Vocabulary.from_json(found.to_json(), "here")
    assert (again.words, again.wordpieces) == (found.words, True)
    assert "wordpieces" not in Vocabulary.fit(CAPTIONS, 1).to_json()


def test_a_threshold_counts_wordpieces():
    assert Vocabulary.fit(["a skateboard", "snowboards"], 2, PIECES).words[4:] == ["##board"]


def test_a_caption_that_is_cut_gets_no_end():
    words = Vocabulary.fit(CAPTIONS, 1)
    assert words.encode("a dog runs", 3).tolist()[-1] == END  # as long as allowed, so not cut
    cut = words.encode("a dog runs", 2)
    assert [words.words[i] for i in cut] == ["<start>", "a", "dog"]


def test_an_empty_caption_is_start_and_end():
    assert Vocabulary.fit(CAPTIONS, 1).encode("...", 5).tolist() == [START, END]


@pytest.mark.parametrize("caption", ["a dog runs", "the man's dog", "a cat sits"])
def test_decode_turns_encode_round(caption):
    words = Vocabulary.fit(CAPTIONS, 1)
    assert words.decode(words.encode(caption, 10)) == caption


def test_decode_stops_at_end_and_leaves_out_padding():
    words = Vocabulary(["dog", "cat"])
    assert words.decode(np.array([START, 4, PAD, END, 5, PAD])) == "dog"
    assert words.decode([4, 5, PAD, PAD]) == "dog cat"
    assert words.decode([]) == ""


def test_json_round_trip():
    words = Vocabulary.fit([*CAPTIONS, "ein Café"], 1)
    again = Vocabulary.from_json(words.to_json(), "vocabulary.json")
    assert again.words == words.words
    assert again.encode("a café", 9).tolist() == words.encode("a café", 9).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"words": 3}',
        '{"words": null}',
        '{"words": {"a": 1}}',
        '{"words": ["a", "dog"]}',
        '{"words": ["<pad>", "<start>", "<end>", "<unk>", "a", "a"]}',
        '{"words": ["<pad>", "<start>", "<end>", "<unk>", 5]}',
        '{"words": ["<pad>", "<start>", "<end>", "<unk>"]}',
    ],
)
def test_a_broken_file_is_named(text):
    with pytest.raises(UserError, match=r"^lost/vocabulary\.json: "):
        Vocabulary.from_json(text, "lost/vocabulary.json")


def test_an_extended_vocabulary_keeps_its_ids_and_adds_frequent_new_words():
    known = Vocabulary(["dog", "runs", "a"])
    longer = known.extended(["ein hund läuft", "ein hund", "a dog", "ein vogel"], threshold=2)
    assert longer.words == [*known.words, "ein", "hund"]
    assert known.extended(["a dog"], threshold=1).words == known.words
    pieces = Vocabulary(["snow"], wordpieces=True)
    longer = pieces.extended(["snowboard"], 1, wordpieces=["dog", "snow", "##board"])
    assert (longer.words[4:], longer.wordpieces) == (["snow", "##board"], True)


def test_coverage_counts_the_words_that_are_unknown():
    found = Vocabulary(["dog", "runs", "a"]).coverage(["A dog runs.", "a hund", "hund!"])
    assert (found.words, found.unknown, found.unknown_share) == (6, {"hund": 2}, 2 / 6)
    assert [found.longer_share(length) for length in (0, 1, 2, 3)] == [1, 2 / 3, 1 / 3, 0]
    assert Vocabulary(["a"]).coverage([]).unknown_share == 0
    assert Vocabulary(["snow", "##er"], wordpieces=True).coverage(["snower bird"]).unknown == {"bird": 1}
    assert Vocabulary(["snow", "##er"], wordpieces=True).coverage(["snower bird"]).lengths == {3: 1}


CHINESE = ["一只红色的狗。", "红色的球，一只猫"]


def test_a_vocabulary_splits_captions_in_its_own_way():
    found = Vocabulary.fit(CHINESE, 2, splitting=UNICODE)
    assert found.words[4:] == ["一", "只", "的", "红", "色"]
    assert found.decode(found.encode("一只红色的", 9)) == "一只红色的"
    assert found.coverage(["红猫"]).unknown == {"猫": 1}
    assert found.lengths("红狗") == [1, 1]
    again = Vocabulary.from_json(found.to_json(), "here")
    assert (again.words, again.splitting) == (found.words, UNICODE)
    assert found.extended(["猫猫"], 2).words[-1] == "猫"
    assert found.extended(["猫猫"], 2).splitting is UNICODE


def test_wordpieces_of_several_languages_follow_the_words_of_unicode():
    pieces = ["[PAD]", "红", "狗", "dog", "##gy", "ला", "##ल"]
    found = Vocabulary.fit(["红doggy狗。लाल है।"], 1, pieces, UNICODE)
    text = "红狗doggy लाल"
    assert [found.words[i] for i in found.encode(text, 9)] == [
        *("<start>", "红", "狗", "dog", "##gy", "ला", "##ल", "<end>"),
    ]
    assert found.decode(found.encode(text, 9)) == text
    assert Vocabulary.from_json(found.to_json(), "here").splitting is UNICODE


def test_files_of_earlier_releases_mean_treebank_and_unknown_ways_are_named():
    text = Vocabulary.fit(CAPTIONS, 1).to_json()
    assert "splitting" not in text
    assert Vocabulary.from_json(text, "here").splitting is TREEBANK
    with pytest.raises(UserError, match="here: splits captions by 'jieba', which this release does not know"):
        Vocabulary.from_json(text.replace('"words"', '"splitting": "jieba", "words"'), "here")
