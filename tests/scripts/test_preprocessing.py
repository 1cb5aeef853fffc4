"""Preparing: which images have their features extracted, and into which store."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from captioning.base.errors import UserError
from captioning.data.mixture import MixedDataset
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.features.looks import training_looks
from captioning.retrieval.searching import unknown_words
from config import Config
from preprocessing import find_vocabulary, prepare


@pytest.fixture
def toy(tmp_path):
    """A data set of five pictures that are dark on the left, and settings with a small encoder for it.

    Its first feature is how much brighter the right half is than the left, the others are random.
    """
    images = keras.Input((None, None, 3))
    encoder = keras.Model(images, layers.Conv2D(5, 32, strides=32)(images))
    kernel, bias = encoder.get_weights()
    kernel[..., 0] = np.where(np.arange(32) < 16, -1, 1)[None, :, None] / kernel[..., 0].size
    encoder.set_weights([kernel, bias])
    encoder.save(tmp_path / "encoder.keras")
    records = []
    for i, split in enumerate(["train", "train", "dev", "test", ""]):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, 16:] = 40 * i, 255, 0
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        records.append(ImageRecord(i, path.name, path, ("a picture",), split))
    config = Config(encoder=str(tmp_path / "encoder.keras"), image_size=32, feature_dir=str(tmp_path / "features"))
    return CaptionDataset("toy", tuple(records), ()), config


def test_a_split_wanted_alone_gets_its_own_store_unless_there_is_one_of_all(tmp_path, toy):
    dataset, config = toy
    alone = prepare(config, dataset, split="val")
    assert list(alone.store.rows) == ["2.png"]
    assert [record.file_name for record in alone.usable("dev")] == ["2.png"]
    whole = prepare(config, dataset).store
    assert list(whole.rows) == [record.file_name for record in dataset.records]
    np.testing.assert_array_equal(alone.store.read(np.array([0])), whole.read(np.array([2])))
    assert prepare(config, dataset, split="dev").store.folder == whole.folder
    assert prepare(config, dataset, split="test").store.folder == whole.folder
    assert len(list((tmp_path / "features").iterdir())) == 2


def for_training(config, dataset):
    return prepare(config, dataset, looks=training_looks(config))


def test_training_images_are_mirrored_and_cropped_once(toy):
    dataset, config = toy
    config = config.with_overrides({"mirror": True, "crops": 3, "crop": 0.5})
    prepared = for_training(config, dataset)
    assert [view.mirrored for view in prepared.views] == [True, False, True, False]
    assert all(list(view.store.rows) == ["0.png", "1.png"] for view in prepared.views)
    looks = [view.store.read(np.array([0, 1])) for view in prepared.views]
    assert len({look.tobytes() for look in looks}) == 4
    assert (prepared.store.read(np.array([0, 1]))[:, 0, 0] > 0).all()
    assert [(look[:, 0, 0] > 0).tolist() for look in looks] == [[False] * 2, [True] * 2] * 2, "mirrored, as they are"
    assert not prepare(config, dataset).views, "views are for training"
    mirrored, *_ = for_training(config.with_overrides({"crops": 0, "crop": 0.7}), dataset).views
    assert mirrored.store.folder == prepared.views[0].store.folder, "whether there are crops too does not matter"
    smaller = CaptionDataset("toy", dataset.records[1:], ())
    again = for_training(config, smaller).views
    for view, look in zip(again, looks, strict=True):
        np.testing.assert_array_equal(view.store.read(np.array([0]))[0], look[1])
    unmirrored = for_training(config.with_overrides({"mirror": False}), dataset).views
    assert [view.mirrored for view in unmirrored] == [False] * 3
    assert unmirrored[0].store.folder == prepared.views[1].store.folder


def test_other_crops_have_other_stores(toy):
    dataset, config = toy
    folders = {
        for_training(config.with_overrides({"crops": 1, **changes}), dataset).views[0].store.folder
        for changes in ({}, {"crop": 0.5}, {"colour_jitter": 0.2}, {"erase": 0.5})
    }
    assert len(folders) == 4


def test_views_of_other_images_are_refused(toy):
    dataset, config = toy
    config = config.with_overrides({"crops": 1})
    folder = for_training(config, dataset).views[0].store.folder
    index = folder / "index.json"
    index.write_text('{"rows": {"0.png": 0}, "unreadable": {"1.png": "was broken then"}}')
    with pytest.raises(UserError, match=f"{folder.name}: holds other images than .* delete both"):
        for_training(config, dataset)


def elsewhere(dataset: CaptionDataset, folder, shade: int) -> CaptionDataset:
    """A data set with the same names and sizes of files, but for other pictures."""
    folder.mkdir()
    records = []
    for record in dataset.records:
        path = folder / record.file_name
        path.write_bytes(record.path.read_bytes())
        records.append(ImageRecord(record.image_id, record.file_name, path, record.captions, record.split))
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(folder / "0.png")
    size = max(each.path.stat().st_size for each in (records[0], dataset.records[0]))
    for path in (records[0].path, dataset.records[0].path):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    return CaptionDataset(dataset.name, tuple(records), ())


def test_data_sets_with_the_same_names_and_sizes_of_files_have_stores_apart(toy, tmp_path):
    dataset, config = toy
    other = elsewhere(dataset, tmp_path / "other", shade=200)
    config = config.with_overrides({"mirror": True})
    mixed = MixedDataset({"one": dataset, "two": other})
    prepared = for_training(config, mixed)
    store, [view] = prepared.store, prepared.views
    assert list(store.rows)[::5] == ["one/0.png", "two/0.png"]
    one, two = store.read(np.array([store.rows["one/0.png"], store.rows["two/0.png"]]))
    assert not np.array_equal(one, two)
    assert list(view.store.rows) == ["one/0.png", "one/1.png", "two/0.png", "two/1.png"]
    assert [record.file_name for record in prepared.usable("train")] == list(view.store.rows)
    assert prepared.parts["one"].store.folder == prepare(config, dataset).store.folder
    # The same files, captioned twice, share their store.
    twice = prepare(config, MixedDataset({"one": dataset, "two": CaptionDataset("toy", dataset.records, ())}))
    assert twice.parts["one"].store.folder == twice.parts["two"].store.folder


def test_a_split_of_several_data_sets_is_prepared_where_it_exists(toy):
    dataset, config = toy
    without = CaptionDataset("toy", dataset.records[:2], ())
    prepared = prepare(config, MixedDataset({"one": without, "two": dataset}), split="dev")
    assert list(prepared.parts) == ["two"]
    assert list(prepared.store.rows) == ["two/2.png"]


def captioned(*captions: str) -> CaptionDataset:
    splits = ["train"] * (len(captions) - 1) + ["dev"]
    made = [
        ImageRecord(i, f"{i}", f"{i}", (text,), split)
        for i, (text, split) in enumerate(zip(captions, splits, strict=True))
    ]
    return CaptionDataset("toy", made, ())


def test_unknown_words_are_told_before_training(capsys):
    dataset = captioned("a dog runs", "a dog", "a cat", "a bird")
    assert len(find_vocabulary(Config(vocab_threshold=1), dataset)) == 4 + 4
    assert capsys.readouterr() == ("unknown words: 0.0% of those of the training captions, 50.0% of those of dev\n", "")
    find_vocabulary(Config(vocab_threshold=3), dataset)
    told = capsys.readouterr().err
    assert "note: vocab_threshold: 57.1% of the words of the training captions are unknown, such as 'dog'" in told


def test_sentences_without_spaces_are_told_and_split_by_unicode(capsys):
    dataset = captioned("一只红色的狗在草地上跑。", "一只狗", "一只红色的猫")
    found = find_vocabulary(Config(vocab_threshold=1), dataset)
    assert "note: words: 50% of the captions have sentences without spaces" in capsys.readouterr().err
    assert found.words[4:] == ["一只狗", "一只红色的狗在草地上跑"]
    found = find_vocabulary(Config(vocab_threshold=1, words="unicode"), dataset)
    told = capsys.readouterr()
    assert (told.err, found.splitting.name, found.words[4:7]) == ("", "unicode", ["一", "只", "狗"])
    assert "16.7% of those of dev" in told.out
    # A search splits its query in the same way.
    assert unknown_words("红猫。", found) == ["猫"]


def test_captions_that_are_mostly_cut_are_told(capsys):
    dataset = captioned(*["a dog"] * 99, "a dog runs", "a dog")
    find_vocabulary(Config(vocab_threshold=1, words="characters", max_caption_length=4), dataset)
    note = (
        "note: max_caption_length: 100% of the training captions are longer than 4 and are cut; --max-caption-length 5"
    )
    assert note in capsys.readouterr().err
    find_vocabulary(Config(vocab_threshold=1, words="characters", max_caption_length=5), dataset)
    assert "max_caption_length" not in capsys.readouterr().err


def test_a_captioner_refuses_what_it_does_not_know_or_learns_it(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    words = ["<pad>", "<start>", "<end>", "<unk>", "a", "dog"]
    (tmp_path / "vocabulary.json").write_text(json.dumps({"words": words}))
    dataset = captioned("a hund", "a hund", "a dog", "a hund")
    start = {"init": str(tmp_path), "vocab_threshold": 2}
    with pytest.raises(
        UserError, match=r"^init: 33\.3% .* such as 'hund', .*--extend-vocabulary .*--unknown-limit 0\.34$"
    ):
        find_vocabulary(Config(**start), dataset)
    assert find_vocabulary(Config(**start, unknown_limit=0.34), dataset).words == words
    assert find_vocabulary(Config(**start, extend_vocabulary=True), dataset).words == [*words, "hund"]
    assert "vocabulary: 1 new words beside the 6 of" in capsys.readouterr().out
