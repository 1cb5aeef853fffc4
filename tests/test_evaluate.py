"""Predictions are matched to the split's images by id, scored, and set against a shuffled control."""

import json
from pathlib import Path

import pytest

import evaluate
import metrics
from config import Config, UserError
from datasets import ImageRecord


def record(image_id: int, *captions: str) -> ImageRecord:
    return ImageRecord(image_id, f"{image_id}.jpg", Path(f"{image_id}.jpg"), captions, "test")


RECORDS = [
    record(3, "one brown dog runs far"),
    record(7, "two cats sleep in bed"),
    record(9, "three birds sing at dawn"),
]


def write(tmp_path: Path, content) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def entries(**captions: str) -> list[dict]:
    return [{"image_id": int(name[1:]), "caption": caption} for name, caption in captions.items()]


def test_predictions_come_in_the_order_of_the_records(tmp_path):
    path = write(tmp_path, entries(_9="birds", _3="dog", _7="ein schöner Kater"))
    assert evaluate.read_predictions(path, RECORDS) == ["dog", "ein schöner Kater", "birds"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (entries(_3="dog", _7="cats"), "1 missing, 0 not in the split"),
        (entries(_3="dog", _7="cats", _9="birds", _10="fish"), "0 missing, 1 not in the split"),
        (entries(_1="dog", _2="cats", _4="birds"), "3 missing, 3 not in the split"),
        ([{"image_id": name, "caption": "dog"} for name in ("3", "7", "9")], "3 missing, 3 not in the split"),
        ([*entries(_3="dog", _7="cats", _9="birds"), *entries(_7="no cats")], "image 7 occurs twice"),
        ([{"image_id": 3, "text": "dog"}], "expected a JSON list"),
        ([{"image_id": 3, "caption": None}], "expected a JSON list"),
        ([{"image_id": [3], "caption": "dog"}], "expected a JSON list"),
        ({"3": "dog"}, "expected a JSON list"),
        ([3, 7, 9], "expected a JSON list"),
        (7, "expected a JSON list"),
        ([], "3 missing"),
        ("", "expected a JSON list"),
        ("[{", "expected a JSON list"),
    ],
)
def test_predictions_of_other_images_are_refused(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        evaluate.read_predictions(write(tmp_path, content), RECORDS)
    assert "predictions.json" in str(error.value)


def test_a_predictions_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        evaluate.read_predictions(tmp_path / "absent.json", RECORDS)
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"image_id": 3, "caption": "sch\xf6n"}]')
    with pytest.raises(UserError, match=r"latin\.json"):
        evaluate.read_predictions(path, RECORDS)


def test_score_and_its_shuffled_control():
    captions = [record.captions[0] for record in RECORDS]
    found = evaluate.score(captions, RECORDS, "coco", Config())
    assert found["bleu"] == pytest.approx([100.0] * 4)
    # Each image gets the caption of its neighbour: right words elsewhere count for nothing.
    assert found["shuffled_bleu"] == pytest.approx([0.0] * 4, abs=1e-9)
    assert {name: found[name] for name in metrics.statistics(captions)} == metrics.statistics(captions)


def test_a_captioner_that_does_not_look_loses_nothing_to_shuffling():
    found = evaluate.score(["one brown dog runs far"] * 3, RECORDS, "coco", Config())
    assert found["bleu"] == found["shuffled_bleu"]
    assert found["most_common"] == 1.0


def test_protocol_is_the_one_asked_for():
    captions = [record.captions[0] for record in RECORDS]
    references = [record.captions for record in RECORDS]
    found = evaluate.score(captions[::-1], RECORDS, "seed", Config())
    assert found["bleu"] == metrics.bleu(captions[::-1], references, "seed")
    assert found["bleu"] != metrics.bleu(captions[::-1], references, "coco")


def row(**changes) -> dict:
    scores = evaluate.score([record.captions[0] for record in RECORDS], RECORDS, "coco", Config())
    about = {"captioner": "run-1", "split": "test", "protocol": "coco", "decoding": "beam 3"}
    return {**about, **scores, **changes}


def test_table_is_markdown_with_a_row_for_each_search():
    lines = evaluate.table([row(decoding="greedy"), row(bleu=[60.04, 50.0, 40.0, 30.567])]).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells == [
        *["run-1", "test", "3", "coco", "beam 3"],
        *["60.04", "50.00", "40.00", "30.57", "0.00"],
        *["100%", "5.0", "0.0%"],
    ]
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header[5:10] == ["B1", "B2", "B3", "B4", "shuffled B4"]


def test_table_adds_what_is_known_of_demo_scenes():
    demo = {"all_right": 0.5, "colour": 0.75}
    text = evaluate.table([row(demo=demo, shuffled_demo={"all_right": 0.125})])
    assert text.splitlines()[-1] == "beam 3: all right 50.0%, colour 75.0%; shuffled: all right 12.5%"
