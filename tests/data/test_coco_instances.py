"""The objects that COCO outlines, read from its file."""

import json
from pathlib import Path

import pytest

from captioning.base.errors import UserError
from captioning.data.coco_instances import outlined_objects
from captioning.data.records import ImageRecord

RECORDS = [ImageRecord(number, f"{number}.jpg", Path(f"{number}.jpg"), ("a dog",), "test") for number in (1, 2)]


def write(folder: Path, **changes) -> None:
    found = {
        "info": {},
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 15, "name": "bench"}],
        "annotations": [
            {"image_id": 1, "category_id": 18, "segmentation": [[1.5, 2]]},
            {"image_id": 1, "category_id": 15},
            {"image_id": 1, "category_id": 18},
            {"image_id": 9, "category_id": 18},
        ],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(found | changes))


def test_each_image_gets_its_classes(tmp_path):
    assert outlined_objects(tmp_path, "val2017", RECORDS) is None
    write(tmp_path)
    assert outlined_objects(tmp_path, "val2017", RECORDS) == [{"dog", "bench"}, set()]
    assert outlined_objects(tmp_path, "train2017", RECORDS) is None


def test_a_wrong_file_is_named(tmp_path):
    write(tmp_path, categories=[])
    with pytest.raises(UserError, match=r"instances_val2017\.json: category_id 18 of image 1 is none"):
        outlined_objects(tmp_path, "val2017", RECORDS)
    write(tmp_path, annotations=[{"image_id": "x"}])
    with pytest.raises(UserError, match=r"instances_val2017\.json: expected COCO's instances"):
        outlined_objects(tmp_path, "val2017", RECORDS)
    write(tmp_path)
    with pytest.raises(UserError, match="has no object of any of these images"):
        outlined_objects(tmp_path, "val2017", RECORDS[1:])
