"""Statistics of what bad models do, counted by hand."""

from dataclasses import asdict

import numpy as np

from captioning.metrics.diagnostics import LengthGroup, by_reference_length, diagnose


def test_statistics():
    captions = ["a man on a horse", "a dog", "a man on a horse", "a a dog runs over the", ""]
    found = diagnose(captions)
    assert asdict(found) == {
        "captions": 5,
        "distinct": 4 / 5,
        "mean_length": (5 + 2 + 5 + 6 + 0) / 5,
        "vocabulary": 8,
        "dangling": 2 / 5,
        "repeats": 1 / 5,
        "repeated_bigrams": 0,
        "repeated_trigrams": 0,
        "most_common": 2 / 5,
        "novel": None,
        "chair_s": None,
        "chair_i": None,
        "object_recall": None,
        "outlined": None,
    }


def test_statistics_expose_a_model_that_always_says_the_same():
    found = diagnose(["a man in a red shirt is standing on a"] * 50)
    assert found.distinct == 0.02
    assert found.most_common == found.dangling == 1.0


def test_statistics_expose_loops():
    found = diagnose(["a dog and a dog", "in the snow in the snow", "a b a c a d", "a dog runs"])
    assert found.repeated_bigrams == 2 / 4
    assert found.repeated_trigrams == 1 / 4
    assert found.repeats == 0


def test_novel_captions_are_those_not_in_training_whatever_their_punctuation():
    captions = ["a dog runs", "a dog runs fast", "two cats"]
    assert diagnose(captions, training=["A dog runs .", "Two dogs"]).novel == 2 / 3
    assert diagnose(captions).novel is None


def test_objects_that_no_reference_names_are_told_where_there_are_references():
    found = diagnose(["a dog on a bench", "a cat", "grass"], references=[["a puppy runs"], ["kittens"], ["a lawn"]])
    assert (found.chair_s, found.chair_i) == (1 / 3, 1 / 3)
    assert diagnose(["grass"], references=[["a lawn"]]).chair_i is None


def test_scores_by_reference_length():
    references = [["a b c d e f"], ["a", "a b c"], ["a b c d"], ["a b"]]
    groups = by_reference_length(np.array([1.0, 2, 3, 4]), ["a b", "a", "a", "a b c"], references, groups=2)
    assert groups == [
        LengthGroup(images=2, reference_length=2, caption_length=2, score=3),
        LengthGroup(images=2, reference_length=5, caption_length=1.5, score=2),
    ]
