"""Albums of grey pictures, and a captioner that says how bright each one is."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from captioning.albums.captions import caption_album, list_pictures
from config import Config

CONFIG = Config(image_size=32, extract_batch_size=4, workers=2)
SETTINGS = {"folder": "here", "models": ["0" * 20], "beam_size": 3}


class FakeCaptioner:
    """Says how bright a picture is; remembers what it was given."""

    lanes = 1

    def __init__(self, pause: float = 0.0):
        self.pause, self.shapes = pause, []

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.shapes.append(pixels.shape)
        time.sleep(self.pause)
        return pixels.mean(axis=(1, 2, 3))

    def caption(self, features: np.ndarray, config: Config, names=None) -> list[list]:
        def found(text, score):
            return SimpleNamespace(text=text, log_prob=2 * score, score=score, confidence=None)

        return [[found(f"brightness {value:.0f}", -1.0), found("a dog", -2.0)] for value in features]


class Killed(BaseException):
    """Ends a run like a signal would."""


def make_pictures(folder: Path, count: int, first: int = 0, suffix: str = "png") -> Path:
    """Grey pictures ``0.png``, ``1.png``, ... as bright as their number, every fifth in a folder of its own."""
    for i in range(first, first + count):
        path = folder / (f"deep {i}" if i % 5 == 0 else "") / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), (i, i, i)).save(path)
    return folder


def break_picture(folder: Path, name: str) -> None:
    (folder / name).write_text("no picture")


def caption(folder: Path, output: Path, captioner=None, settings=SETTINGS, config=CONFIG, names=None, **options) -> int:
    return caption_album(
        folder, names or list_pictures(folder), output, settings, captioner or FakeCaptioner(), config, **options
    )


def wanted(folder: Path) -> dict[str, str]:
    return {name: f"brightness {Path(name).stem}" for name in list_pictures(folder)}
