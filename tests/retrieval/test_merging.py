"""Indexes of the parts of a collection become one that is up to date, and nothing is left when that fails."""

import os
from pathlib import Path

import numpy as np
import pytest

from captioning.base.errors import UserError
from captioning.retrieval import index as indexes
from captioning.retrieval.index import ImageIndex, create, update
from captioning.retrieval.merging import merge

J = 3


def unit(number: int) -> np.ndarray:
    found = np.random.default_rng(number).normal(size=J)
    return (found / np.linalg.norm(found)).astype("float32")


def embed(names):
    """The vector of ``12.jpg`` is that of 12. A name with an x is unreadable."""
    from captioning.pictures.loading import UnreadableImage

    reasons = {name: UnreadableImage(f"{name}: is bad") for name in names if "x" in name}
    good = [name for name in names if name not in reasons]
    yield list(names), np.asarray([unit(int(Path(name).stem)) for name in good], "float32").reshape(-1, J), reasons


def index_of(folder: Path, place: Path, model: str = "m") -> ImageIndex:
    """The index in ``place`` of the files below ``folder``."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.jpg"))}
    return update(place, model, str(folder), paths, embed, J)


@pytest.fixture
def parts(tmp_path) -> list[Path]:
    """The folders of the indexes of photos/a and photos/b/deep, whose file names overlap."""
    found = []
    for number, folder in enumerate(("a", "b/deep")):
        below = tmp_path / "photos" / folder
        below.mkdir(parents=True)
        for name in (0, 1, "1x"):
            (below / f"{name}.jpg").touch()
        (below / f"{7 + number}.jpg").touch()
        index_of(below, tmp_path / f"index{number}")
        found.append(tmp_path / f"index{number}")
    return found


def test_the_merged_index_is_that_of_the_folder_above(parts, tmp_path):
    found = merge(parts, tmp_path / "both")
    assert found.source == str(tmp_path / "photos")
    assert found.images == ["a/0.jpg", "a/1.jpg", "a/7.jpg", "b/deep/0.jpg", "b/deep/1.jpg", "b/deep/8.jpg"]
    np.testing.assert_array_equal(found.vectors, [unit(number) for number in (0, 1, 7, 0, 1, 8)])
    assert sorted(found.unreadable) == ["a/1x.jpg", "b/deep/1x.jpg"]
    assert found.images[found.search(unit(8)[None], 1)[0][0, 0]] == "b/deep/8.jpg"
    assert len(ImageIndex(parts[0]).images) == 3, "the parts stay"
    before = os.stat(tmp_path / "both" / "index.json").st_mtime_ns
    assert index_of(tmp_path / "photos", tmp_path / "both").images == found.images
    assert os.stat(tmp_path / "both" / "index.json").st_mtime_ns == before, "nothing is embedded again"


def test_parts_of_one_folder_keep_their_names(tmp_path):
    for part, names in (("p", ["0.jpg"]), ("q", ["1.jpg", "2.jpg"])):
        create(
            tmp_path / part, "m", "flickr8k-dev", [(name, (1, 1)) for name in names], {}, [np.eye(3)[: len(names)]], J
        )
    found = merge([tmp_path / "p", tmp_path / "q"], tmp_path / "both")
    assert (found.source, found.images) == ("flickr8k-dev", ["0.jpg", "1.jpg", "2.jpg"])


def test_what_cannot_be_merged_is_named(parts, tmp_path):
    output = tmp_path / "both"
    photos = tmp_path / "photos"
    index_of(photos / "a", tmp_path / "other", "m2")
    with pytest.raises(UserError, match=r"other: was built with other towers \(m2\) than .*index0 \(m\)"):
        merge([parts[0], tmp_path / "other"], output)
    index_of(photos, tmp_path / "all")
    with pytest.raises(UserError, match=r"a/0\.jpg: is in .*index0 and in .*all; only indexes of different pictures"):
        merge([parts[0], tmp_path / "all"], output)
    with pytest.raises(UserError, match=r"is in .*index0 and in .*index0"):
        merge([parts[0], parts[0]], output)
    create(tmp_path / "split", "m", "flickr8k-dev", [("0.jpg", (1, 1))], {}, [np.eye(3)[:1]], J)
    with pytest.raises(UserError, match="and flickr8k-dev are no folders on one disk"):
        merge([parts[0], tmp_path / "split"], output)
    with pytest.raises(UserError, match="nowhere: not an index"):
        merge([parts[0], tmp_path / "nowhere"], output)
    assert not output.exists()
    before = (parts[1] / "index.json").read_bytes()
    with pytest.raises(UserError, match="index1: holds an index already; name another folder"):
        merge(parts, parts[1])
    assert (parts[1] / "index.json").read_bytes() == before


def test_what_fails_leaves_no_index(parts, tmp_path, monkeypatch):
    def interrupted():
        yield unit(0)[None]
        raise KeyboardInterrupt

    images = [("0.jpg", (1, 1)), ("1.jpg", (1, 1))]
    with pytest.raises(KeyboardInterrupt):
        create(tmp_path / "new", "m", "s", images, {}, interrupted(), J)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: the index cannot be written"):
        merge(parts, tmp_path / "file")
    monkeypatch.setattr(indexes, "MAX_BYTES", 20)
    with pytest.raises(UserError, match=r"new: 2 pictures are too many for one index, whose index\.json may have"):
        create(tmp_path / "new", "m", "s", images, {}, [], J)
