"""A small captioner with random weights, for tests of the captioner and of its bundle."""

from functools import partial
from pathlib import Path

import numpy as np
from helpers import random_captioner, save_encoder

from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner

WORDS = Vocabulary([f"word{i}" for i in range(20)])
SIZES = {"image_size": 32, "embedding_size": 8, "hidden_size": 8, "max_caption_length": 6, "feature_grid": 2}

captioner = partial(random_captioner, vocabulary=WORDS)


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3)).astype("uint8")


def save_captioner(folder: Path) -> tuple[Captioner, Path]:
    """A captioner whose encoder is a saved Keras model, and its bundle in ``folder``. The file of the model is gone."""
    made = captioner(Config(encoder=save_encoder(folder / "mine.keras"), **SIZES))
    made.save(folder / "captioner.zip")
    (folder / "mine.keras").unlink()
    return made, folder / "captioner.zip"
