"""The tests that are marked with ``backends`` pass on the other Keras backends too, but for weekly ones.

Plain ``pytest`` runs them on TensorFlow.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
from helpers import ROOT

OPTIONS = ["-m", "backends and not weekly", "-n", "0", "-p", "no:cacheprovider", "-W", "default"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_passes_on(backend):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
