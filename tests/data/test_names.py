"""Names that differ a little from those on disk are matched where only one image can be meant; others get a suggestion."""

import unicodedata

import pytest
from layouts import names, warning, write_files

from captioning.base.errors import UserError
from captioning.data import datasets
from captioning.data.names import match, nearest
from config import Config

COMPOSED, APART = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("./a.jpg", "a.jpg"),
        ("x\\a.jpg", "x/a.jpg"),
        (" a.jpg", "a.jpg"),
        (COMPOSED, APART),
        (APART, COMPOSED),
        ("A.JPG", "a.jpg"),
        ("a%20dog.jpg", "a dog.jpg"),
        ("a\u00a0dog.jpg", "a dog.jpg"),
        ("https://example.org/x/a.jpg?width=300", "a.jpg"),
        ("a.jpg", "images/a.jpg"),
        ("/elsewhere/data/a.jpg", "a.jpg"),
        ("C:\\data\\x\\a.jpg", "x/a.jpg"),
        ("a", "a.jpg"),
        ("x/a.png", "x/a.jpg"),
        ("0054c91397f2fe05", "train/0054c91397f2fe05.JPEG"),
    ],
)
def test_one_name_in_two_spellings(wanted, there):
    found, told = match([wanted, "both.jpg"], [there, "both.jpg", "zebra.gif"])
    assert found == {wanted: there}
    assert [*told.values()] == [[f"{wanted} is {there}"]]


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"]),  # which one?
        (["x/a.jpg", "y/a.jpg"], ["a.jpg"]),
        (["cats/1.jpg"], ["dogs/1.jpg"]),
        (["a.png"], ["a.jpg", "a.gif"]),
        (["a.jpg", "A.jpg"], ["images/a.JPG"]),
        (["a.1.jpg"], ["a.2.jpg"]),
    ],
)
def test_what_could_be_another_image_is_not_matched(wanted, there):
    assert match(wanted, there) == ({}, {})


def test_exact_names_come_first():
    assert match(["a.jpg", "./a.jpg"], ["a.jpg", "b.jpg"]) == ({}, {})


def read(tmp_path, lines: list[str], images: list[str]):
    write_files(tmp_path, {f"images/{name}": "" for name in images})
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption,split", *lines]) + "\n", encoding="utf-8")
    where = {"data_dir": str(tmp_path / "images"), "captions_file": str(tmp_path / "captions.csv")}
    return datasets.load(Config(dataset="folder", **where))


def test_a_data_set_keeps_the_names_of_its_captions_file_and_tells_once(tmp_path):
    whole = tmp_path / "images" / "x" / "a.jpg"
    lines = [f"{whole},a dog,train", "./b.jpg,a cat,train", f"{COMPOSED},a bird,dev", "e.jpg,a cow,dev"]
    dataset = read(tmp_path, lines, ["x/a.jpg", "y/a.jpg", "b.jpg", APART, "e.jpg"])
    assert names(dataset.records) == sorted([str(whole), "./b.jpg", COMPOSED, "e.jpg"])
    assert [record.path.name for record in dataset.records] == ["b.jpg", "a.jpg", APART, "e.jpg"]
    assert warning(dataset, "in their spelling (matched)").endswith(
        f": 2, e.g. ./b.jpg is b.jpg; {COMPOSED} is {APART}"
    )
    assert warning(dataset, "in their folder (matched)").endswith("x/a.jpg is x/a.jpg")
    assert warning(dataset, "without captions").endswith(": 1, e.g. y/a.jpg")


def test_the_nearest_name_is_suggested(tmp_path):
    with pytest.raises(UserError, match=r"looked for is 'img_0001\.jpg'; the nearest name there is 'img-00001\.jpg'"):
        read(tmp_path, ["img_0001.jpg,a dog,train"], ["img-00001.jpg", "zebra.png"])
    dataset = read(tmp_path / "2", ["picture_0001.jpg,a dog,train", "b.jpg,a cat,dev"], ["picture-0001.jpg", "b.jpg"])
    assert warning(dataset, "whose name is like one on disk").endswith("nearest name there is 'picture-0001.jpg'")
    assert nearest("q.jpg", ["zebra.png"]) == ""
