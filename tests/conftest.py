"""Small data that several tests share. Nothing here reads data from outside ``tmp_path`` or needs Keras."""

import gc
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from config import set_up_tensorflow
from embedding_arrays import SPARE

set_up_tensorflow()
ROOT = Path(__file__).parent.parent


def pytest_configure(config):
    """What JAX runs in a test runs once or twice, so compiling must be quick; and many processes compile the same.

    Tracing makes many objects that stay: at Python's own thresholds looking through them takes a tenth of the time.
    """
    gc.set_threshold(100_000, 50, 100)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # a process of xdist, or a pytest that a test runs
        return
    folder = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ |= {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": folder.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch):
    """Whatever a test does to ``KERAS_BACKEND`` and ``sys.argv`` is undone after it."""
    before = os.environ.get("KERAS_BACKEND")
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    yield
    if before is None:
        os.environ.pop("KERAS_BACKEND", None)
    else:
        os.environ["KERAS_BACKEND"] = before


@pytest.fixture
def make_store(tmp_path):
    """``make_store(names, shape=(R, D))`` gives a finished FeatureStore of features that differ for each image."""
    from feature_store import StoreKey, extract

    def make(names, shape=(2, 3), folder="store", dtype="float32", **options):
        key = StoreKey("fake", "0" * 64, "none", 32, 0, dtype, "images")
        return extract(
            tmp_path / folder,
            key,
            names,
            load=fake_pixels,
            encode=fake_encoder(shape),
            shape=shape,
            **OPTIONS | options,
        )

    return make


OPTIONS = {"batch_size": 4, "workers": 2}


def fake_pixels(name: str) -> np.ndarray:
    """Random uint8 pixels ``(32, 32, 3)`` that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def fake_encoder(shape: tuple[int, int]):
    """An ``encode`` whose features ``(B, R, D)`` tell the first pixel values of each image, and are never zero."""
    return lambda pixels: (pixels.reshape(len(pixels), -1)[:, : shape[0] * shape[1]].reshape(-1, *shape) + 1.0) / 256


def random_captioner(config, vocabulary):
    """A captioner whose random weights are large enough that captions depend on the image."""
    import keras

    from encoders import build_encoder
    from model import Captioner

    keras.utils.set_random_seed(0)
    arrays = fake_arrays(config.embedding, len(vocabulary))
    made = Captioner.untrained(config, vocabulary, build_encoder(config), arrays)
    rng = np.random.default_rng(0)
    for weight in made.decoder.trainable_weights:
        weight.assign(rng.normal(0, 0.7, weight.shape))
    return made


def fake_arrays(kind: str, words: int, max_length: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays as ``embedding_arrays`` has them, random: of vectors, or of a BERT of two layers whose words have up to 3 pieces."""
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


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory) -> Path:
    """A BERT of two layers and width 8 in Hugging Face's layout, random."""
    numpy = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("keras_hub")
    path = tmp_path_factory.mktemp("bert")
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (20, 8),
        "embeddings.position_embeddings.weight": (48, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "pooler.dense.weight": (8, 8),
        "pooler.dense.bias": (8,),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        layer = f"encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense = {f"attention.self.{part}": (8, 8) for part in ("query", "key", "value")}
        dense |= {"attention.output.dense": (8, 8), "intermediate.dense": (12, 8), "output.dense": (8, 12)}
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in dense.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in dense.items()}
    shapes |= {f"{norm}.{part}": (8,) for norm in norms for part in ("weight", "bias")}
    numpy.save_file(
        {name: rng.normal(0, 0.5, shape).astype("float32") for name, shape in shapes.items()},
        path / "model.safetensors",
    )
    config = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}
    config |= {"model_type": "bert", "vocab_size": 20, "max_position_embeddings": 48}
    (path / "config.json").write_text(json.dumps(config))
    (path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    return path
