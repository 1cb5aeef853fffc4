"""The scripts with features from elsewhere: scenes whose regions another program has written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from running import TINY_ALIGNER, refused, script

from captioning.data import datasets
from captioning.pictures.loading import load_image
from config import Config


def write_regions(scenes: Path, place: Path, most: int = 5) -> Path:
    """For each scene the mean colours of some of its 4 x 4 cells with their boxes, in files of our own making."""
    att, box = (place.with_name(f"{place.name}_{kind}") for kind in ("att", "box"))
    rng = np.random.default_rng(0)
    for folder in (att, box):
        folder.mkdir()
    for path in sorted((scenes / "images").iterdir()):
        cells = load_image(path, 64).reshape(4, 16, 4, 16, 3).mean(axis=(1, 3), dtype="float32") / 255
        chosen = np.sort(rng.permutation(16)[: rng.integers(1, most + 1)])
        corners = np.stack([chosen % 4, chosen // 4], axis=1).astype("float32")
        places = np.concatenate([corners, corners + 1], axis=1) * 16
        features = np.concatenate([cells.reshape(16, 3)[chosen], corners / 4, np.ones((len(chosen), 1))], axis=1)
        np.savez_compressed(att / f"{path.stem}.npz", feat=features.astype("float32"))
        np.save(box / f"{path.stem}.npy", places)
    return att


@pytest.mark.slow
def test_training_and_evaluation_on_regions_of_any_number(tmp_path):
    """From files of regions to scores and a page with boxes; and what such a captioner cannot do is said."""
    data = ["--dataset", "demo", "--data-dir", tmp_path / "demo", "--demo-images", "20"]
    data += ["--feature-dir", tmp_path / "features"]
    datasets.load(Config(dataset="demo", data_dir=str(tmp_path / "demo"), demo_images=20).data_sets()[0])
    att = write_regions(tmp_path / "demo", tmp_path / "bu")
    sizes = TINY_ALIGNER[2:]  # without the size of pictures
    outcome = script(
        *("train", *data, *sizes, "--features", att, "--decoder", "adaptive", "--batch-size", "16"),
        *("--epochs", "2", "--run-dir", tmp_path, "--name", "run", "--no-tensorboard"),
    )
    assert outcome.status == 0, outcome
    run = tmp_path / "run"
    outcome = script("evaluate", "--model", run, "--split", "test", "--beam-sizes", "2", "--report")
    assert outcome.status == 0, outcome
    page = (run / "evaluation" / "report.html").read_text()
    assert "Where the decoder looked" in page
    assert re.search(r"up to 5 regions", page)
    (store,) = [path for path in (tmp_path / "features").iterdir() if "files" in path.name]
    photo = next((tmp_path / "demo" / "images").iterdir())
    refused("test", photo, "--model", run, mentions="reads stored features .* and has no encoder for pictures")
    refused("export", "--model", run, "--format", "onnx", mentions="an export begins with pictures")
    refused("train", "--stage", "finetune", "--init", run, mentions="stored features have none")
    narrow = tmp_path / "narrow_att"
    narrow.mkdir()
    for path in att.iterdir():
        np.savez(narrow / path.name, feat=np.ones((2, 4), "float32"))
    for command in (["evaluate", "--model", run, "--split", "test"], ["train", "--resume", run, "--epochs", "3"]):
        refused(
            *(*command, "--features", narrow),
            mentions="has 4 numbers per region, and this captioner was trained with 6",
        )
    assert json.loads((store / "key.json").read_text())["layout"] == "files"
