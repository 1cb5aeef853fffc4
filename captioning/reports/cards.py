"""The pictures of a report, each with its captions. They are small enough to be part of the page. No Keras."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioning.data.records import ImageRecord
from captioning.pictures.loading import UnreadableImage
from captioning.reports.figures import read_picture

MAX_IMAGES = 1000  # cards on a page
THUMBNAIL = 160  # pixels of the longer side
EXAMPLES = 6  # so many best, median and worst pictures come before all others


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG. ``source``: a data URI that holds it."""

    source: str
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class ScoredCaption:
    """A caption of one decoding, and its CIDEr."""

    decoding: str
    text: str
    cider: float


@dataclass(frozen=True)
class Card:
    """One image with the caption of each decoding, and what people wrote."""

    file_name: str
    picture: Thumbnail | None  # None if the file can no longer be read
    captions: list[ScoredCaption]
    references: Sequence[str]


@dataclass(frozen=True)
class Group:
    """Some cards under a title."""

    title: str
    cards: list[Card]


def make_cards(
    decodings: Sequence[str],
    predictions: Sequence[tuple[Sequence[str], np.ndarray]],
    records: Sequence[ImageRecord],
    workers: int,
) -> list[Card]:
    """A card for each image, from the best to the worst CIDEr of the last decoding.

    ``predictions``: for each decoding the captions of N ``records``, and the CIDEr of each, float64 ``(N,)``. At most
    ``MAX_IMAGES`` images get cards. If there are more, the cards are evenly spaced in this order.
    """
    order = np.argsort(-predictions[-1][1], kind="stable")
    if len(order) > MAX_IMAGES:
        order = order[np.linspace(0, len(order) - 1, MAX_IMAGES).round().astype(int)]
    with ThreadPoolExecutor(workers) as pool:
        pictures = list(pool.map(lambda index: thumbnail(records[index].path), order))
    return [
        Card(
            records[index].file_name,
            picture,
            [
                ScoredCaption(decoding, captions[index], float(cider[index]))
                for decoding, (captions, cider) in zip(decodings, predictions, strict=True)
            ],
            records[index].captions,
        )
        for index, picture in zip(order.tolist(), pictures, strict=True)
    ]


def examples(cards: Sequence[Card]) -> list[Group]:
    """The best, the median and the worst of ``cards``, which are sorted from the best to the worst."""
    count = min(EXAMPLES, -(-len(cards) // 3))
    middle = (len(cards) - count) // 2
    return [
        Group("Best", [*cards[:count]]),
        Group("Median", [*cards[middle : middle + count]]),
        Group("Worst", [*cards[-count:]][::-1]),
    ]


def thumbnail(path: Path) -> Thumbnail | None:
    """The picture as a small JPEG, or None if it can no longer be read."""
    try:
        picture = read_picture(path, THUMBNAIL)
    except UnreadableImage:
        return None
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=60, optimize=True)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return Thumbnail(source, picture.width, picture.height)
