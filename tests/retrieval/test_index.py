"""The index: what it finds, what it embeds again and what not, and that nothing that goes wrong costs what was done."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from captioning.base.errors import UserError
from captioning.pictures.loading import UnreachableImage, UnreadableImage
from captioning.retrieval import index
from captioning.retrieval.index import ImageIndex, update

J = 4


class Embedder:
    """Vectors that follow from a picture's content; counts what it was asked for. A file that says "bad" is unreadable.

    ``refused``: a picture that the system does not give.
    """

    def __init__(self, paths: dict[str, Path], batch_size: int = 2, refused: str = ""):
        self.paths, self.batch_size, self.asked = paths, batch_size, []
        self.refused = refused

    def __call__(self, names):
        for start in range(0, len(names), self.batch_size):
            batch = names[start : start + self.batch_size]
            self.asked += batch
            reasons = {
                name: UnreachableImage(f"{name}: refused")
                if name == self.refused
                else UnreadableImage(f"{name}: is bad")
                for name in batch
                if name == self.refused or self.paths[name].read_text() == "bad"
            }
            good = [name for name in batch if name not in reasons]
            vectors = np.asarray([vector(self.paths[name].read_text()) for name in good]).reshape(-1, J)
            yield batch, vectors, reasons


def vector(text: str) -> np.ndarray:
    found = np.random.default_rng(sum(map(ord, text))).normal(size=J)
    return (found / np.linalg.norm(found)).astype("float32")


@pytest.fixture
def photos(tmp_path) -> dict[str, Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(7):
        (folder / f"{i}.jpg").write_text(f"photo {i}")
    return {path.name: path for path in sorted(folder.iterdir())}


def build(tmp_path, photos, model="m1", source="photos", **options) -> tuple[ImageIndex, list[str]]:
    embed = Embedder(photos, **options)
    return update(tmp_path / "index", model, source, photos, embed, J), embed.asked


def files(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "index").iterdir())


def test_each_picture_finds_itself(tmp_path, photos):
    found, asked = build(tmp_path, photos)
    assert asked == list(photos)
    assert found.images == list(photos)
    assert files(tmp_path) == ["index.json", "vectors-1.npy"]
    queries = np.stack([vector("photo 5"), vector("photo 2")])
    places, cosines = found.search(queries, 3)
    assert places.shape == cosines.shape == (2, 3)
    assert [found.images[i] for i in places[:, 0]] == ["5.jpg", "2.jpg"]
    np.testing.assert_allclose(cosines[:, 0], 1, rtol=1e-6)
    everything = queries @ np.stack([vector(f"photo {i}") for i in range(7)]).T
    np.testing.assert_allclose(cosines, -np.sort(-everything, axis=1)[:, :3], rtol=1e-6)
    assert found.search(queries, 100)[0].shape == (2, 7)


def test_equals_come_in_the_order_of_the_index(tmp_path, photos):
    for path in photos.values():
        path.write_text("all alike")
    found, _ = build(tmp_path, photos)
    assert found.search(vector("all alike")[None], 7)[0].tolist() == [list(range(7))]


def test_only_what_is_new_or_changed_is_embedded_again(tmp_path, photos):
    build(tmp_path, photos)
    before = (tmp_path / "index" / "index.json").stat().st_mtime_ns
    found, asked = build(tmp_path, photos)
    assert asked == []
    assert (tmp_path / "index" / "index.json").stat().st_mtime_ns == before, "nothing was written"

    folder = photos["0.jpg"].parent
    photos["3.jpg"].write_text("another 3")
    photos["1.jpg"].unlink()
    del photos["1.jpg"]
    (folder / "9.jpg").write_text("photo 9")
    photos["9.jpg"] = folder / "9.jpg"
    found, asked = build(tmp_path, photos)
    assert asked == ["3.jpg", "9.jpg"]
    assert sorted(found.images) == sorted(photos)
    assert files(tmp_path) == ["index.json", "vectors-2.npy"]
    for name, path in photos.items():
        place = found.search(vector(path.read_text())[None], 1)[0][0, 0]
        assert found.images[place] == name


def test_a_touched_picture_of_the_same_size_is_embedded_again(tmp_path, photos):
    build(tmp_path, photos)
    os.utime(photos["2.jpg"], ns=(1, 1))
    assert build(tmp_path, photos)[1] == ["2.jpg"]


def test_pictures_that_cannot_be_read_are_listed_and_not_tried_again(tmp_path, photos):
    photos["4.jpg"].write_text("bad")
    found, _ = build(tmp_path, photos)
    assert "4.jpg" not in found.images
    assert found.unreadable["4.jpg"][2] == "4.jpg: is bad"
    assert len(found.vectors) == 6
    assert build(tmp_path, photos)[1] == []
    photos["4.jpg"].write_text("photo 4")
    found, asked = build(tmp_path, photos)
    assert asked == ["4.jpg"]
    assert found.unreadable == {}
    assert found.images[found.search(vector("photo 4")[None], 1)[0][0, 0]] == "4.jpg"


def test_a_picture_that_the_system_did_not_give_is_tried_again(tmp_path, photos):
    found, _ = build(tmp_path, photos, refused="4.jpg")
    assert found.unreadable["4.jpg"][2] == "4.jpg: refused"
    # Nothing is written anew for a picture that still cannot be read.
    found, asked = build(tmp_path, photos, refused="4.jpg")
    assert asked == ["4.jpg"]
    assert files(tmp_path) == ["index.json", "vectors-1.npy"]
    found, asked = build(tmp_path, photos)
    assert set(asked) == {"4.jpg"}
    assert found.images == [*sorted(set(photos) - {"4.jpg"}), "4.jpg"]


def test_what_was_done_before_an_interruption_stays(tmp_path, photos):
    class Interrupted(Embedder):
        def __call__(self, names):
            for number, batch in enumerate(super().__call__(names)):
                if number == 2:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        update(tmp_path / "index", "m1", "photos", photos, Interrupted(photos), J)
    half = ImageIndex(tmp_path / "index")
    assert half.images == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert half.images[half.search(vector("photo 2")[None], 1)[0][0, 0]] == "2.jpg"
    found, asked = build(tmp_path, photos)
    assert asked == ["4.jpg", "5.jpg", "6.jpg"]
    np.testing.assert_array_equal(found.vectors, [vector(f"photo {i}") for i in range(7)])


def test_a_kill_between_the_two_files_leaves_the_old_index(tmp_path, photos, monkeypatch):
    build(tmp_path, photos)
    photos["3.jpg"].write_text("another 3")
    with monkeypatch.context() as patch:
        patch.setattr(index, "write_atomically", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, photos)
    assert len(ImageIndex(tmp_path / "index").images) == 7
    assert build(tmp_path, photos)[1] == ["3.jpg"]


def test_an_index_of_another_model_or_folder_is_refused(tmp_path, photos):
    build(tmp_path, photos)
    for options, what in (({"model": "m2"}, "another model"), ({"source": "elsewhere"}, "another source")):
        with pytest.raises(UserError, match=rf"index: this index was built with {what} .* name another --index"):
            build(tmp_path, photos, **options)
    assert build(tmp_path, photos)[1] == []


def _replaced(old: str, new: str):
    """Damage of index.json: ``new`` for ``old``."""

    def damage(folder: Path) -> None:
        path = folder / "index.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return damage


def _vectors(array: np.ndarray):
    """Damage of the vectors: another array."""
    return lambda folder: np.save(folder / "vectors-1.npy", array)


@pytest.mark.parametrize(
    "damage",
    [
        *(_replaced('"version": 1', f'"version": {value}') for value in ('"../1"', "0", "-1", "1.0", "9" * 5000)),
        *(_replaced('"format": 1', f'"format": {value}') for value in ('"1"', "null", "true", "Infinity")),
        *(_replaced('"model": "m1"', f'"model": {value}') for value in ("7", "[]", "NaN")),
        *(_replaced('"0.jpg",', f"{name},") for name in ("7", "[]", '"1.jpg"')),
        _replaced('"unreadable": {}', '"unreadable": {"x": [1, 2]}'),
        _replaced('"unreadable": {}', '"unreadable": []'),
        _replaced('"unreadable": {}', '"unreadable": {"0.jpg": [1, 2, "why"]}'),
        lambda folder: (folder / "index.json").write_bytes(b"\xff"),
        lambda folder: (folder / "index.json").write_bytes(b"[" * 100_000),
        _vectors(np.zeros((7, J + 1), "float32")),
        _vectors(np.zeros((7, 0), "float32")),
        _vectors(np.zeros((7, J), "float64")),
        _vectors(np.asfortranarray(np.zeros((7, J), "float32"))),
        _vectors(np.zeros(7, "float32")),
        lambda folder: (folder / "vectors-1.npy").write_bytes((folder / "vectors-1.npy").read_bytes()[:60]),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").write_text("[]"),
        lambda folder: (folder / "vectors-1.npy").write_bytes(b""),
        lambda folder: (folder / "vectors-1.npy").write_bytes((folder / "vectors-1.npy").read_bytes()[:-1]),
        lambda folder: np.save(folder / "vectors-1.npy", np.zeros((3, J), "float32")),
        lambda folder: (folder / "vectors-1.npy").unlink(),
        lambda folder: (folder / "index.json").write_text(
            (folder / "index.json").read_text().replace('"version": 1', '"version": "../1"')
        ),
    ],
)
def test_damage_is_named(tmp_path, photos, damage):
    build(tmp_path, photos)
    damage(tmp_path / "index")
    with pytest.raises(UserError, match=r"index: (damaged index|not an index)"):
        build(tmp_path, photos)


def _flipped(folder: Path, place: int) -> None:
    """Change one bit of the vectors in ``folder``, ``place`` bytes before their end."""
    (path,) = folder.glob("vectors-*.npy")
    content = bytearray(path.read_bytes())
    content[-place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("block", [1024, 3])
def test_a_changed_bit_of_the_vectors_is_named(tmp_path, photos, monkeypatch, block):
    monkeypatch.setattr(index, "_BLOCK", block)
    monkeypatch.setattr(index, "_CHUNK", 2)  # index.json is written several times
    build(tmp_path, photos)
    photos["7.jpg"] = tmp_path / "photos" / "7.jpg"
    photos["7.jpg"].write_text("photo 7")
    found, _ = build(tmp_path, photos)  # the second version
    for row in (0, 4, 7):
        first, last = (0, 7) if block > 8 else (row // 3 * 3, min(7, row // 3 * 3 + 2))
        place = 4 * J * (len(found.images) - row) - 5
        _flipped(tmp_path / "index", place)
        named = rf"vectors-2\.npy: the vectors of {first}\.jpg to {last}\.jpg are not what was written.*delete it"
        with pytest.raises(UserError, match=named):
            ImageIndex(tmp_path / "index")
        with pytest.raises(UserError, match=named):
            build(tmp_path, photos)
        _flipped(tmp_path / "index", place)
    assert len(ImageIndex(tmp_path / "index").images) == 8


@pytest.mark.parametrize("written", ["[]", "[1, 2]", '["1"]', "[null]", "7"])
def test_damaged_checksums_of_an_index_are_named(tmp_path, photos, written):
    build(tmp_path, photos)
    path = tmp_path / "index" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checksums": json.loads(written)}))
    with pytest.raises(UserError, match="damaged index"):
        build(tmp_path, photos)


def test_an_index_of_an_earlier_release_has_no_checksums(tmp_path, photos):
    build(tmp_path, photos)
    path = tmp_path / "index" / "index.json"
    about = json.loads(path.read_text())
    del about["checksums"]
    path.write_text(json.dumps(about))
    assert build(tmp_path, photos)[1] == []
    photos["0.jpg"].write_text("another 0")
    assert build(tmp_path, photos)[1] == ["0.jpg"]
    assert json.loads(path.read_text())["checksums"], "the next update gives it some"


def test_a_newer_format_and_a_missing_index_are_named(tmp_path, photos):
    with pytest.raises(UserError, match="nowhere: not an index"):
        ImageIndex(tmp_path / "nowhere")
    build(tmp_path, photos)
    path = tmp_path / "index" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="written by a newer release"):
        build(tmp_path, photos)


def test_a_place_that_cannot_be_written_is_named(tmp_path, photos):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: the index cannot be written: .*; name another --index"):
        update(tmp_path / "file", "m1", "photos", photos, Embedder(photos), J)


def test_names_that_are_not_utf_8(tmp_path, photos):
    name = os.fsdecode(b"caf\xe9.jpg")
    photos[name] = photos["0.jpg"].parent / name
    photos[name].write_text("coffee")
    found, _ = build(tmp_path, photos)
    assert found.images[found.search(vector("coffee")[None], 1)[0][0, 0]] == name
    assert build(tmp_path, photos)[1] == []


def test_indexes_of_towers_that_come_with_the_repository_lie_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "PRETRAINED", tmp_path)
    (tmp_path / "run").mkdir()
    place = index.default_folder(tmp_path / "run", "m1", "photos", "/photos")
    assert place == index.default_folder(tmp_path / "run" / "aligner.zip", "m2", "photos", "/photos")
    assert place.parent == tmp_path / "run" / "index"
    shipped = [index.default_folder(tmp_path / "search.zip", model, "photos", "/photos") for model in ("m1", "m2")]
    assert [path.parent for path in shipped] == [tmp_path / "cache" / "keras-image-captioning" / "index"] * 2
    assert shipped[0] != shipped[1], "towers of another release have an index of their own"


def test_files_that_vanished_since_they_were_listed_are_left_out(tmp_path, photos):
    photos["5.jpg"].unlink()
    found, _ = build(tmp_path, photos)
    assert "5.jpg" not in found.images
    assert len(found.images) == 6
