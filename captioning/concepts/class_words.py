"""The words of captions for the 1,000 classes of ImageNet. No Keras; ``classes.py`` finds the classes in a picture.

class_words.json says which word people use for each class, as {"words": {word: [classes]}, "plurals": {word: plural},
"stand_ins": {word: known word}}. A class is the number of its place in ImageNet's order. Classes for which no word of
its own would do, such as "velvet", are left out. A stand-in is a word that most vocabularies know and that has the same
place in a sentence. A word that a vocabulary lacks starts as a copy of its stand-in.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from captioning.base.json_files import load_json
from captioning.words.vocabulary import Vocabulary

COUNT = 1000  # classes of ImageNet
_TABLE = Path(__file__).parent / "class_words.json"


class ClassWords(NamedTuple):
    """The contents of class_words.json."""

    classes: Mapping[str, Sequence[int]]  # the classes that each word names
    plurals: Mapping[str, str]
    stand_ins: Mapping[str, str]


@cache
def class_words() -> ClassWords:
    """Which word names which classes."""
    table = load_json(_TABLE, dict)
    return ClassWords(table["words"], table["plurals"], table["stand_ins"])


class ClassName(NamedTuple):
    """What a caption calls some classes."""

    ids: Sequence[int]  # its words in the vocabulary: singular and plural
    classes: Sequence[int]  # those of ImageNet
    new: bool  # the decoder has not learned these words from captions


def new_words(vocabulary: Vocabulary) -> dict[str, str]:
    """The words for classes that ``vocabulary`` lacks, each with its stand-in, which it has."""
    return {
        word: stand_in
        for word, stand_in in class_words().stand_ins.items()
        if not vocabulary.knows(word) and vocabulary.knows(stand_in)
    }


def known_names(vocabulary: Vocabulary, new: Collection[str] = ()) -> list[ClassName]:
    """The names that ``vocabulary`` knows. ``new``: its words that the decoder has not learned."""
    classes, plurals, _ = class_words()
    ids = {word: i for i, word in enumerate(vocabulary.words)}
    return [
        ClassName([ids[form] for form in (word, plurals.get(word)) if form in ids], numbers, word in new)
        for word, numbers in classes.items()
        if word in ids
    ]


def read_names(entries: Any, vocabulary: Vocabulary) -> list[ClassName]:
    """The names in concepts.json (see ``Concepts.save_in``). Raises ValueError, KeyError or TypeError: damaged."""
    ids = {word: i for i, word in enumerate(vocabulary.words)}
    names = [ClassName([ids[word] for word in e["words"]], [*map(int, e["classes"])], bool(e["new"])) for e in entries]
    every = [number for name in names for number in name.classes]
    if (
        len({*every}) < len(every)
        or not {*every} <= {*range(COUNT)}
        or not all(name.ids and name.classes for name in names)
    ):
        raise ValueError("their classes are not those of ImageNet")
    return names
