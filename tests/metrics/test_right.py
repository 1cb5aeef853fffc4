"""When a caption is right, and what people reach."""

import numpy as np
import pytest

from captioning.metrics.cider import Cider
from captioning.metrics.right import cider_of_people, is_right

REFERENCES = [
    ["a brown dog runs", "a puppy runs on grass", "the dog is outside"],
    ["two men play football", "people play a game"],
    ["a red bus", "the bus stops here"],
]


def test_a_right_caption_names_nothing_that_is_absent_and_is_like_the_references():
    captions = ["a brown dog runs", "a man on a bench", "a red bus"]
    assert is_right(captions, REFERENCES, [80, 80, 30], bound=30).tolist() == [True, False, False]
    assert is_right(captions, REFERENCES, [80, 80, 30.1], bound=30).tolist() == [True, False, True]


def test_people_are_scored_against_the_other_captions_of_their_image():
    found = cider_of_people(REFERENCES)
    assert len(found) == 7
    # Two references: the first is scored against the second alone. Documents are still counted over all references.
    words = [[caption.split() for caption in group] for group in REFERENCES]
    (expected,) = Cider([[["the", "bus", "stops", "here"]]], corpus=words).score([0], [["a", "red", "bus"]])
    assert found[2] == pytest.approx(expected)
    assert 0 < found.min() < found.max() < 1000


def test_images_with_one_reference_say_nothing_about_people():
    assert len(cider_of_people([["a dog"], ["a cat"]])) == 0
    assert len(cider_of_people([["a dog"], ["a cat", "a kitten"]])) == 2
    assert np.isfinite(cider_of_people([["a dog"], ["a cat", "a kitten"]])).all()
