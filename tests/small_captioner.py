"""A small captioner with random weights, for tests of the captioner and of its bundle."""

from functools import partial
from pathlib import Path

import keras
import numpy as np
from helpers import random_captioner
from keras import layers

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
    images = keras.Input((None, None, 3))
    scaled = layers.Rescaling(1 / 100, -1)(images)
    grid = layers.Conv2D(5, 8, strides=8, kernel_initializer=keras.initializers.RandomNormal(stddev=0.3, seed=1))(
        scaled
    )
    encoder = folder / "mine.keras"
    keras.Model(images, grid).save(encoder)
    made = captioner(Config(encoder=str(encoder), **SIZES))
    made.save(folder / "captioner.zip")
    encoder.unlink()
    return made, folder / "captioner.zip"
