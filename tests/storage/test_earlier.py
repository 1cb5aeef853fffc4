"""Bundles, run folders and feature stores of an earlier release: they load, give the same results, and go on.

earlier/README.md says how they were made.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import script

from captioning.pictures.loading import load_image
from captioning.retrieval.aligner import Aligner
from model import Captioner

EARLIER = Path(__file__).parent / "earlier"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())


def pixels(names) -> np.ndarray:
    return np.stack([load_image(EARLIER / "pictures" / name, 32) for name in names])


def test_a_captioner_says_what_it_said():
    captioner = Captioner.load(EARLIER / "runs" / "captioner")
    found = captioner.caption(captioner.encode(pixels(EXPECTED["captions"])))
    for captions, (text, log_prob) in zip(found, EXPECTED["captions"].values(), strict=True):
        assert captions[0].text == text
        assert captions[0].log_prob == pytest.approx(log_prob, abs=1e-3)


def test_an_aligner_gives_the_vectors_that_it_gave():
    aligner = Aligner.load(EARLIER / "runs" / "aligner")
    images, texts = EXPECTED["image_vectors"], EXPECTED["text_vectors"]
    np.testing.assert_allclose(aligner.embed_pixels(pixels(images)), list(images.values()), atol=1e-3)
    np.testing.assert_allclose(aligner.embed_texts(list(texts)), list(texts.values()), atol=1e-3)
    assert aligner.fingerprint == EXPECTED["fingerprint"], "an index that was built before is still its own"


@pytest.mark.slow
def test_a_run_goes_on_with_the_features_that_are_there(tmp_path, monkeypatch):
    folder = tmp_path / "earlier"
    shutil.copytree(EARLIER, folder)
    monkeypatch.chdir(folder)
    (store,) = Path("features").iterdir()
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.iterdir()}
    history = Path("runs/captioner/history.csv").read_text()

    outcome = script("train", "--resume", "runs/captioner", "--epochs", "13")
    assert outcome.status == 0, outcome.err
    assert list(Path("features").iterdir()) == [store]
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.iterdir()} == before
    after = Path("runs/captioner/history.csv").read_text()
    assert after.startswith(history)
    (line,) = after.removeprefix(history).splitlines()
    found = dict(zip(history.partition("\n")[0].split(","), map(float, line.split(",")), strict=True))
    assert {name: found[name] for name in EXPECTED["epoch_13"]} == pytest.approx(EXPECTED["epoch_13"], rel=1e-3)
    assert Captioner.load(Path("runs/captioner")).config.epochs == 13
