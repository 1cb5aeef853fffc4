"""BLEU against an independent implementation and against counting by hand; statistics of what models do wrong."""

import math
import warnings

import pytest

import metrics

PREDICTIONS = [
    "a brown dog runs through the grass",
    "two men are playing football on a field",
    "a little girl in a pink dress",
    "a man rides a wave on his surfboard .",
    "the the the the the",
]
REFERENCES = [
    (
        "A brown dog is running through the tall grass .",
        "The dog runs through the grass , its tongue out .",
        "Brown dog running",
    ),
    (
        "Two football players tackle each other on a field .",
        "Two men are playing a game of football .",
        "Men play football on a muddy field",
    ),
    (
        "A child in a pink dress is climbing up a set of stairs in an entry way .",
        "A girl going into a wooden building .",
        "A little girl climbing into a wooden playhouse .",
    ),
    ("A man is surfing .", "A surfer rides a big wave on the man's yellow surfboard !"),
    ("The cat sits on the mat .", "There is a cat on the mat"),
]
# From pycocoevalcap 1.2, Bleu(4).compute_score over the words of text.tokenize: the whole corpus, then each caption.
# It adds 1e-15 to every count of matches where we add nothing, so what has no match is a little above zero there.
CORPUS = [88.57142856889797, 76.84244858407605, 63.809453087670576, 47.744270898540556]
SINGLE = [
    [75.14772930752859, 75.14772930752859, 69.7609722450361, 59.76278945158731],
    [99.99999997500004, 92.58200995328305, 82.98265331423224, 58.143073680330794],
    [99.9999999714286, 91.28709289035893, 79.37005257359111, 59.46035573135037],
    [87.49999998906252, 61.23724356137805, 0, 0],
    [32.7492301100196, 0, 0, 0],
]


def test_bleu_equals_the_coco_evaluation():
    assert metrics.bleu(PREDICTIONS, REFERENCES) == pytest.approx(CORPUS, abs=1e-5)


@pytest.mark.parametrize("i", range(5))
def test_bleu_of_one_caption_equals_the_coco_evaluation(i):
    assert metrics.bleu(PREDICTIONS[i : i + 1], REFERENCES[i : i + 1]) == pytest.approx(SINGLE[i], abs=1e-5)


def test_coco_protocol_ignores_capitals_and_punctuation():
    predictions, references = ["a dog runs over the lawn"], [["A dog runs over the lawn ."]]
    assert metrics.bleu(predictions, references) == pytest.approx([100.0] * 4)
    assert metrics.bleu(["A dog runs over the lawn!"], references) == pytest.approx([100.0] * 4)


def test_corpus_bleu_counts_over_all_captions():
    """One long and one short caption: matches and lengths are summed before they are divided."""
    predictions, references = ["a b c d", "x y"], [["a b c d"], ["p q r s"]]
    brevity = math.exp(1 - 8 / 6)
    assert metrics.bleu(predictions, references)[:2] == pytest.approx(
        [100 * brevity * 4 / 6, 100 * brevity * math.sqrt(4 / 6 * 3 / 4)]
    )


def test_seed_protocol_by_hand():
    # startseq the dog runs through the grass endseq, against startseq The dog runs through the grass . endseq:
    # 7 of 8 words, 4 of 7 pairs, 3 of 6 triples and 2 of 5 fours match; the prediction is a word short.
    scores = metrics.bleu(["The dog runs, through the grass."], [["The dog runs through the grass ."]], "seed")
    brevity = math.exp(1 - 9 / 8)
    expected = [7 / 8, (7 / 8 * 4 / 7) ** 0.5, (7 / 8 * 4 / 7 * 3 / 6) ** 0.3, (7 / 8 * 4 / 7 * 3 / 6 * 2 / 5) ** 0.25]
    assert scores == pytest.approx([100 * brevity * score for score in expected])


def test_seed_protocol_gives_free_matches():
    """Captions without one word in common score, through the start and end tokens: why its figures stand alone."""
    assert metrics.bleu(["x y"], [["p q"]], "seed")[0] == pytest.approx(50.0)
    assert metrics.bleu(["x y"], [["p q"]], "coco")[0] == 0


@pytest.mark.parametrize(
    ("prediction", "zero_from"), [("cat", 1), ("x y z", 0), ("", 0), ("sat cat the", 1), (".", 0), ("the cat", 2)]
)
def test_what_has_no_match_scores_zero_in_silence(prediction, zero_from):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = metrics.bleu([prediction], [["the cat sat on the mat"]])
    assert all(score > 0 for score in scores[:zero_from])
    assert scores[zero_from:] == [0.0] * (4 - zero_from)


def test_statistics():
    captions = ["a man on a horse", "a dog", "a man on a horse", "a a dog runs over the", ""]
    found = metrics.statistics(captions)
    assert found == {
        "captions": 5,
        "distinct": 4 / 5,
        "mean_length": (5 + 2 + 5 + 6 + 0) / 5,
        "vocabulary": 8,
        "dangling": 2 / 5,
        "repeats": 1 / 5,
        "most_common": 2 / 5,
    }


def test_statistics_expose_a_model_that_always_says_the_same():
    found = metrics.statistics(["a man in a red shirt is standing on a"] * 50)
    assert found["distinct"] == 0.02
    assert found["most_common"] == found["dangling"] == 1.0
