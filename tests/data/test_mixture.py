"""Several data sets read as one: what has the same name or id in two of them stays apart."""

from pathlib import Path

import pytest

from captioning.base.errors import UserError
from captioning.data.mixture import MixedDataset
from captioning.data.records import CaptionDataset, ImageRecord


def dataset(name: str, *splits: str, **subsets: str) -> CaptionDataset:
    """Images 0.jpg, 1.jpg ... in these splits, with two captions each."""
    records = [
        ImageRecord(i, f"{i}.jpg", Path(name, f"{i}.jpg"), (f"{name} {i} a", f"{name} {i} b"), split)
        for i, split in enumerate(splits)
    ]
    return CaptionDataset(name, records, (), subsets)


@pytest.fixture
def mixture() -> MixedDataset:
    return MixedDataset({"one": dataset("A", "train", "train", "dev"), "two": dataset("B", "test", "train", "train")})


def test_images_of_the_same_name_and_id_stay_apart(mixture):
    train = mixture.split("train")
    assert list(train.file_names) == ["one/0.jpg", "one/1.jpg", "two/1.jpg", "two/2.jpg"]
    assert [(record.file_name, record.image_id, str(record.path)) for record in train] == [
        ("one/0.jpg", 0, "A/0.jpg"),
        ("one/1.jpg", 1, "A/1.jpg"),
        ("two/1.jpg", 1, "B/1.jpg"),
        ("two/2.jpg", 2, "B/2.jpg"),
    ]
    assert list(train.captions())[2:6] == [
        ("one/1.jpg", "A 1 a"),
        ("one/1.jpg", "A 1 b"),
        ("two/1.jpg", "B 1 a"),
        ("two/1.jpg", "B 1 b"),
    ]
    assert [record.file_name for record in train[1:3]] == ["one/1.jpg", "two/1.jpg"]
    assert train[-1].file_name == "two/2.jpg"
    with pytest.raises(IndexError):
        train[4]
    assert list(train.named({"one/1.jpg", "two/2.jpg", "2.jpg"}).file_names) == ["one/1.jpg", "two/2.jpg"]


def test_a_split_is_that_of_the_data_sets_that_have_it(mixture):
    assert list(mixture.split("val").file_names) == ["one/2.jpg"]
    assert list(mixture.split("test").file_names) == ["two/0.jpg"]
    assert (mixture.has("one", "dev"), mixture.has("two", "dev"), mixture.has("two", "tests")) == (True, False, False)
    with pytest.raises(
        UserError, match=r"none of the data sets has .* 'tests'; one has train, dev; two has train, test"
    ):
        mixture.split("tests")


def test_a_data_set_without_training_captions_is_named():
    mixture = MixedDataset({"one": dataset("A", "train"), "two": dataset("B", "dev", "")})
    with pytest.raises(UserError, match=r"data set two has no training captions; .* leave it out"):
        mixture.split("train")


def test_what_val_means_is_asked_of_coco_too():
    mixture = MixedDataset(
        {"coco": dataset("coco", "train", "dev", dev="train2017"), "two": dataset("B", "train", "dev")}
    )
    with pytest.raises(UserError, match="COCO's val is the split test"):
        mixture.split("val")
