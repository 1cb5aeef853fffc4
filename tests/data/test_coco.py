"""MS-COCO in its official layout: ids and splits as published or by a fixed rule, archives unpacked, warts reported."""

import os

import pytest
from layouts import TRAIN, VAL, captions_file, coco_files, pack, warning, write_files

from captioning.base.errors import UserError
from captioning.data import datasets
from captioning.data.records import CaptionDataset
from config import Config


def read(folder, year: str = "2017") -> CaptionDataset:
    return datasets.load(Config(dataset="coco", coco_year=year, data_dir=str(folder)))


def ids(records) -> list[int]:
    return [record.image_id for record in records]


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_as_published(tmp_path, year):
    write_files(tmp_path, coco_files(year))
    dataset = read(tmp_path, year)
    assert dataset.name == f"coco{year}"
    assert sorted(ids(dataset.records)) == sorted(TRAIN + VAL), "ids are COCO's"
    assert ids(dataset.split("test")) == list(VAL), "the whole of val"
    assert ids(dataset.split("dev")) == [25, 50, 1000], "of train, every id that 25 divides; but none of val"
    assert ids(dataset.split("train")) == [3, 51]
    for record in dataset.records:
        assert record.path.read_text() == f"pixels of {record.image_id}"
        assert record.captions == tuple(f"caption {k} of {record.image_id}" for k in (0, 1))
    assert dataset.coco_subsets == {"train": f"train{year}", "dev": f"train{year}", "test": f"val{year}"}
    assert dataset.warnings == ()


@pytest.mark.parametrize("name", ["val", "validation"])
def test_val_could_mean_two_splits_and_is_refused(tmp_path, name):
    write_files(tmp_path, coco_files())
    with pytest.raises(UserError, match=r"COCO's val is the split test here.*say test or dev"):
        read(tmp_path).split(name)


def test_published_archives_are_unpacked_into_the_official_layout(tmp_path):
    files = coco_files()
    pack(tmp_path / "train2017.zip", {name: text for name, text in files.items() if name.startswith("train2017/")})
    pack(tmp_path / "val2017.zip", {name: text for name, text in files.items() if name.startswith("val2017/")})
    notes = {name: text for name, text in files.items() if name.startswith("annotations/")}
    pack(tmp_path / "annotations_trainval2017.zip", notes | {"annotations/instances_train2017.json": "large"})
    (tmp_path / ".unzip-killed" / "train2017").mkdir(parents=True)
    os.utime(tmp_path / ".unzip-killed", (1e9, 1e9))
    assert len(read(tmp_path).records) == 8
    assert not (tmp_path / ".unzip-killed").exists(), "what a killed process left"
    unpacked = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in unpacked if not name.endswith(".zip")} == set(files)
    for archive in tmp_path.glob("*.zip"):
        archive.unlink()
    assert len(read(tmp_path).records) == 8


def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path):
    write_files(tmp_path, {name: text for name, text in coco_files().items() if not name.startswith("train2017/")})
    pack(tmp_path / "train2017.zip", {"train2017/000000000003.jpg": "x" * 1000})
    whole = (tmp_path / "train2017.zip").read_bytes()
    (tmp_path / "train2017.zip").write_bytes(whole[:-10])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"train2017\.zip: cannot be unpacked .*Delete it and fetch it again"):
        read(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_images_may_lie_in_a_folder_of_that_name(tmp_path):
    files = {name if name.endswith(".json") else f"images/{name}": text for name, text in coco_files().items()}
    write_files(tmp_path, files)
    assert len(read(tmp_path).records) == 8


def test_val_alone_can_be_evaluated(tmp_path):
    write_files(tmp_path, {name: text for name, text in coco_files().items() if not name.startswith("train2017/")})
    dataset = read(tmp_path)
    assert ids(dataset.split("test")) == list(VAL)
    assert warning(dataset, "of split train with captions but no file in").endswith(
        ": 2, e.g. 000000000003.jpg; 000000000051.jpg"
    )
    assert str(tmp_path / "train2017") in warning(dataset, "of split dev with captions but no file in")
    assert "--dataset cocostyle --captions-file" in warning(dataset, "only val2017 of COCO is here")
    with pytest.raises(UserError, match=r"no images in split 'train'; it has test \(3 images\)"):
        dataset.split("train")
    (tmp_path / "annotations" / "captions_train2017.json").unlink()
    dataset = read(tmp_path)
    assert ids(dataset.split("test")) == list(VAL)
    assert len(dataset.warnings) == 1
    (tmp_path / "annotations" / "captions_val2017.json").rename(tmp_path / "captions_val2017.json")
    assert ids(read(tmp_path).split("test")) == list(VAL)


def test_warts_are_reported_and_lose_nothing_else(tmp_path):
    train = captions_file(*TRAIN)
    train["annotations"] += [
        {"image_id": 4, "caption": "of an image that is not listed"},
        {"image_id": 3, "caption": " "},
        {"image_id": 51, "caption": "caption 0 of 51"},
    ]
    train["images"].append({"id": 5, "file_name": "000000000005.jpg"})
    files = coco_files(changes={"train": train}) | {"train2017/new.jpg": "", "train2017/readme.txt": ""}
    del files["train2017/000000000025.jpg"]
    write_files(tmp_path, files)
    dataset = read(tmp_path)
    assert ids(dataset.split("train")) == [3, 51]
    assert ids(dataset.split("dev")) == [50, 1000], "a missing file moves no other image"
    for text, example in {
        "in captions_train2017.json of images that it does not list": "1, e.g. image 4: of an image that is not listed",
        "empty captions (dropped)": "1, e.g. 000000000003.jpg",
        "repeat another of the same image": "1, e.g. 000000000051.jpg: caption 0 of 51",
        "listed without captions": "1, e.g. 000000000005.jpg",
        "of split dev with captions but no file": "1, e.g. 000000000025.jpg",
        "without captions (left out)": "1, e.g. new.jpg",
    }.items():
        assert warning(dataset, text).endswith(example)
    assert len(dataset.warnings) == 6


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        ([], r"expected COCO's captions.*; the file: .*, found \[\]"),
        ({"images": []}, r"annotations: Field required"),
        (
            {"images": [{"filename": "a.jpg", "split": "train", "sentences": []}], "annotations": []},
            r"--dataset karpathy --captions-file FILE\); images\[0\]\.id: Field required",
        ),
        (
            {**captions_file(3), "annotations": [{"image_id": 3, "category_id": 1}]},
            r"annotations\[0\]\.caption: Field required, found .*'category_id': 1",
        ),
        (
            {**captions_file(3), "annotations": [{"image_id": "3", "caption": "a"}]},
            r"annotations\[0\]\.image_id: .*'3'",
        ),
        ({**captions_file(3), "annotations": [{"image_id": 3, "caption": None}]}, r"annotations\[0\]\.caption: "),
        (captions_file(3, 3), "2 images share 1 ids"),
        (captions_file(7, prefix="other-"), "give id 7 to more than one image"),
        (captions_file(3, 7), r"captions_val2017\.json: 000000000007\.jpg is listed twice"),
    ],
)
def test_another_layout_is_named_with_what_was_expected(tmp_path, train, complaint):
    write_files(tmp_path, coco_files(changes={"train": train}))
    with pytest.raises(UserError, match=complaint) as error:
        read(tmp_path)
    assert "captions" in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"images": [', "Invalid JSON: EOF"),
        (b"\xff\xfe", "Invalid JSON"),
        (b'{"images": [], "annotations": [{"image_id": 3, "caption": "\\ud800"}]}', "Invalid JSON"),
        (b"", "Invalid JSON"),
    ],
)
def test_a_file_that_is_no_json_is_named(tmp_path, content, complaint):
    write_files(tmp_path, coco_files() | {"annotations/captions_val2017.json": content})
    with pytest.raises(UserError, match=rf"captions_val2017\.json: expected .*{complaint}"):
        read(tmp_path)


def test_a_byte_order_mark_changes_nothing(tmp_path):
    files = coco_files()
    name = "annotations/captions_val2017.json"
    write_files(tmp_path, files | {name: files[name].encode("utf-8-sig")})
    assert len(read(tmp_path).records) == 8


@pytest.mark.parametrize("left", ["annotations/", "train2017/", "nothing"])
def test_what_is_missing_is_named_with_how_to_get_it(tmp_path, left):
    write_files(
        tmp_path, {name: text for name, text in coco_files().items() if name.startswith(left) and "val" not in name}
    )
    with pytest.raises(UserError) as raised:
        read(tmp_path)
    wanted = [f"COCO 2017 is not complete in {tmp_path}", "annotations/captions_val2017.json", "train2017.zip"]
    wanted.append(f"preprocessing.py --dataset coco --coco-year 2017 --data-dir {tmp_path} --download")
    for part in wanted:
        if left != "annotations/" or "captions_val" not in part:
            assert part in str(raised.value)
    assert ("train2017/*.jpg" in str(raised.value)) == (left != "train2017/")


def test_images_of_other_names_are_an_error_that_names_the_folders(tmp_path):
    files = {name.replace("2017/0", "2017/x"): text for name, text in coco_files().items()}
    write_files(tmp_path, files)
    with pytest.raises(UserError) as raised:
        read(tmp_path)
    for part in (
        "8 images were found in",
        str(tmp_path / "train2017"),
        str(tmp_path / "val2017"),
        "'000000000003.jpg'",
    ):
        assert part in str(raised.value)
