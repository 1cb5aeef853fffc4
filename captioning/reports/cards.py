"""The pictures of a report, each with its captions: small enough to live inside the page. No Keras."""

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
EXAMPLES = 6  # best, median and worst pictures that come before all others


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG as the address that holds it."""

    source: str
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class ScoredCaption:
    decoding: str
    text: str
    cider: float


@dataclass(frozen=True)
class Card:
    """One image with the caption of each decoding, and what people wrote."""

    file_name: str
    picture: Thumbnail | None  # None where the file cannot be read any more
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

    ``predictions``: for each decoding the captions of ``records``, and the CIDEr of each, float64 (N,). Of more than
    ``MAX_IMAGES`` images that many get cards, evenly spaced in this order.
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
    """The best, the median and the worst of ``cards``, which stand in this order."""
    count = min(EXAMPLES, -(-len(cards) // 3))
    middle = (len(cards) - count) // 2
    return [
        Group("Best", [*cards[:count]]),
        Group("Median", [*cards[middle : middle + count]]),
        Group("Worst", [*cards[-count:]][::-1]),
    ]


def thumbnail(path: Path) -> Thumbnail | None:
    """The picture as a small JPEG; None where it cannot be read any more."""
    try:
        picture = read_picture(path, THUMBNAIL)
    except UnreadableImage:
        return None
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=60, optimize=True)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return Thumbnail(source, picture.width, picture.height)
