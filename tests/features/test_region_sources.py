"""Region features from elsewhere: all layouts give the same, and what cannot be used is named."""

import importlib.util
import sys

import h5py
import numpy as np
import pytest
from regions import SIZE, WIDTH, some_regions, write_files, write_hdf5, write_lmdb, write_table

from captioning.base.errors import UserError
from captioning.features.region_sources import Unusable, match_images, open_source

KEYS = ["9", "25", "391895"]


def written(layout: str, tmp_path, regions):
    if layout == "files":
        return write_files(tmp_path / "bu", regions)
    if layout == "hdf5":
        write_hdf5(tmp_path / "bu_box.h5", {key: (boxes, boxes) for key, (_, boxes) in regions.items()})
        return write_hdf5(tmp_path / "bu_att.h5", regions)
    if layout == "m2":
        return write_hdf5(tmp_path / "detections.hdf5", regions, "_features")
    if layout == "lmdb":
        pytest.importorskip("lmdb")
        write_lmdb(tmp_path / "bu_box.lmdb", {key: (boxes, boxes) for key, (_, boxes) in regions.items()})
        return write_lmdb(tmp_path / "bu_att.lmdb", regions)
    return write_table(tmp_path / "bu.tsv.0", regions)


@pytest.mark.parametrize("layout", ["files", "hdf5", "m2", "lmdb", "tsv"])
def test_every_layout_gives_features_and_boxes(layout, tmp_path):
    regions = some_regions(KEYS)
    source = open_source(str(written(layout, tmp_path, regions)))
    assert sorted(source.keys) == sorted(KEYS)
    for key, (features, boxes) in regions.items():
        outline = source.outline(key)
        assert (outline.regions, outline.width) == features.shape
        np.testing.assert_allclose(outline.boxes, boxes)
        np.testing.assert_array_equal(source.read(key), features)
        assert outline.size == (SIZE if layout == "tsv" else None)
    assert source.stamp() == open_source(str(source.place)).stamp()


def test_shapes_and_names_within_files(tmp_path):
    """A vector is one region, and a grid has its cells as regions. Other tools have other names."""
    folder = tmp_path / "features"
    folder.mkdir()
    rng = np.random.default_rng(0)
    vector, grid = rng.normal(size=5).astype("float16"), rng.normal(size=(2, 3, 5)).astype("float32")
    np.save(folder / "a.npy", vector)
    np.save(folder / "b.npy", grid)
    boxes = np.array([[0, 0, 9, 9], [1, 2, 3, 4]], "float32")
    np.savez(folder / "c.npz", x=grid[0, :2], bbox=boxes, num_bbox=2, image_w=10, image_h=9)
    np.savez(folder / "d.npz", whatever=grid)
    source = open_source(str(folder))
    np.testing.assert_array_equal(source.read("a"), vector[None])
    np.testing.assert_array_equal(source.read("b"), grid.reshape(6, 5))
    np.testing.assert_array_equal(source.read("d"), grid.reshape(6, 5))
    assert source.outline("c").size == (10, 9)
    np.testing.assert_array_equal(source.outline("c").boxes, boxes)


def test_images_are_matched_by_stem_or_by_their_id_in_coco(tmp_path):
    source = open_source(str(write_files(tmp_path / "bu", some_regions([*KEYS, "000000000042", "1000_x"]))))
    names = [
        "COCO_val2014_000000391895.jpg",
        "000000000009.jpg",
        "000000000042.jpg",
        "a/1000_x.png",
        "25.jpg",
        "26.jpg",
    ]
    assert match_images(names, source) == {
        names[0]: "391895",
        names[1]: "9",
        names[2]: "000000000042",
        names[3]: "1000_x",
        names[4]: "25",
    }
    with pytest.raises(UserError, match=r"a/25\.jpg and b/25\.png both mean '25'"):
        match_images(["a/25.jpg", "b/25.png"], source)
    assert match_images(["0025.jpg"], source) == {"0025.jpg": "25"}  # tables of bottom-up attention hold numbers


def folder_with(tmp_path, name: str, content: bytes):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / name).write_bytes(content)
    return open_source(str(tmp_path / "f"))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"feat": np.ones((2, 3), "int64")}, "floating-point"),
        ({"feat": np.ones((1, 2, 2, 3), "float32")}, r"\(1, 2, 2, 3\)"),
        ({"feat": np.ones((0, 3), "float32")}, r"\(0, 3\)"),
        ({"a": np.ones(2), "b": np.ones(2)}, "it has a, b"),
        ({"feat": np.ones((2, 3)), "bbox": np.ones((3, 4))}, "2 regions and 3 boxes"),
        ({"feat": np.ones((1, 3)), "bbox": np.array([[5, 0, 4, 9]])}, "right or lower side"),
        ({"feat": np.ones((1, 3)), "bbox": np.array([[0, np.nan, 4, 9]])}, "NaN"),
        (
            {"feat": np.ones((1, 3)), "bbox": np.array([[0, 0, 12, 9]]), "image_w": 10, "image_h": 9},
            "1 boxes outside the picture of 10 x 9 pixels, such as 0, 0, 12, 9",
        ),
    ],
)
def test_what_is_wrong_with_an_image_is_named(tmp_path, arrays, said):
    (tmp_path / "f").mkdir()
    np.savez(tmp_path / "f" / "a.npz", **arrays)
    with pytest.raises(Unusable, match=said):
        open_source(str(tmp_path / "f")).outline("a")


def test_files_that_are_cut_short_are_found_without_reading_them(tmp_path):
    np.save(tmp_path / "whole.npy", np.ones((3, 4), "float32"))
    np.savez(tmp_path / "whole.npz", feat=np.ones((3, 4), "float32"))
    folder = tmp_path / "f"
    folder.mkdir()
    for name in ("whole.npy", "whole.npz"):
        content = (tmp_path / name).read_bytes()
        (folder / f"cut{name[-4:]}").write_bytes(content[:-10])
        with pytest.raises(Unusable, match=r"cut short|cannot be read"):
            open_source(str(folder)).outline("cut")
    table = write_table(tmp_path / "bu.tsv", some_regions(KEYS))
    table.write_text(table.read_text()[:-9])
    with pytest.raises(Unusable, match="cut short"):
        open_source(str(table)).outline(KEYS[-1])
    table.write_text(table.read_text() + "\n12\t30")
    with pytest.raises(UserError, match="line 4 has 2 fields"):
        _ = open_source(str(table)).keys
    if importlib.util.find_spec("lmdb"):
        (tmp_path / "broken.lmdb").write_bytes(b"x" * 9000)
        with pytest.raises(UserError, match=r"broken\.lmdb: is damaged, or no LMDB"):
            open_source(str(tmp_path / "broken.lmdb"))
    broken = tmp_path / "broken.h5"
    broken.write_bytes(write_hdf5(tmp_path / "bu.h5", some_regions(KEYS)).read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken\.h5: is damaged, cut short or no HDF5 file"):
        open_source(str(broken))


@pytest.mark.parametrize("part", ["features", "boxes"])
def test_a_small_hdf5_file_that_claims_huge_arrays_is_refused(tmp_path, part):
    with h5py.File(tmp_path / "bu.h5", "w") as file:
        file["7_features"], file["7_boxes"] = np.ones((2, 3), "float32"), np.ones((2, 4), "float32")
        del file[f"7_{part}"]
        file.create_dataset(f"7_{part}", (1 << 20, 1 << 12), "float32", chunks=(64, 64))  # 16 GB, and none of it stored
    assert (tmp_path / "bu.h5").stat().st_size < 10_000
    source = open_source(str(tmp_path / "bu.h5"))
    with pytest.raises(Unusable, match="holds an array of more than 1,073,741,824 bytes"):
        source.array("7") if part == "features" else source.outline("7")


def test_pickles_are_never_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"features": 1}], dtype=object), allow_pickle=True)
    source = open_source(str(tmp_path))
    for look in (source.outline, source.read):
        with pytest.raises(Unusable):
            look("a")
    (tmp_path / "features.pth").write_bytes(b"")
    with pytest.raises(UserError, match="pickles, which are never read"):
        open_source(str(tmp_path / "features.pth"))


def test_places_that_hold_no_features_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: is empty"):
        open_source(str(tmp_path / "empty"))
    (tmp_path / "empty" / "readme.txt").touch()
    with pytest.raises(UserError, match=r"no known layout \(it holds readme\.txt\)"):
        open_source(str(tmp_path / "empty"))
    (tmp_path / "bu.tsv").touch()
    with pytest.raises(UserError, match="holds no image's features"):
        match_images(["a.jpg"], open_source(str(tmp_path / "bu.tsv")))


def test_the_name_without_att_and_the_folder_around_it_will_do(tmp_path):
    att = write_files(tmp_path / "data" / "cocobu", some_regions(KEYS))
    for name in ("data/cocobu", "data"):
        assert open_source(str(tmp_path / name)).place == att
    assert open_source(str(att)).outline(KEYS[0]).width == WIDTH


def test_lmdb_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "bu.lmdb").touch()
    with pytest.raises(UserError, match=r'pip install -e "\.\[features\]"'):
        open_source(str(tmp_path / "bu.lmdb"))
