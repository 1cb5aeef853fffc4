"""Towers and a captioner that know colours only, for tests of searches. Photos here have one colour."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from captioning.pictures.loading import UnreadableImage, load_image
from captioning.words.vocabulary import Vocabulary

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


class ColourTowers:
    """A photo's vector is its average colour, and so is that of a word.

    ``hold``: called with the number of each batch before it is embedded.
    """

    fingerprint = "colours"
    vocabulary = Vocabulary(["a", *COLOURS, "ball"])
    config = SimpleNamespace(joint_size=3, workers=1)

    def __init__(self, hold=lambda number: None):
        self.hold = hold
        self.asked: list[str] = []

    def embed_texts(self, texts):
        return np.stack(
            [unit(sum(np.asarray(COLOURS.get(word, (1, 1, 1))) for word in text.split())) for text in texts]
        )

    def embed_files(self, names, paths, batch_size, workers):
        for number, start in enumerate(range(0, len(names), batch_size)):
            self.hold(number)
            batch, vectors, reasons = names[start : start + batch_size], [], {}
            self.asked += batch
            for name in batch:
                try:
                    vectors.append(unit(load_image(paths[name], 8).mean((0, 1))))
                except UnreadableImage as error:
                    reasons[name] = error
            yield batch, np.asarray(vectors, "float32").reshape(-1, 3), reasons


class ColourCaptioner:
    """Says which colour a picture has most of."""

    def __init__(self):
        self.seen = 0

    def encode(self, pixels):
        return pixels.mean((1, 2))

    def caption(self, features, config):
        self.seen += 1
        said = [f"a {list(COLOURS)[int(row.argmax())]} ball" for row in features]
        return [
            [SimpleNamespace(text=text, log_prob=-1.0, score=-1.0, confidence=None)] * config.beam_size for text in said
        ]


def unit(vector) -> np.ndarray:
    return np.asarray(vector, "float32") / np.linalg.norm(vector)


def paint(path: Path, colour: str, size=(60, 40), **options) -> None:
    """Save a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
