"""Where a captioner of stored region features looked: maps with boxes, for the report. No Keras."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioning.data.records import ImageRecord
from captioning.features.region_store import RegionStore
from captioning.pictures.loading import UnreadableImage, measure
from captioning.reports.cards import Card, Thumbnail
from captioning.reports.figures import attention_boxes, read_picture
from captioning.reports.fonts import quiet_boxes

if TYPE_CHECKING:
    from model import Captioner

_SIDE = 320  # pixels of the longer side of a picture in a map


@dataclass(frozen=True)
class BoxMap:
    """One image with the boxes that a captioner looked at for each word of its caption."""

    file_name: str
    caption: str
    picture: Thumbnail


class BoxMaps:
    """Draws maps of the images in a ``store`` with boxes, as ``captioner`` looks at them."""

    def __init__(self, captioner: "Captioner", store: RegionStore, records: Sequence[ImageRecord]):
        self.captioner, self.store = captioner, store
        self.paths: Mapping[str, Path] = {record.file_name: record.path for record in records}

    def of_cards(self, cards: Sequence[Card]) -> list[BoxMap]:
        """The maps of ``cards`` with the caption of the last decoding. Images without boxes or pictures have none."""
        found = (self._draw(card.file_name, card.captions[-1].text) for card in cards if card.picture)
        return [each for each in found if each is not None]

    def _draw(self, name: str, caption: str) -> BoxMap | None:
        known, words = self.store.boxes(name), self.captioner.vocabulary.split(caption)
        if known is None or not words:
            return None
        boxes, size = known
        try:
            picture = read_picture(self.paths[name], _SIDE)
            size = size or _size_of(self.paths[name], picture.width > picture.height)
        except UnreadableImage:
            return None
        features = self.store.read(np.array([self.store.rows[name]]))
        [weights] = self.captioner.attend(features, [caption])
        data = io.BytesIO()
        with quiet_boxes():
            attention_boxes(picture, words, weights[:-1], boxes, size).savefig(data, format="png", dpi=80)
        source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        return BoxMap(name, caption, Thumbnail(source, picture.width, picture.height))


def _size_of(path: Path, is_wide: bool) -> tuple[int, int]:
    """Width and height of a picture as it is shown. ``is_wide``: whether it is wider than high, upright."""
    _, (width, height) = measure(path, _SIDE)
    return (width, height) if (width > height) == is_wide else (height, width)
