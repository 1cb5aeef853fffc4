"""The same tests on every Keras backend. Those of decoders, search and training need no other code for it."""

import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import QUICK_TO_COMPILE, ROOT

# What is left out has hardly any code that could differ: book-keeping of runs, and embeddings that look words up.
BOOK_KEEPING = (
    "best_epoch or patience or seventh or crash or promises or finished or cut_off or tensorboard or round_trip or lets_go "
    "or captioned_as or damaged or before_the_first or pretrained_embedding or no_number"
)
# What the other decoders, and other tests of the same search, have shown already.
TWINS = "inject or (adaptive and not paper) or distinct_ranked or logits_of_any_size"
MODULES = [
    ["test_decoding.py", "-k", f"not ({TWINS})"],
    ["test_decoders.py", "test_decoder_equations.py", "-k", f"not ({BOOK_KEEPING} or {TWINS})"],
    ["test_embeddings.py", "-k", "attention-bert-prefix or frozen or half_precision[bert-prefix-float16]"],
    ["test_training.py", "-k", f"not ({BOOK_KEEPING})"],
    ["test_self_critical.py"],
    ["test_fine_tuning.py", "test_ensemble.py", "-k", "learns or rates or counts or averaged"],
    ["test_alignment.py", "-k", "vectors or padding or reader or heads or triplet or infonce or lone or drops"],
]


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module[0])
@pytest.mark.parametrize("backend", ["jax", "torch"])  # plain `pytest` runs them on TensorFlow
def test_passes_on(backend, module):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *module, "-m", "", "-n", "0", "-p", "no:cacheprovider"],
        cwd=ROOT / "tests",
        env={**os.environ, "KERAS_BACKEND": backend, **QUICK_TO_COMPILE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
