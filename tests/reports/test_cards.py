"""The pictures of a report are small, and the examples come from both ends and the middle."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from captioning.data.records import ImageRecord
from captioning.reports.cards import EXAMPLES, examples, make_cards, thumbnail


@pytest.mark.parametrize(("size", "small"), [((160, 160), (160, 160)), ((640, 480), (160, 120))])
def test_pictures_are_small(tmp_path, size, small):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype("uint8")  # which compresses worst
    Image.fromarray(noise).save(tmp_path / "noise.png")
    found = thumbnail(tmp_path / "noise.png")
    data = base64.b64decode(found.source.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (found.width, found.height) == small
    assert len(found.source) < 16_000


def test_cards_stand_in_the_order_of_the_last_decoding(tmp_path):
    records = [ImageRecord(i, f"{i}.jpg", tmp_path / f"{i}.jpg", (f"a {i}",), "dev") for i in range(40)]
    cider = np.random.default_rng(0).permutation(40).astype(float)
    predictions = [(["x"] * 40, np.zeros(40)), ([f"y {i}" for i in range(40)], cider)]
    cards = make_cards(["greedy", "beam 3"], predictions, records, workers=2)
    assert [card.captions[1].cider for card in cards] == sorted(cider, reverse=True)
    assert cards[0].file_name == f"{cider.argmax()}.jpg"
    assert cards[0].captions[1].text == f"y {cider.argmax()}"
    assert cards[0].picture is None  # the files do not exist
    best, median, worst = examples(cards)
    assert best.cards == cards[:EXAMPLES]
    assert median.cards == cards[17 : 17 + EXAMPLES]
    assert worst.cards == cards[: -EXAMPLES - 1 : -1]
