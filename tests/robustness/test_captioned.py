"""Pictures are made worse before they are encoded. Those that cannot be read are left out."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from captioning.base.progress import Progress
from captioning.data.records import ImageRecord
from captioning.pictures.corrupting import Corruption
from captioning.pictures.loading import UnreachableImage, load_image
from captioning.robustness.captioned import caption_pictures
from config import Config

SEARCH = Config(image_size=32, extract_batch_size=2, decode_batch_size=5)


class Viewer:
    """Stands for a captioner. A caption says the mean of the pixels; ``ensemble``: it has two members."""

    def __init__(self, ensemble: bool = False):
        self.ensemble, self.encoded, self.names = ensemble, [], []

    def encode(self, pixels):
        self.encoded.append(len(pixels))
        features = pixels.astype("float32").mean(axis=(1, 2))[:, None]
        return (features, features + 1) if self.ensemble else features

    def caption(self, features, search, names):
        assert search is SEARCH
        self.names.append(names)
        first = features[0] if self.ensemble else features
        assert not self.ensemble or np.array_equal(first + 1, features[1])
        return [[SimpleNamespace(text=f"{each.mean():.3f}")] for each in first]


@pytest.fixture
def records(tmp_path) -> list[ImageRecord]:
    """Six pictures, of which the third cannot be read."""
    found = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (40, 30), (40 * i, 10, 5)).save(path)
        found.append(ImageRecord(i, path.name, path, ("a picture",), "dev"))
    found[2].path.write_bytes(b"no picture")
    return found


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("corruption", [None, Corruption("noise", 5)])
def test_captions_are_those_of_the_corrupted_pictures(records, corruption, ensemble):
    captioner = Viewer(ensemble)
    found = caption_pictures(captioner, records, corruption, SEARCH, Progress("test", 6, bar=False))
    expected = {}
    for record in records[:2] + records[3:]:
        pixels = load_image(record.path, 32)
        pixels = corruption.apply(pixels, record.file_name) if corruption else pixels
        expected[record.file_name] = f"{pixels.astype('float32').mean():.3f}"
    assert {name: captions[0].text for name, captions in found.items()} == pytest.approx(expected)
    assert captioner.encoded == [2, 2, 2], "batches of four; nothing is encoded that only fills up"
    assert captioner.names == [["0.png", "1.png", "2.png", "3.png"], ["4.png", "5.png", "5.png", "5.png"]]


def test_a_file_that_cannot_be_opened_now_stops(records):
    records[4].path.unlink()
    with pytest.raises(UnreachableImage, match=r"4\.png"):
        caption_pictures(Viewer(), records, None, SEARCH, Progress("test", 6, bar=False))
