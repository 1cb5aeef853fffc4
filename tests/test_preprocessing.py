"""Preparing: which images have their features extracted, and into which store."""

import keras
import numpy as np
from keras import layers
from PIL import Image

from config import Config
from datasets import CaptionDataset, ImageRecord
from preprocessing import prepare


def test_a_split_wanted_alone_gets_its_own_store_unless_there_is_one_of_all(tmp_path):
    images = keras.Input((None, None, 3))
    keras.Model(images, layers.Conv2D(5, 16, strides=16)(images)).save(tmp_path / "encoder.keras")
    records = []
    for i, split in enumerate(["train", "train", "dev", "test", ""]):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(path)
        records.append(ImageRecord(i, path.name, path, ("a picture",), split))
    dataset = CaptionDataset("toy", tuple(records), ())
    config = Config(encoder=str(tmp_path / "encoder.keras"), image_size=32, feature_dir=str(tmp_path / "features"))

    alone = prepare(config, dataset, split="val")
    assert list(alone.store.rows) == ["2.png"]
    assert [record.file_name for record in alone.usable("dev")] == ["2.png"]
    whole = prepare(config, dataset).store
    assert list(whole.rows) == [record.file_name for record in records]
    np.testing.assert_array_equal(alone.store.read(np.array([0])), whole.read(np.array([2])))
    assert prepare(config, dataset, split="dev").store.folder == whole.folder
    assert prepare(config, dataset, split="test").store.folder == whole.folder
    assert len(list((tmp_path / "features").iterdir())) == 2
