"""Files of captions are matched to the images of a split by id or by file name, and written in COCO's format."""

import json
from pathlib import Path

import pytest
from three_images import RECORDS, RIGHT

from captioning.base.errors import UserError
from captioning.data.caption_files import read_references
from captioning.data.predictions import read_predictions, write_coco_results, write_predictions
from captioning.data.records import Warts


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
    found[0]["image_id"] = 8
    with pytest.raises(UserError, match=r"1 missing, 1 not in the split \(it is without 9\.jpg and with 8\)"):
        read_predictions(written(tmp_path, found), RECORDS)


@pytest.mark.parametrize(
    "name",
    [
        *("{}", "./{}.jpg", "/data/images/{}.JPG", "{}.png", "COCO_val2014_{:012d}.jpg", "{:012d}"),
        pytest.param("photo-{}.webp", id="number"),
    ],
)
def test_images_are_known_however_they_are_spelled(tmp_path, name):
    found = {name.format(i): text for i, text in ((9, "birds"), (3, "dog"), (7, "cats"))}
    assert read_predictions(written(tmp_path, found), RECORDS, warts := Warts()) == ["dog", "cats", "birds"]
    assert bool(warts.lines()) == (name != "{}")
    as_list = [{"image_id": image, "caption": text} for image, text in found.items()]
    assert read_predictions(written(tmp_path, as_list), RECORDS) == ["dog", "cats", "birds"]


ALBUM = """
{"image": "9.jpg", "captions": [{"caption": "birds", "log_prob": -1, "score": -1}, {"caption": "no", "score": -2}]}
{"image": "3.jpg", "captions": [{"caption": "dog", "log_prob": -1.5, "score": -1, "confidence": 0.5, "unsure": false}]}
{"image": "torn.jpg", "error": "torn.jpg: cannot be read as a picture"}
{"image": "7.jpg", "captions": [{"caption": "<start> cats &amp; cats <end>", "log_prob": -1, "score": -1}]}
"""
FILES = {
    "captions.jsonl": ALBUM,
    "hugging.jsonl": '{"file_name": "9.jpg", "text": "birds"}\n{"file_name": "3.jpg", "text": "dog"}\n'
    '{"file_name": "7.jpg", "text": "cats & cats"}\n',
    "ids.csv": "image_id;caption\n9;birds\n3;dog\n7;cats & cats\n",
    "kaggle.txt": "image,caption\n9.jpg,birds\n3.jpg,dog\n7.jpg,cats & cats\n",
    "flickr.token": "9.jpg#0\tbirds\n3.jpg#0\tdog\n7.jpg#0\tcats & cats\n",
    "results.csv": "image_name| comment_number| comment\n9.jpg| 0| birds\n3.jpg| 0| dog\n7.jpg| 0| cats & cats\n",
    "mapping.json": '{"9": ["birds"], "3": [{"caption": "dog"}], "7": "cats &amp; cats"}',
}


@pytest.mark.parametrize("name", FILES)
def test_captions_of_all_layouts_can_be_scored(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + FILES[name].encode())
    assert read_predictions(tmp_path / name, RECORDS) == ["dog", "cats & cats", "birds"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (entries(_3="dog", _7="cats"), "1 missing, 0 not in the split"),
        (entries(_3="dog", _7="cats", _9="birds", _10="fish"), "0 missing, 1 not in the split"),
        (entries(_1="dog", _2="cats", _4="birds"), "3 missing, 3 not in the split"),
        ([{"image_id": name, "caption": "dog"} for name in ("1", "2", "4")], "3 missing, 3 not in the split"),
        ([*entries(_3="dog", _7="cats", _9="birds"), *entries(_7="no cats")], "image 7 occurs twice"),
        ([{"image_id": 3, "words": "dog"}], 'entry 0: give either "caption" or "captions"'),
        ([{"image_id": 3, "caption": None}], 'entry 0: "caption" must be text'),
        ([{"image_id": [3], "caption": "dog"}], 'entry 0: expected an object with "image"'),
        ([{"image_id": 3, "captions": ["a dog", "two dogs"]}], "image 3 has 2 captions; give one caption per image"),
        ({"3": "dog"}, "2 missing, 0 not in the split"),
        ([3, 7, 9], 'entry 0: expected an object with "image"'),
        (7, "expected a JSON list"),
        ([], "holds no captions"),
        ("", "not valid JSON"),
        ("[{", "not valid JSON"),
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


def references(path: Path) -> list[tuple[int, str, tuple[str, ...], str]]:
    records = read_references(path, Warts())
    return [(record.image_id, record.file_name, record.captions, record.split) for record in records]


def test_references_without_pictures(tmp_path):
    both = [("3.jpg", ("a dog", "one dog")), ("7.jpg", ("cats",))]

    def kept(name: str, content) -> list[tuple[str, tuple[str, ...]]]:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        found = references(tmp_path / name)
        return [(name, captions) for _, name, captions, _ in found]

    assert kept("a.csv", "image,caption\n3.jpg,a dog\n7.jpg,cats\n3.jpg,one dog\n") == both
    assert (
        kept("a.jsonl", '{"image": "3.jpg", "captions": ["a dog", "one dog", " "]}\n{"image": "7.jpg", "text": "cats"}')
        == both
    )
    images = [{"id": 3, "file_name": "3.jpg"}, {"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}]
    spoken = [(3, "a dog"), (7, "cats"), (3, "one dog")]
    coco = {"images": images, "annotations": [{"image_id": i, "caption": text} for i, text in spoken]}
    assert kept("coco.json", coco) == both
    assert references(tmp_path / "coco.json")[1] == (7, "7.jpg", ("cats",), "")
    sentences = [{"raw": "a dog"}, {"raw": "one dog"}]
    listed = [{"filename": "3.jpg", "cocoid": 3, "split": "restval", "sentences": sentences}]
    assert kept("karpathy.json", {"images": listed}) == both[:1]
    assert references(tmp_path / "karpathy.json") == [(3, "3.jpg", ("a dog", "one dog"), "train")]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "3.txt").write_text("a dog\none dog\n")
    assert references(tmp_path / "texts") == [(0, "3", ("a dog", "one dog"), "")]
    assert kept("hf/metadata.csv", "file_name,text\n3.jpg,a dog\n") == [("3.jpg", ("a dog",))]
    assert references(tmp_path / "hf") == [(0, "3.jpg", ("a dog",), "")]
    (tmp_path / "any.csv").write_text("image,caption\nb.jpg,a dog\na.jpg,a cat\n")
    assert [(i, name) for i, name, _, _ in references(tmp_path / "any.csv")] == [(1, "b.jpg"), (0, "a.jpg")]
    with pytest.raises(UserError, match=r"nowhere\.json: there is no such file"):
        references(tmp_path / "nowhere.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no metadata\.jsonl"):
        references(tmp_path / "empty")
