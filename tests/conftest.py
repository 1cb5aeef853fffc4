"""Small data that several tests share. Nothing here reads data from outside ``tmp_path`` or needs Keras."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).parent.parent


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
