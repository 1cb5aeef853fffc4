"""What several tests call: folders, fake data and captioners with random weights. Needs no Keras when imported."""

import hashlib
import io
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.base.settings import choices
from captioning.embeddings.bert import SPARE
from config import DecoderSettings

ROOT = Path(__file__).parent.parent

OPTIONS = {"batch_size": 4, "workers": 2}
DECODERS = choices(DecoderSettings, "decoder")  # the names of all decoders


def fake_pixels(name: str) -> np.ndarray:
    """Random uint8 pixels ``(32, 32, 3)`` that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def fake_encoder(shape: tuple[int, int]):
    """An ``encode`` whose features ``(B, R, D)`` tell the first pixel values of each image, and are never zero."""
    return lambda pixels: (pixels.reshape(len(pixels), -1)[:, : shape[0] * shape[1]].reshape(-1, *shape) + 1.0) / 256


def save_encoder(path: Path) -> str:
    """Save a small encoder there: 32 pixels give 4 x 4 cells of 5 numbers. It has two convolutions and a batch norm."""
    import keras
    from keras import layers

    start = keras.initializers.RandomNormal(stddev=0.3, seed=1)
    images = keras.Input((None, None, 3))
    grid = layers.Conv2D(8, 8, strides=8, use_bias=False, kernel_initializer=start)(
        layers.Rescaling(1 / 100, -1)(images)
    )
    grid = layers.ReLU()(layers.BatchNormalization()(grid))
    keras.Model(images, layers.Conv2D(5, 1, use_bias=False, kernel_initializer=start)(grid)).save(path)
    return str(path)


def jpegs(number: int) -> list[bytes]:
    """Small JPEG files whose colours are random, and the same each time."""
    rng, made = np.random.default_rng(0), []
    for _ in range(number):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((320, 240)).save(file, "JPEG")
        made.append(file.getvalue())
    return made


def until(condition, seconds: float = 300):
    """What ``condition()`` gives once that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come true")


def assert_asks_itself_only(browser, page: str) -> None:
    """The ``browser`` that shows ``page`` has asked its server and no other."""
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in sent
        if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"].startswith(page)
    ]
    assert asked
    assert all(address.startswith((page, "blob:", "data:")) for address in asked), asked


def compile_built(trainer, optimizer, steps: int | None = None) -> None:
    """Compile ``trainer`` with an optimiser that has its variables, as training does, so that steps are traced once.

    For a single one of ``steps`` TensorFlow traces nothing, which would take longer than the step.
    """
    import keras

    trainer.compile(optimizer=optimizer, run_eagerly=steps == 1 and keras.backend.backend() == "tensorflow")
    trainer.optimizer.build(trainer.trainable_variables)


def random_captioner(config, vocabulary):
    """A captioner whose random weights are large enough that captions depend on the image."""
    import keras

    from captioning.features.encoder import build_encoder
    from model import Captioner

    keras.utils.set_random_seed(0)
    arrays = fake_arrays(config.embedding, len(vocabulary))
    made = Captioner.untrained(config, vocabulary, build_encoder(config), arrays)
    rng = np.random.default_rng(0)
    for weight in made.decoder.trainable_weights:
        weight.assign(rng.normal(0, 0.7, weight.shape))
    return made


def fake_arrays(kind: str, words: int, max_length: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays as ``captioning/embeddings/arrays.py`` gives them: vectors, or a BERT of two layers.

    Words have up to 3 pieces.
    """
    rng = np.random.default_rng(seed)
    if kind == "learned":
        return {}
    if kind != "bert-prefix":
        return {"vectors": rng.normal(size=(words, 7)).astype("float32")}
    rows, width, heads, inner = 30, 8, 2, 12
    pieces = rng.integers(0, rows, (words, 3)).astype("int32")
    pieces[np.arange(3) < 2 - np.arange(words)[:, None] % 3] = -1
    cells = max_length + SPARE
    shapes = {"vectors": (rows, width), "positions": (cells, width)}
    norms = ["embeddings_layer_norm"]
    for layer in range(2):
        name = f"transformer_layer_{layer}"
        norms += [f"{name}.self_attention_layer_norm", f"{name}.feedforward_layer_norm"]
        kernels = {
            **{f"self_attention_layer.{part}": (width, heads, width // heads) for part in ("query", "key", "value")},
            "self_attention_layer.attention_output": (heads, width // heads, width),
            "feedforward_intermediate_dense": (width, inner),
            "feedforward_output_dense": (inner, width),
        }
        for part, shape in kernels.items():
            bias = shape[1:] if len(shape) == 2 or part[-1] != "t" else shape[-1:]
            shapes |= {f"{name}.{part}.kernel": shape, f"{name}.{part}.bias": bias}
    shapes |= {f"{norm}.{part}": (width,) for norm in norms for part in ("gamma", "beta")}
    return {"pieces": pieces} | {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "'", "-", "a", "t", "s", "dog", "shirt", "cafe"]
PIECES += ["skate", "##board", "##er"]


def small_sizes(decoder: str) -> dict[str, int]:
    """The sizes of a small ``decoder`` that only some decoders have, for a width that two divides."""
    return {
        "transformer": {"heads": 2},
        "aoa": {"heads": 2},
        "m2": {"heads": 2, "memory_slots": 3},
    }.get(decoder, {})


def each_decoder(names: Iterable[str], mark=pytest.mark.slow, few: bool = False) -> list:
    """Parameters for the decoders ``names``. The first five have no mark, m2 has ``mark``, and the others are weekly.

    Those that came later share most of their code with the first five. The equations of all are among the fast tests.
    ``few``: of the five only merge and attention have no mark, and the others are slow.
    """
    others = pytest.mark.slow if few else ()
    marks = dict.fromkeys(("inject", "adaptive", "transformer"), others) | {"merge": (), "attention": (), "m2": mark}
    return [pytest.param(name, marks=marks.get(name, pytest.mark.weekly)) for name in names]
