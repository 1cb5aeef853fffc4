"""A captioner of another script, from its training captions to its scores, as a user trains it."""

import json

import pytest
from running import script

from captioning.data import scenes


@pytest.mark.weekly
def test_a_demo_in_chinese_trains_and_is_right(tmp_path):
    """Five of the training scenes come again as dev and test. Their captions must be all right."""
    data = tmp_path / "data"
    scenes.ensure(data, 20, 0, "chinese")
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    about = json.loads((data / "scenes.json").read_text())
    for shown, again in zip(lines[:5], lines[15:], strict=True):
        again["captions"] = shown["captions"]
        about["scenes"][again["image"]] = about["scenes"][shown["image"]]
        (data / "images" / again["image"]).write_bytes((data / "images" / shown["image"]).read_bytes())
    (data / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (data / "scenes.json").write_text(json.dumps(about))
    places = [f"--{name}-dir={tmp_path / name}" for name in ("data", "feature", "run")]
    outcome = script(
        "train", "--preset", "demo", "--demo-language", "chinese", "--words", "unicode", "--demo-images", "20",
        *places, "--data-weight", "20", "--batch-size", "30", "--epochs", "3", "--dropout", "0",
        "--learning-rate", "0.004", "--schedule", "constant", "--name", "zh", "--no-tensorboard",
    )  # fmt: skip
    assert outcome.status == 0, outcome
    model = ["--model", tmp_path / "run" / "zh"]
    outcome = script("evaluate", *model, "--split", "test", "--beam-sizes", "1")
    assert outcome.status == 0, outcome
    (row,) = json.loads((tmp_path / "run/zh/evaluation/scores-test-coco-unicode.json").read_text())
    assert row["tokenizer"] == row["settings"]["words"] == "unicode"
    assert row["demo"]["all_right"] == 1
    said = json.loads((tmp_path / "run/zh/evaluation/predictions-test-beam1.json").read_text(encoding="utf-8"))
    assert all(" " not in entry["caption"] and len(entry["caption"]) > 12 for entry in said)
