"""Karpathy's split files: their splits, COCO's ids, and images in the folders that people have."""

import json
from pathlib import Path

import pytest
from layouts import karpathy_image, pack, warning, write_files

from captioning.base.errors import UserError
from captioning.data import datasets
from captioning.data.records import SPLITS, CaptionDataset
from config import Config

# Of COCO: id, folder and split. A training image of 2014 is named after its folder.
COCO = [
    (3, "train2014", "train"), (51, "train2014", "train"), (60, "val2014", "restval"), (7, "val2014", "val"),
    (75, "val2014", "test"), (80, "val2014", "test"),
]  # fmt: skip


def coco_images() -> list[dict]:
    return [
        karpathy_image(f"COCO_{part}_{i:012d}.jpg", split, f"one of {i}", f" two of {i} .", filepath=part, cocoid=i)
        for i, part, split in COCO
    ]


def coco_pictures() -> dict[str, str]:
    return {f"{part}/COCO_{part}_{i:012d}.jpg": f"pixels of {i}" for i, part, _ in COCO}


def flickr_images() -> list[dict]:
    splits = {"a": "train", "b": "train", "c": "val", "d": "test"}
    return [karpathy_image(f"{name}.jpg", split, f"one of {name}") for name, split in splits.items()]


def read(folder: Path, images, **settings) -> CaptionDataset:
    content = images if isinstance(images, str) else json.dumps({"images": images, "dataset": "coco"})
    write_files(folder, {"split.json": content})
    file = str(folder / "split.json")
    return datasets.load(Config(**{"dataset": "karpathy", "data_dir": str(folder), "captions_file": file, **settings}))


def by_split(dataset) -> dict[str, list[int]]:
    return {split: [record.image_id for record in dataset.split(split)] for split in SPLITS}


def test_coco_by_karpathy(tmp_path):
    write_files(tmp_path, coco_pictures())
    dataset = read(tmp_path, coco_images())
    assert by_split(dataset) == {"train": [3, 51, 60], "dev": [7], "test": [75, 80]}, "restval is for training"
    assert list(dataset.split("val")) == list(dataset.split("dev"))
    for record in dataset.records:
        assert record.path.read_text() == f"pixels of {record.image_id}"
        assert record.captions == (f"one of {record.image_id}", f"two of {record.image_id} .")
    # Training images come from both parts, so they are no submission to a server.
    assert dataset.coco_subsets == {"dev": "val2014", "test": "val2014"}
    assert dataset.warnings == ()


def test_images_of_2014_are_read_under_their_names_of_2017(tmp_path):
    """In the edition of 2017 they are in other parts. Most people have that edition."""
    names = {i: f"{'val2017' if i in (3, 80) else 'train2017'}/{i:012d}.jpg" for i, _, _ in COCO}
    write_files(
        tmp_path, {name: f"pixels of {i}" for i, name in names.items() if i != 51} | {"train2017/000000000999.jpg": ""}
    )
    dataset = read(tmp_path, coco_images())
    assert by_split(dataset) == {"train": [3, 60], "dev": [7], "test": [75, 80]}
    assert all(record.path.read_text() == f"pixels of {record.image_id}" for record in dataset.records)
    assert dataset.records[0].file_name == "COCO_train2014_000000000003.jpg"
    assert ": 5, e.g. " in warning(dataset, "names of 2017")
    missing = warning(dataset, "of split train with captions but no file in")
    assert missing.endswith(": 1, e.g. COCO_train2014_000000000051.jpg")
    assert str(tmp_path / "train2014") in missing
    assert str(tmp_path / "train2017") in missing


def test_archives_of_the_images_are_unpacked(tmp_path):
    pictures = coco_pictures()
    tmp_path.joinpath("coco").mkdir()
    for part in ("train2014", "val2014"):
        pack(tmp_path / f"coco/{part}.zip", {name: text for name, text in pictures.items() if name.startswith(part)})
    pack(tmp_path / "evil.zip", {"evil.jpg": "e"})
    evil = karpathy_image("evil.jpg", "train", "evil", filepath="../evil", cocoid=1)
    assert len(read(tmp_path / "coco", [*coco_images(), evil]).records) == 6
    assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize("folder", [".", "Flicker8k_Dataset", "flickr30k-images", "x/Images"])
def test_flickr_by_karpathy(tmp_path, folder):
    write_files(tmp_path, {f"{folder}/{name}.jpg": name for name in "abcd"})
    dataset = read(tmp_path, flickr_images())
    assert by_split(dataset) == {"train": [0, 1], "dev": [2], "test": [3]}
    assert [record.path.read_text() for record in dataset.records] == list("abcd")
    assert dataset.coco_subsets == {}


def test_warts_are_reported(tmp_path):
    write_files(tmp_path, {f"images/{name}.jpg": name for name in "abdex"})
    listed = [*flickr_images(), karpathy_image("e.jpg", "train"), karpathy_image("f.jpg", "train", " ")]
    dataset = read(tmp_path, listed)
    assert [record.file_name for record in dataset.records] == ["a.jpg", "b.jpg", "d.jpg"]
    assert [record.image_id for record in dataset.records] == [0, 1, 3], "ids do not depend on what is on the disk"
    for text, example in {
        "of split dev with captions but no file": "1, e.g. c.jpg",
        "listed without captions": "1, e.g. e.jpg",
        "with empty captions only": "1, e.g. f.jpg",
        "without captions (left out)": "1, e.g. x.jpg",
    }.items():
        assert warning(dataset, text).endswith(example)


@pytest.mark.parametrize("images", [coco_images(), flickr_images()])
def test_no_image_on_disk_is_an_error_that_names_where_it_looked(tmp_path, images):
    with pytest.raises(UserError) as raised:
        read(tmp_path / "empty", images)
    where = [images[0].get("filepath", ""), images[-1].get("filepath", "")]
    for part in (f"data_dir: 0 images were found in {tmp_path}", images[0]["filename"], *where):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ("[]", r"expected a Karpathy split file, .*; the file: "),
        ('{"images": {}}', "images: Input should be a valid array"),
        (
            '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}',
            r"COCO's own files are read with --dataset coco\); images\[0\]\.filename: Field required",
        ),
        (
            [karpathy_image("a.jpg", "train", "a"), karpathy_image("b.jpg", "extra", "b")],
            r"images\[1\]\.split: .*'train', 'restval', 'val' or 'test', found 'extra'",
        ),
        (
            [karpathy_image("a.jpg", "train", "a") | {"sentences": [{"tokens": ["a"]}]}],
            r"images\[0\]\.sentences\[0\]\.raw: Field",
        ),
        ([karpathy_image("a.jpg", "train", "a"), karpathy_image("a.jpg", "test", "b")], r"a\.jpg is listed twice"),
        (
            [karpathy_image(f"{n}.jpg", "train", "a", filepath="val2014", cocoid=3) for n in "ab"],
            "give id 3 to more than one",
        ),
        ("{", "Invalid JSON"),
    ],
)
def test_another_layout_is_named_with_what_was_expected(tmp_path, images, complaint):
    with pytest.raises(UserError, match=complaint):
        read(tmp_path, images)


def test_the_published_archive_is_unpacked_where_the_file_is_missing(tmp_path):
    write_files(tmp_path, {f"images/{name}.jpg": "" for name in "abcd"})
    content = json.dumps({"images": flickr_images()})
    pack(tmp_path / "caption_datasets.zip", {"dataset_coco.json": "{}", "dataset_flickr8k.json": content})
    file = tmp_path / "dataset_flickr8k.json"
    dataset = datasets.load(Config(dataset="karpathy", data_dir=str(tmp_path), captions_file=str(file)))
    assert by_split(dataset) == {"train": [0, 1], "dev": [2], "test": [3]}
    assert file.read_text() == content
    assert not (tmp_path / "dataset_coco.json").exists(), "what nobody asked for stays packed"
    with pytest.raises(UserError, match=r"neither a file .*typo\.json nor one of that name in .*caption_datasets\.zip"):
        datasets.load(Config(dataset="karpathy", data_dir=str(tmp_path), captions_file=str(tmp_path / "typo.json")))


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"captions_file: there is no file \."):
        datasets.load(Config(dataset="karpathy", data_dir=str(tmp_path), captions_file="."))
    with pytest.raises(UserError, match=r"captions_file: there is no file .*absent\.json\. .*caption_datasets\.zip"):
        datasets.load(Config(dataset="karpathy", data_dir=str(tmp_path), captions_file=str(tmp_path / "absent.json")))
