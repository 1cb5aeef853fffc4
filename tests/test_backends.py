"""The same tests on every Keras backend. Those of decoders, search and training need no other code for it."""

import importlib.util
import os
import subprocess
import sys

import pytest
from helpers import ROOT

# What is left out has hardly any code that could differ: book-keeping of runs, and embeddings that look words up.
BOOK_KEEPING = (
    "best_epoch or patience or seventh or crash or promises or finished or run_cut_off or tensorboard or round_trip "
    "or lets_go or dev_is_captioned or damaged or before_the_first or pretrained_embedding or no_number"
)
# What the other decoders, and other tests of the same search or recipe, have shown already.
TWINS = (
    "inject or (adaptive and not (paper or rows_that_only_fill)) or distinct_ranked or logits_of_any_size "
    "or ranks_by_agreement[3] or the_vote or have_no_vote "
    "or (every_part and attention)"
)
ABOUT_EMBEDDINGS = "attention-bert-prefix or frozen or half_precision[bert-prefix-float16]"
ABOUT_PIXELS = "(learns and not bfloat16) or to_learn or rates or counts_for_each or averaged"
ABOUT_TOWERS = "unit_vectors or padding or reader or heads or triplet or infonce or lone or drops"
# Few processes, since each imports Keras and traces anew.
RUNS = {
    "decoders": (
        [
            "test_decoding.py",
            "test_decoders.py",
            "test_decoder_equations.py",
            "test_training.py",
            "test_self_critical.py",
        ],
        f"not ({BOOK_KEEPING} or {TWINS})",
    ),
    "other_parts": (
        ["test_embeddings.py", "test_fine_tuning.py", "test_folding.py", "test_ensemble.py", "test_alignment.py"],
        f"{ABOUT_EMBEDDINGS} or {ABOUT_PIXELS} or {ABOUT_TOWERS}",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("run", list(RUNS))
@pytest.mark.parametrize("backend", ["jax", "torch"])  # plain `pytest` runs them on TensorFlow
def test_passes_on(backend, run):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    files, which = RUNS[run]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *files, "-k", which, "-m", "", "-n", "0", "-p", "no:cacheprovider"],
        cwd=ROOT / "tests",
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
