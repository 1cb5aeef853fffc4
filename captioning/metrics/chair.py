"""CHAIR: how often captions name objects that are not there (Rohrbach et al., 2018, https://arxiv.org/abs/1809.02156).

Objects are the 80 classes of MS-COCO. ``coco_objects.json`` lists the words that name each one, as the authors
published them. An object is there when a reference of the image names its class. The paper also counts objects that
COCO's annotations outline in the picture. Where these annotations are at hand, so do we (``data.coco_instances``).
Without them figures are above those of the paper for the same captions.

* CHAIRs: the share of captions with at least one object that is not there.
* CHAIRi: the share of all mentions of objects that are of objects that are not there.
* Recall of objects, which is not in the paper: of all objects that are there, the share that captions name.

The list has known faults, which we keep so that figures stay comparable. The colour "orange" counts as the fruit, any
"bike" as a bicycle and any "seat" as a chair.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from captioning.metrics.references import Caption, words

_OBJECTS = Path(__file__).parent / "coco_objects.json"
_NOTHING = ""  # the class of a phrase that names no object, such as "train track"
_IRREGULAR = {"man": "men", "child": "children", "goose": "geese", "mouse": "mice", "ox": "oxen", "calf": "calves"}
_IRREGULAR |= {"knife": "knives", "thief": "thieves", "buffalo": "buffaloes"}


class Mentions(NamedTuple):
    """The classes that a caption names, in order, with repetitions."""

    all: list[str]
    absent: list[str]  # those that are not there


class Chair(NamedTuple):
    """Both figures, from 0 to 1. ``instance`` is None when no caption names an object."""

    sentence: float
    instance: float | None


class Phrases:
    """Words and phrases that name something."""

    def __init__(self, names: Mapping[str, str]):
        """``names``: what each word or phrase names."""
        self.names = names
        self._longest = max(name.count(" ") + 1 for name in names)

    def find(self, tokens: Sequence[str]) -> list[tuple[str, str]]:
        """The words and phrases among ``tokens``, in order, each with what it names.

        The longest phrase counts: a hot dog is no dog.
        """
        found, start = [], 0
        while start < len(tokens):
            sizes = range(min(self._longest, len(tokens) - start), 0, -1)
            phrases = (" ".join(tokens[start : start + size]) for size in sizes)
            phrase = next((phrase for phrase in phrases if phrase in self.names), "")
            if phrase:
                found.append((phrase, self.names[phrase]))
            start += phrase.count(" ") + 1
        return found


def objects(caption: Caption) -> list[str]:
    """The classes of the objects that ``caption`` names, in order, with repetitions.

    >>> objects("Two men sit on a bench with hot dogs .")
    ['person', 'bench', 'hot dog']
    """
    found = _phrases().find(words(caption))
    if any(kind == "toilet" for _, kind in found):  # its seat is no chair
        found = [(phrase, kind) for phrase, kind in found if phrase not in ("seat", "seats")]
    return [kind for _, kind in found if kind != _NOTHING]


def mentions(
    predictions: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    outlined: Sequence[Collection[str]] | None = None,
) -> list[Mentions]:
    """What each caption names. ``references[i]`` are all references of the image of ``predictions[i]``.

    ``outlined[i]``: the classes of the objects that are known to be in that image, whatever the references name.
    """
    found = []
    for i, (prediction, group) in enumerate(zip(predictions, references, strict=True)):
        named = objects(prediction)
        there = _there(group, outlined[i] if outlined else ()) if named else set()
        found.append(Mentions(named, [kind for kind in named if kind not in there]))
    return found


def object_recall(
    captions: Sequence[Sequence[Caption]],
    references: Sequence[Sequence[Caption]],
    outlined: Sequence[Collection[str]] | None = None,
) -> float | None:
    """Of all classes that are there, the share that a caption of the image names. None if nothing is there.

    ``captions[i]``: all captions of image i, which count together. The other arguments: see ``mentions``.
    """
    hits = total = 0
    for i, (said, group) in enumerate(zip(captions, references, strict=True)):
        there = _there(group, outlined[i] if outlined else ())
        hits += len(there & {kind for caption in said for kind in objects(caption)})
        total += len(there)
    return hits / total if total else None


def _there(references: Sequence[Caption], outlined: Collection[str]) -> set[str]:
    return {kind for reference in references for kind in objects(reference)} | set(outlined)


def chair(found: Sequence[Mentions]) -> Chair:
    """Both figures of the captions whose mentions are ``found``."""
    total = sum(len(each.all) for each in found)
    absent = sum(len(each.absent) for each in found)
    return Chair(sum(bool(each.absent) for each in found) / len(found), absent / total if total else None)


@cache
def _phrases() -> Phrases:
    return Phrases(class_names())


def class_names() -> dict[str, str]:
    """The class of each word or phrase, singular and plural. Phrases without an object have the class ``""``."""
    listed = json.loads(_OBJECTS.read_text(encoding="utf-8"))
    pairs = [(name, kind) for kind, names in listed["classes"].items() for name in names]
    names: dict[str, str] = {}
    for name, kind in (*pairs, *listed["phrases"].items()):
        names |= dict.fromkeys((name, *plurals(name)), kind)
    return names


def plurals(name: str) -> Iterable[str]:
    """The plurals of a noun or phrase. A form that nobody uses does no harm."""
    for singular, plural in _IRREGULAR.items():
        if name.endswith(singular):
            yield name.removesuffix(singular) + plural
    if name.endswith(("s", "x", "z", "ch", "sh")):
        yield name + "es"
    elif name.endswith("y") and name[-2] not in "aeiou":
        yield name[:-1] + "ies"
    else:
        yield name + "s"
