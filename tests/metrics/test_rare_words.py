"""Rare right words score more than common ones, and wrong ones nothing."""

import math

import pytest

from captioning.metrics.rare_words import RareWords

REFERENCES = [[["a", "dog"]], [["a", "cat"], ["dog"]], [["a", "zebra", "<end>"]]]


def test_the_mean_rarity_of_right_words():
    dog = 1 - math.log(2) / math.log(3)  # two of three images have it, one has a zebra, and all have "a"
    found = RareWords(REFERENCES).score(
        [0, 2, 2, 0, 0, 1],
        [["a", "dog"], ["a", "zebra"], ["zebra", "zebra"], ["cat", "new"], [], ["a", "cat", "dog", "dog"]],
    )
    assert found.tolist() == pytest.approx([100 * dog / 2, 50, 50, 0, 0, 100 * (1 + dog) / 4])


def test_a_longer_caption_gains_nothing_by_its_length():
    scorer = RareWords(REFERENCES)
    short, long = scorer.score([2, 2], [["zebra"], ["a", "zebra", "a", "a"]])
    assert short == 100 > long
