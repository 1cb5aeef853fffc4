"""Corrupted pictures from end to end: captioned and scored, resumed after an interruption, and reported."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import save_encoder
from PIL import Image
from running import refused, script
from sure import CONFIDENCE

from captioning.robustness import captioned
from config import Config

WORDS = ["a", "red", "green", "lake", "by", "night", "snow", "and", "sky"]
FILES = [f"robustness-dev-beam2.{ending}" for ending in ("html", "json", "md", "png", "svg")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A captioner with random weights and a confidence, and twelve pictures, of which eight are dev."""
    import keras

    from captioning.features.encoder import build_encoder
    from captioning.words.vocabulary import Vocabulary
    from model import Captioner

    folder = tmp_path_factory.mktemp("robustness")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,caption,split"]
    for i in range(12):
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 32), Image.Resampling.NEAREST).save(folder / "pictures" / f"{i:02}.png")
        split = "train" if i < 4 else "dev"
        rows += [f"{i:02}.png,{' '.join(rng.choice(WORDS, 5))},{split}" for _ in range(2)]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    keras.utils.set_random_seed(0)
    config = Config(
        dataset="folder", data_dir=str(folder / "pictures"), captions_file=str(folder / "captions.csv"),
        feature_dir=str(folder / "features"), encoder=save_encoder(folder / "encoder.keras"), image_size=32,
        feature_grid=2, decoder="attention", embedding_size=8, hidden_size=8, min_length=3, max_caption_length=6,
        beam_size=2, extract_batch_size=3,
    )  # fmt: skip
    captioner = Captioner.untrained(config, Vocabulary(WORDS), build_encoder(config))
    for weight in captioner.decoder.trainable_weights:
        weight.assign(rng.normal(0, 0.7, weight.shape))
    captioner.confidence = CONFIDENCE
    captioner.save(folder / "captioner.zip")
    return folder


def scores(path: Path) -> list[dict]:
    """Rows without what differs from one evaluation to the next."""
    rows = json.loads(path.read_text())
    return [{key: row[key] for key in row if key not in ("decoding_seconds", "environment")} for row in rows]


@pytest.mark.slow
def test_corrupted_pictures_are_scored_and_an_interrupted_evaluation_goes_on(model, tmp_path, monkeypatch):
    calls, caption = [], captioned.caption_pictures

    def interrupted(captioner, records, corruption, *others):
        calls.append(corruption and corruption.kind)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return caption(captioner, records, corruption, *others)

    monkeypatch.setattr(captioned, "caption_pictures", interrupted)
    options = ["--model", model, "--corrupt", "noise:5", "occlusion:0.6", "--output", tmp_path]
    assert script("evaluate", *options).status != 0
    assert calls == [None, "occlusion", "noise"]
    outcome = script("evaluate", *options, "--report")
    assert outcome.status == 0, outcome
    assert calls[3:] == ["noise"], "the others were done"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == FILES
    assert not (model / "features").exists(), "features of corrupted pictures are not stored"

    rows = scores(tmp_path / "robustness-dev-beam2.json")
    assert [row["corruption"]["kind"] for row in rows] == ["clean", "occlusion", "noise"]
    assert all(row["captions"] == 8 and "auroc" in row["confidence"]["intervals"] for row in rows)
    assert outcome.out == (tmp_path / "robustness-dev-beam2.md").read_text()
    said = [
        [each["caption"] for each in json.loads((tmp_path / "robustness-dev-beam2" / name).read_text())]
        for name in ("predictions-clean.json", "predictions-noise-5.json")
    ]
    assert said[0] != said[1]
    page = (tmp_path / "robustness-dev-beam2.html").read_text()
    assert '<section id="Robustness">' in page
    assert page.count("<svg") >= 6
    assert "beam 2, noise 5" in page

    plain = script("evaluate", "--model", model, "--beam-sizes", "2", "--output", tmp_path / "plain")
    assert plain.status == 0
    [expected] = scores(tmp_path / "plain" / "scores-dev-coco.json")
    for name in ("bleu", "cider_d", "rouge_l", "captions", "vocabulary"):
        assert rows[0][name] == pytest.approx(expected[name]), "clean pictures are as in an ordinary evaluation"
    for name in ("mean", "auroc", "ece"):
        assert rows[0]["confidence"][name] == pytest.approx(expected["confidence"][name])


@pytest.mark.weekly
def test_some_images_and_other_ways_of_looking(model, tmp_path):
    """Four views make an ensemble. Every second of the eight images is scored."""
    options = ["--model", model, "--corrupt", "blur:3", "--images", "4", "--output", tmp_path]
    outcome = script("evaluate", *options, "--views", "4", "--beam-sizes", "1")
    assert outcome.status == 0, outcome
    said = json.loads((tmp_path / "robustness-dev-4-images-beam1" / "predictions-blur-3.json").read_text())
    assert [each["file_name"] for each in said] == ["04.png", "06.png", "08.png", "10.png"]
    assert all("confidence" not in each for each in said), "ensembles have none"
    refused("evaluate", *options, "--images", "4,4", mentions="--images: 2 numbers for 1 data sets")
