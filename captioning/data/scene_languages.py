"""Captions of the demo's scenes in Chinese and Hindi: how they are written, and what such a caption says.

English is in ``scenes.py``. A language writes five sentences for a scene and reads sentences back. So a generated
caption can be marked as right or wrong in each language.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from unicodedata import normalize

import numpy as np

from captioning.words.splitting import UNICODE

if TYPE_CHECKING:
    from captioning.data.scenes import Scene, Thing

T = TypeVar("T")

INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
# What a caption says: its (colour, kind) pairs, in order, and the relation of the first to the second. The relation is
# None where the caption states none, contradicts itself, or does not name two objects.
Said = tuple[list[tuple[str, str]], str | None]


class Language(NamedTuple):
    """``write`` gives five sentences of a scene, drawn with a generator. ``read`` says what a caption says."""

    write: "Callable[[Scene, np.random.Generator], list[str]]"
    read: Callable[[str], Said]


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of ``options``, each as probable as the others."""
    return options[int(rng.integers(len(options)))]


def five_of(
    patterns: Sequence[T], scene: "Scene", rng: np.random.Generator
) -> "Iterator[tuple[T, Thing, Thing, str, str]]":
    """Five of the ``patterns`` for sentences, each with two objects, their relation and its inverse.

    What the caller draws for a sentence comes before what is drawn for the next one.
    """
    for number in rng.choice(len(patterns), size=5, replace=False):
        things, relation = (scene.first, scene.second), scene.relation
        # Mostly the left or upper object comes first, as in reading. That makes captions easier to learn.
        if rng.random() < 0.2:
            things, relation = things[::-1], INVERSE[relation]
        yield patterns[number], *things, relation, INVERSE[relation]


def _five(
    scene: "Scene", rng: np.random.Generator, patterns: "Sequence[Callable[[Thing, Thing, str, str], str]]"
) -> list[str]:
    """Sentences of five of the ``patterns``, which get two objects, their relation and its inverse."""
    return [
        pattern(first, second, relation, inverse)
        for pattern, first, second, relation, inverse in five_of(patterns, scene, rng)
    ]


def _said(
    text: str, named: re.Pattern[str], statements: Sequence[re.Pattern[str]], meanings: Mapping[str, str]
) -> Said:
    """What ``text`` says.

    ``named`` finds an object with the groups "colour" and "kind". Each of ``statements`` finds a "subject", which is 0
    for the first object or 1 for the second, and where it is, "place". ``meanings`` has the English of all of these, by
    their beginnings.
    """

    def meant(word: str) -> str:
        return next(english for start, english in meanings.items() if word.startswith(start))

    things = [(meant(match["colour"]), meant(match["kind"])) for match in named.finditer(text)]
    if len(things) != 2:
        return things, None
    numbers = iter("01")
    text = named.sub(lambda match: next(numbers), text)
    found = [(match["subject"], meant(match["place"])) for each in statements for match in each.finditer(text)]
    stated = {place if subject == "0" else INVERSE[place] for subject, place in found}
    return things, stated.pop() if len(stated) == 1 else None


# --- Chinese ---------------------------------------------------------------------------------------------------------

_ZH = {
    "red": "红", "yellow": "黄", "green": "绿", "blue": "蓝",
    "ball": "球", "cube": "立方体", "ring": "圆环", "star": "星星",
    "small": "小", "large": "大",
    "wooden": "木地板", "tiled": "瓷砖", "carpeted": "地毯",
    "plain": "素色", "brick": "砖", "striped": "条纹",
}  # fmt: skip
_ZH_PLACES = {
    "left of": ("左边", "左侧"),
    "right of": ("右边", "右侧"),
    "above": ("上面", "上方"),
    "below": ("下面", "下方"),
}


def _write_chinese(scene: "Scene", rng: np.random.Generator) -> list[str]:
    def named(thing: "Thing") -> str:
        size = _ZH[thing.size] if rng.random() < 0.25 else ""
        return f"一个{_ZH[thing.colour]}色的{size}{_ZH[thing.kind]}"

    def place(relation: str) -> str:
        return pick(rng, _ZH_PLACES[relation])

    room = pick(rng, (f"{_ZH[scene.floor]}房间里", f"{_ZH[scene.wall]}墙前"))
    return _five(
        scene,
        rng,
        [
            lambda a, b, relation, inverse: f"{named(a)}在{named(b)}的{place(relation)}。",
            lambda a, b, relation, inverse: f"有{named(a)}在{named(b)}的{place(relation)}。",
            lambda a, b, relation, inverse: f"画面中，{named(a)}位于{named(b)}的{place(relation)}。",
            lambda a, b, relation, inverse: f"{room}，{named(a)}在{named(b)}的{place(relation)}。",
            lambda a, b, relation, inverse: f"{named(b)}的{place(relation)}有{named(a)}。",
            lambda a, b, relation, inverse: f"{named(a)}的{place(inverse)}是{named(b)}。",
            lambda a, b, relation, inverse: f"{place(relation)}是{named(a)}，{place(inverse)}是{named(b)}。",
        ],
    )


_ZH_MEANINGS = {word: english for english, word in _ZH.items()} | {
    words[0][0]: relation for relation, words in _ZH_PLACES.items()
}
_ZH_NAMED = re.compile("(?:一个)?(?P<colour>[红黄绿蓝])色?的?[小大]?的?(?P<kind>球|立方体|圆环|星星)")
_ZH_STATEMENTS = (
    re.compile("(?P<subject>[01])(?:在|位于)[01]的(?P<place>[左右上下])[边侧面方]"),
    re.compile("(?P<place>[左右上下])[边侧面方](?:有|是)(?P<subject>[01])"),
)


def _read_chinese(caption: str) -> Said:
    return _said("".join(UNICODE.split(caption)), _ZH_NAMED, _ZH_STATEMENTS, _ZH_MEANINGS)


# --- Hindi -----------------------------------------------------------------------------------------------------------

# Adjectives without their endings, but for the one that has none.
_HI = {
    "red": "लाल", "yellow": "पील", "green": "हर", "blue": "नील",
    "small": "छोट", "large": "बड़",
    "wooden": "लकड़ी के फ़र्श वाले कमरे में", "tiled": "टाइलों के फ़र्श वाले कमरे में", "carpeted": "क़ालीन वाले कमरे में",
    "plain": "सादी दीवार के सामने", "brick": "ईंटों की दीवार के सामने", "striped": "धारीदार दीवार के सामने",
}  # fmt: skip
# Each noun before a verb and before a postposition, and whether it is feminine.
_HI_KINDS = {
    "ball": ("गेंद", "गेंद", True),
    "cube": ("घन", "घन", False),
    "ring": ("छल्ला", "छल्ले", False),
    "star": ("तारा", "तारे", False),
}
_HI_PLACES = {
    "left of": ("बाईं ओर", "बाएँ"),
    "right of": ("दाईं ओर", "दाएँ"),
    "above": ("ऊपर",),
    "below": ("नीचे",),
}


def _write_hindi(scene: "Scene", rng: np.random.Generator) -> list[str]:
    def named(thing: "Thing", oblique: bool = False) -> str:
        direct, indirect, feminine = _HI_KINDS[thing.kind]
        ending = "ी" if feminine else "े" if oblique else "ा"
        size = [_HI[thing.size] + ending] if rng.random() < 0.25 else []
        colour = _HI[thing.colour] + ("" if thing.colour == "red" else ending)
        return " ".join(["एक", *size, colour, indirect if oblique else direct])

    def by(thing: "Thing", relation: str) -> str:
        return f"{named(thing, oblique=True)} के {pick(rng, _HI_PLACES[relation])}"

    def verb(thing: "Thing", stem: str) -> str:
        return stem + ("ी" if _HI_KINDS[thing.kind][2] else "ा")

    room = pick(rng, (_HI[scene.floor], _HI[scene.wall]))
    return _five(
        scene,
        rng,
        [
            lambda a, b, relation, inverse: f"{named(a)} {by(b, relation)} है।",
            lambda a, b, relation, inverse: f"तस्वीर में {named(a)} {by(b, relation)} {verb(a, 'रख')} है।",
            lambda a, b, relation, inverse: f"{room}, {named(a)} {by(b, relation)} है।",
            lambda a, b, relation, inverse: f"{by(b, relation)} {named(a)} है।",
            lambda a, b, relation, inverse: f"{by(a, inverse)} {named(b)} {verb(b, 'दिखत')} है।",
            lambda a, b, relation, inverse: f"{room} {by(b, relation)} {named(a)} है।",
            lambda a, b, relation, inverse: (
                f"{_HI_PLACES[relation][0]} {named(a)} और {_HI_PLACES[inverse][0]} {named(b)} है।"
            ),
        ],
    )


_HI_MEANINGS = {_HI[colour]: colour for colour in ("red", "yellow", "green", "blue")}
_HI_MEANINGS |= {nouns[0].removesuffix("ा"): kind for kind, nouns in _HI_KINDS.items()}
_HI_MEANINGS |= {word: relation for relation, words in _HI_PLACES.items() for word in words}
_HI_NAMED = re.compile(
    normalize(
        "NFC",
        r"(?<!\S)(?:एक )?(?:(?:छोट|बड़)[ाीे] )?(?P<colour>लाल|(?:पील|हर|नील)[ाीे]) (?P<kind>गेंद|घन|छल्ल[ाे]|तार[ाे])(?!\S)",
    )
)
_HI_PLACE = f"(?P<place>{'|'.join(word for words in _HI_PLACES.values() for word in words)})"
_HI_STATEMENTS = (
    re.compile(f"(?P<subject>[01]) [01] के {_HI_PLACE}"),
    re.compile(f"{_HI_PLACE} (?P<subject>[01])"),
)


def _read_hindi(caption: str) -> Said:
    return _said(" ".join(UNICODE.split(caption)), _HI_NAMED, _HI_STATEMENTS, _HI_MEANINGS)


# By the names that the setting ``demo_language`` has, but for English.
LANGUAGES = {
    "chinese": Language(_write_chinese, _read_chinese),
    "hindi": Language(_write_hindi, _read_hindi),
}
