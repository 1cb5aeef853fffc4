"""Files of captions are matched to the images of a split by id or by file name, and written in COCO's format."""

import json
from pathlib import Path

import pytest
from three_images import RECORDS, RIGHT

from captioning.base.errors import UserError
from captioning.data.predictions import read_predictions, write_coco_results, write_predictions


def written(tmp_path: Path, content) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def entries(**captions: str) -> list[dict]:
    return [{"image_id": int(name[1:]), "caption": caption} for name, caption in captions.items()]


def test_predictions_come_in_the_order_of_the_records(tmp_path):
    path = written(tmp_path, entries(_9="birds", _3="dog", _7="ein schöner Kater"))
    assert read_predictions(path, RECORDS) == ["dog", "ein schöner Kater", "birds"]


def test_predictions_from_elsewhere_may_name_the_image_files(tmp_path):
    found = [{"image_id": f"{i}.jpg", "caption": text} for i, text in ((9, "birds"), (3, "dog"), (7, "cats"))]
    assert read_predictions(written(tmp_path, found), RECORDS) == ["dog", "cats", "birds"]
    found[0]["image_id"] = 9
    with pytest.raises(UserError, match="1 missing, 1 not in the split"):
        read_predictions(written(tmp_path, found), RECORDS)


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
        ([], "not those of the test split: 3 missing, 0 not in the split; give the --split"),
        ("", "expected a JSON list"),
        ("[{", "expected a JSON list"),
    ],
)
def test_predictions_of_other_images_are_refused(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        read_predictions(written(tmp_path, content), RECORDS)
    assert "predictions.json" in str(error.value)


def test_a_predictions_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        read_predictions(tmp_path / "absent.json", RECORDS)
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"image_id": 3, "caption": "sch\xf6n"}]')
    with pytest.raises(UserError, match=r"latin\.json"):
        read_predictions(path, RECORDS)


def test_what_is_written_is_read_again(tmp_path):
    write_predictions(tmp_path / "new", "test-beam3", RECORDS, RIGHT, [1.239, 20.0, 0.0], [None, 0.51234, 0.0])
    path = tmp_path / "new" / "predictions-test-beam3.json"
    assert read_predictions(path, RECORDS) == RIGHT
    first = {"image_id": 3, "file_name": "3.jpg", "caption": RIGHT[0], "cider": 1.24}
    assert json.loads(path.read_text())[0] == first


def test_the_results_for_coco_hold_ids_and_captions_alone(tmp_path):
    write_coco_results(tmp_path, "val2014", "my run, 4 views-test-beam3", RECORDS, RIGHT)
    path = tmp_path / "captions_val2014_my-run-4-views-test-beam3_results.json"
    assert json.loads(path.read_text())[1] == {"image_id": 7, "caption": RIGHT[1]}
    assert read_predictions(path, RECORDS) == RIGHT
