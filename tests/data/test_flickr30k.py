"""Flickr30k in both of its layouts, with Karpathy's splits or drawn ones."""

import json
from pathlib import Path

import pytest
from layouts import karpathy_image, warning, write_files

from captioning.base.errors import UserError
from captioning.data import datasets
from captioning.data.records import CaptionDataset
from config import Config

NAMES = "abcdefghij"
TOKENS = "".join(f"{name}.jpg#{k}\tcaption {k} of {name} .\n" for name in NAMES for k in (0, 1))
TABLE = "image_name| comment_number| comment\n" + "".join(
    f"{name}.jpg| {k}| caption {k} of {name} .\n" for name in NAMES for k in (0, 1)
)


def files(text: str, folder: str = "flickr30k-images") -> dict[str, str]:
    name = "results.csv" if text.startswith("image_name") else "results_20130124.token"
    return {f"{folder}/{image}.jpg": image for image in NAMES} | {name: text}


def read(folder: Path, **settings) -> CaptionDataset:
    return datasets.load(Config(dataset="flickr30k", data_dir=str(folder), **settings))


def split_file(folder: Path, *images: dict) -> str:
    folder.joinpath("dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    return str(folder / "dataset_flickr30k.json")


def splits(dataset) -> dict[str, str]:
    return {record.file_name[0]: record.split for record in dataset.records}


@pytest.mark.parametrize("text", [TOKENS, TABLE, TABLE.replace("\n", "\r\n")], ids=["token", "csv", "windows"])
@pytest.mark.parametrize("folder", ["flickr30k-images", "flickr30k_images/flickr30k_images"])
def test_both_layouts_give_the_same_records(tmp_path, text, folder):
    write_files(tmp_path, files(text, folder))
    dataset = read(tmp_path)
    assert [record.file_name for record in dataset.records] == [f"{name}.jpg" for name in NAMES]
    assert dataset.records[1].captions == ("caption 0 of b .", "caption 1 of b .")
    assert dataset.records[1].path.read_text() == "b"
    assert sorted(splits(dataset).values()) == ["dev", "test", *["train"] * 8]
    assert splits(read(tmp_path, split_seed=1)) != splits(dataset)
    assert dataset.warnings == ()


def test_splits_of_karpathy(tmp_path):
    write_files(tmp_path, files(TOKENS))
    named = {"a": "test", "b": "val", "c": "train", "d": "train", "zebra": "train"}
    listed = split_file(
        tmp_path, *(karpathy_image(f"{name}.jpg", split, "other words") for name, split in named.items())
    )
    dataset = read(tmp_path, captions_file=listed)
    assert splits(dataset) == {"a": "test", "b": "dev", "c": "train", "d": "train"} | dict.fromkeys("efghij", "")
    assert dataset.records[0].captions[0] == "caption 0 of a .", "the words are those of Flickr30k's own file"
    assert warning(dataset, "in no split").endswith(": 6, e.g. e.jpg; f.jpg; g.jpg")
    assert warning(dataset, "images of dataset_flickr30k.json without captions").endswith(": 1, e.g. zebra.jpg")


def test_splits_of_other_images_are_refused(tmp_path):
    write_files(tmp_path, files(TOKENS))
    with pytest.raises(UserError, match=r"captions_file: .* lists no image of Flickr30k; take dataset_flickr30k\.json"):
        read(tmp_path, captions_file=split_file(tmp_path, karpathy_image("zebra.jpg", "train", "a zebra")))


def test_the_published_slip_in_the_table_is_mended(tmp_path):
    write_files(tmp_path, files(TABLE + "a.jpg| 4   A dog runs across the | grass .\nb.jpg| 2|\nc.jpg| 2\n"))
    dataset = read(tmp_path)
    assert dataset.records[0].captions[2] == "A dog runs across the | grass ."
    assert warning(dataset, "without a bar after the number").endswith(
        ": 2, e.g. a.jpg| 4   A dog runs across the | grass .; c.jpg| 2"
    )
    assert warning(dataset, "empty captions (dropped)").endswith(": 2, e.g. b.jpg; c.jpg")


def test_a_line_that_is_none_is_named(tmp_path):
    write_files(tmp_path, files(TABLE + "a.jpg, 4, A dog\n"))
    with pytest.raises(UserError, match=r"results\.csv, line 22: expected NAME\| NUMBER\| CAPTION; found 'a\.jpg, 4"):
        read(tmp_path)


def test_what_is_missing_is_named_with_where_people_get_it(tmp_path):
    with pytest.raises(UserError) as raised:
        read(tmp_path)
    for part in (
        str(tmp_path),
        "results_20130124.token or results.csv",
        "flickr30k-images/*.jpg",
        "on request at https",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize("text", ["", "\n\n", "image_name| comment_number| comment\n"])
def test_a_file_without_captions_is_named(tmp_path, text):
    write_files(tmp_path, {"flickr30k-images/1.jpg": "", "results.csv": text})
    with pytest.raises(UserError, match="0 images are too few to draw splits from"):
        datasets.load(Config(dataset="flickr30k", data_dir=str(tmp_path)))
