"""Objects in captions, and those that no reference names."""

import json
from collections import Counter

import pytest

from captioning.metrics import chair as module
from captioning.metrics.chair import Chair, Mentions, chair, mentions, object_recall, objects


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("A brown puppy chases a ball on the grass .", ["dog", "sports ball"]),
        ("two men and three women ride bikes past buses", ["person", "person", "bicycle", "bus"]),
        ("children feed geese, sheep and calves", ["person", "bird", "sheep", "cow"]),
        ("knives, wine glasses and doughnuts on tables", ["knife", "wine glass", "donut", "dining table"]),
        ("a lady holds two puppies", ["person", "dog"]),
        # Two words that name one thing.
        ("a hot dog beside a teddy bear", ["hot dog", "teddy bear"]),
        ("hot dogs and teddy bears", ["hot dog", "teddy bear"]),
        ("a dog in a hot car", ["dog", "car"]),
        ("fire hydrants under a traffic light", ["fire hydrant", "traffic light"]),
        ("a bow tie and a tie", ["tie", "tie"]),
        ("a stove top oven", ["oven"]),
        # Phrases that name something else than their words do.
        ("a baby elephant with an adult elephant", ["elephant", "elephant"]),
        ("a baby with an elephant", ["person", "elephant"]),
        ("a passenger train and a passenger jet", ["train", "airplane"]),
        ("cows on the train tracks", ["cow"]),
        ("a player at home plate", ["person"]),
        ("the toilet seat is up", ["toilet"]),
        ("a toilet with its seat up", ["toilet"]),
        ("a seat in a theatre", ["chair"]),
        ("grass and sky", []),
        ("", []),
    ],
)
def test_objects_of_a_caption(caption, named):
    assert objects(caption) == named


def test_an_object_is_absent_if_no_reference_names_its_class():
    captions = ["a man walks a dog and a cat", "a boy on a bench", "snow"]
    references = [["a person outside", "two puppies"], ["a girl sits down", "a child"], ["a bear"]]
    found = mentions(captions, references)
    assert found == [
        Mentions(["person", "dog", "cat"], ["cat"]),
        Mentions(["person", "bench"], ["bench"]),
        Mentions([], []),
    ]
    assert chair(found) == Chair(sentence=2 / 3, instance=2 / 5)


def test_an_object_that_is_outlined_is_there():
    """As in the paper, where a caption may name what COCO's annotations outline and no reference names."""
    captions, references, outlined = ["a cat on a bench", "a dog"], [["a cat"], ["a dog"]], [{"bench"}, set()]
    assert [found.absent for found in mentions(captions, references, outlined)] == [[], []]
    assert [found.absent for found in mentions(captions, references)] == [["bench"], []]


def test_recall_of_objects_counts_each_class_of_an_image_once():
    # There are person and dog; bench and cup; nothing. Named of these: person and dog; bench.
    captions = [["a man", "two dogs and a man"], ["a bench"], ["a cat"]]
    references = [["people with a dog", "a woman"], ["seat"], ["snow"]]
    outlined = [{"dog"}, {"bench", "cup"}, set()]
    assert object_recall(captions, references, outlined) == 3 / 5
    assert object_recall(captions[2:], references[2:]) is None


def test_a_caption_counts_once_and_each_mention_counts():
    found = mentions(["cats, cats and a cat with a dog"], [["a dog"]])
    assert chair(found) == Chair(sentence=1, instance=3 / 4)


def test_without_objects_nothing_can_be_said_about_them():
    assert chair(mentions(["grass"], [["grass"]])) == Chair(sentence=0, instance=None)


def test_captions_may_be_given_as_words():
    assert objects(["two", "hot", "dogs"]) == ["hot dog"]


def test_the_published_list_has_80_classes_and_no_word_in_two_of_them():
    classes = json.loads(module._OBJECTS.read_text(encoding="utf-8"))["classes"]
    assert len(classes) == 80
    assert max(Counter(name for names in classes.values() for name in names).values()) == 1
    assert all(kind in names for kind, names in classes.items())
