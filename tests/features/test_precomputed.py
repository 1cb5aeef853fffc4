"""Features from elsewhere for a data set: which images must have some, and which store is taken."""

from pathlib import Path

import pytest
from regions import some_regions, write_files

from captioning.base.errors import UserError
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.features.precomputed import StoredFeatures, region_store
from captioning.features.region_sources import open_source
from config import EncoderSettings

SPLITS = ["train"] * 4 + ["dev"] * 2 + ["test"] * 2


@pytest.fixture
def dataset() -> CaptionDataset:
    records = [ImageRecord(i, f"{i}.jpg", Path(f"{i}.jpg"), ("a dog",), split) for i, split in enumerate(SPLITS)]
    return CaptionDataset("toy", records, ())


def store_of(tmp_path, dataset, keys, split="", **options):
    place = tmp_path / f"of-{'-'.join(keys)}"
    if not place.with_name(f"{place.name}_att").exists():
        write_files(place, some_regions(keys))
    settings = EncoderSettings(feature_dir=str(tmp_path / "stores"), workers=1)
    return region_store(settings, dataset, open_source(f"{place}_att"), split, **options)


def test_images_without_features_are_left_out_of_training_and_counted(tmp_path, dataset, capsys):
    store = store_of(tmp_path, dataset, ["0", "1", "3", "4", "5"])
    assert list(store.rows) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert "3 of 8 images have no features and are left out (train 1, test 2): 2.jpg, 6.jpg, 7.jpg" in (
        capsys.readouterr().err
    )
    assert len(list((tmp_path / "stores").iterdir())) == 1


@pytest.mark.parametrize(
    ("keys", "split", "said"),
    [
        (["a"], "", r"4 of the 4 images of split train have no features there: 0\.jpg, 1\.jpg, 2\.jpg, 3\.jpg"),
        (["0", "1", "2", "3"], "", r"2 of the 2 images of split dev"),
        (["0", "6"], "test", r"1 of the 2 images of split test have no features there: 7\.jpg"),
    ],
)
def test_what_is_asked_for_must_have_features(tmp_path, dataset, keys, split, said):
    with pytest.raises(UserError, match=said):
        store_of(tmp_path, dataset, keys, split)
    assert not (tmp_path / "stores").exists()


def test_a_split_takes_the_store_of_all_images_if_there_is_one(tmp_path, dataset):
    keys = [str(i) for i in range(7)]  # the last test image has none
    alone = store_of(tmp_path, dataset, keys, "dev")
    assert list(alone.rows) == ["4.jpg", "5.jpg"]
    whole = store_of(tmp_path, dataset, keys)
    assert store_of(tmp_path, dataset, keys, "dev").folder == whole.folder != alone.folder
    with pytest.raises(UserError, match=r"1 of the 2 images of split test have no features there: 7\.jpg"):
        store_of(tmp_path, dataset, keys, "test")
    with pytest.raises(UserError, match="this captioner was trained with 2,048"):
        store_of(tmp_path, dataset, keys, width=2048)


def test_what_stands_in_the_place_of_an_encoder():
    stored = StoredFeatures(36, 2048)
    assert stored.output_shape == (None, 36, 2048)
    assert stored.weights == []
    with pytest.raises(UserError, match="has no encoder for pictures"):
        stored.call(None)
