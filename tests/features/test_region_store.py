"""The store of region features from elsewhere: right features, whatever happens on the way."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from regions import SIZE, WIDTH, some_regions, write_files, write_table

from captioning.base.errors import UserError
from captioning.features import region_store
from captioning.features.joined_store import JoinedStore
from captioning.features.region_sources import match_images, open_source
from captioning.features.region_store import RegionKey, RegionStore, import_regions

KEYS = [f"{i}" for i in range(10)]
NAMES = [f"{key}.jpg" for key in KEYS]


def make(tmp_path, place, names=NAMES, dtype="float32", **options) -> RegionStore:
    source = open_source(str(place))
    key = RegionKey(source.layout, source.stamp(), dtype, "names")
    matched = match_images(names, source)
    return import_regions(tmp_path / "store", key, source, matched, names, 4, **options)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_each_image_gets_its_regions_and_zeros_behind_them(tmp_path, dtype):
    regions = some_regions(KEYS[:-1])
    store = make(tmp_path, write_table(tmp_path / "bu.tsv", regions), dtype=dtype)
    assert (store.size, store.regions, store.feature_size, store.dtype) == (10, 4, WIDTH, dtype)
    assert list(store.rows) == NAMES[:-1]
    assert list(store.unreadable) == NAMES[-1:]
    found = store.read(np.array([store.rows[name] for name in NAMES[:-1]]))
    assert found.shape == (9, 4, WIDTH)
    for image, (features, boxes), name in zip(found, regions.values(), NAMES, strict=False):
        np.testing.assert_array_equal(image[: len(features)], features.astype(dtype))
        np.testing.assert_array_equal(image[len(features) :], 0)
        np.testing.assert_array_equal(store.boxes(name)[0], boxes)
        assert store.boxes(name)[1] == SIZE
    assert store.boxes(NAMES[-1]) is None


def test_a_killed_import_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    place = write_files(tmp_path / "bu", some_regions(KEYS))
    make(tmp_path, place)
    whole = contents(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "whole")
    checked, count = region_store._checked, iter(range(100))

    def kill(*arguments):
        if next(count) == 6:  # in the second batch
            raise Killed
        return checked(*arguments)

    monkeypatch.setattr(region_store, "_checked", kill)
    with pytest.raises(Killed):
        make(tmp_path, place)
    monkeypatch.undo()
    assert not (tmp_path / "store" / "index.json").exists()
    reads: list[str] = []
    monkeypatch.setattr(region_store, "_checked", lambda *given: reads.append("") or checked(*given))
    make(tmp_path, place)
    assert len(reads) == 6, "the first batch of four was done"
    assert contents(tmp_path / "store") == whole


def test_damage_is_noticed_and_copied_again(tmp_path, capsys):
    place = write_files(tmp_path / "bu", some_regions(KEYS))
    store = make(tmp_path, place)
    whole = contents(store.folder)
    damaged = bytearray(whole["features.npy"])
    damaged[-3] ^= 1
    (store.folder / "features.npy").write_bytes(damaged)
    make(tmp_path, place, verify=True)
    assert "1 of 3 batches are damaged" in capsys.readouterr().err
    assert contents(store.folder) == whole
    regions = bytearray(whole["regions.npy"])
    regions[-4] += 1
    (store.folder / "regions.npy").write_bytes(regions)
    with pytest.raises(UserError, match=r"damaged feature store \(regions\.npy is not what was written\)"):
        RegionStore(store.folder)


def test_bad_features_are_named_together_and_the_rest_is_kept(tmp_path):
    regions = some_regions(KEYS)
    regions["2"][0][0, 1] = np.nan
    regions["9"][0][:] = 0
    place = write_files(tmp_path / "bu", regions)
    with pytest.raises(UserError, match="2 of 10 images") as refused:
        make(tmp_path, place)
    assert "2.jpg has features that are NaN" in str(refused.value)
    assert "9.jpg has features that are all 0" in str(refused.value)
    assert (tmp_path / "store" / "progress.bin").read_bytes() == b"\0\1\0"
    regions = {key: (features * 1e6, boxes) for key, (features, boxes) in some_regions(KEYS).items()}
    large = write_table(tmp_path / "large.tsv", regions)
    with pytest.raises(UserError, match="float16 cannot hold; set --feature-dtype float32"):
        make(tmp_path / "large", large, dtype="float16")


def test_what_can_be_seen_is_refused_before_anything_is_written(tmp_path):
    regions = some_regions(KEYS)
    regions["3"] = regions["3"][0], regions["3"][1] + 1000
    table = write_table(tmp_path / "bu.tsv", regions)
    with pytest.raises(UserError, match=r"1 of 10 images cannot be used: 3\.jpg has 4 boxes outside the picture"):
        make(tmp_path, table)
    place = write_files(tmp_path / "bu", some_regions(KEYS))
    with pytest.raises(UserError, match="6 numbers per region, and this captioner was trained with 2,048"):
        make(tmp_path, place, width=2048)
    np.savez(place / "4.npz", feat=np.ones((1, 7), "float32"))
    with pytest.raises(UserError, match=r"0\.jpg have 6 numbers per region, and those of 4\.jpg have 7"):
        make(tmp_path, place)
    assert not (tmp_path / "store").exists()


def test_boxes_are_held_against_the_pictures_where_the_source_tells_no_size(tmp_path):
    place = write_files(tmp_path / "bu", some_regions(KEYS))
    pictures = {name: tmp_path / name for name in NAMES}
    across, down = SIZE
    for i, path in enumerate(pictures.values()):
        Image.new("RGB", (down, across) if i == 5 else SIZE).save(path)  # one lies on its side
    pictures[NAMES[6]].write_bytes(b"no picture")  # whoever reads it says so
    make(tmp_path / "good", place, pictures=pictures)
    Image.new("RGB", (9, 8)).save(pictures[NAMES[3]])
    with pytest.raises(
        UserError, match=r"1 of 10 images cannot be used: 3\.jpg has .* outside the picture of 9 x 8 pixels"
    ):
        make(tmp_path / "bad", place, pictures=pictures)


def test_a_changed_source_is_another_store(tmp_path):
    place = write_files(tmp_path / "bu", some_regions(KEYS))
    before = open_source(str(place)).stamp()
    np.savez_compressed(place / "0.npz", feat=np.ones((1, WIDTH), "float32"))
    after = open_source(str(place)).stamp()
    key = RegionKey("files", before, "float16", "names")
    assert after != before
    assert replace(key, source=after).fingerprint != key.fingerprint


def test_stores_of_several_data_sets_are_read_as_one(tmp_path):
    one = make(tmp_path / "a", write_files(tmp_path / "a" / "bu", some_regions(KEYS, most=2)))
    other = make(tmp_path / "b", write_files(tmp_path / "b" / "bu", some_regions(KEYS, most=5, seed=1)))
    both = JoinedStore({"one": one, "other": other})
    assert (both.regions, both.padded) == (5, True)
    found = both.read(np.array([both.rows["one/1.jpg"], both.rows["other/4.jpg"]]))
    np.testing.assert_array_equal(found[0, :2], one.read(np.array([1]))[0])
    np.testing.assert_array_equal(found[0, 2:], 0)
    np.testing.assert_array_equal(found[1], other.read(np.array([4]))[0])
