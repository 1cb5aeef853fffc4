"""Shards of features and of vectors, joined, are what one process gives. Workers run in this process."""

import zipfile
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from running import TINY, make_data, script
from small_albums import break_picture, make_pictures

pytest.importorskip("pyarrow")

from cluster_work import run_here

from captioning.base.errors import UserError
from captioning.cluster import features, running, vectors
from captioning.cluster.jobs import clear, reading, refuse_strangers
from captioning.cluster.places import Place
from captioning.cluster.vectors import VECTORS
from captioning.features.looks import Look
from captioning.features.store import StoreKey
from captioning.pictures.finding import Finder
from captioning.pictures.loading import UnreadableImage, load_image
from captioning.retrieval import index as retrieval_index
from captioning.retrieval.index import ImageIndex, stamp, update
from config import Config

SHARDS = ["--shard-pictures", "10"]  # two batches of five


@pytest.fixture
def here(monkeypatch):
    """Gives the shards that were done."""
    done = run_here(monkeypatch, lambda work, shard: work.kind.file(shard))
    monkeypatch.setattr(running, "alone_on_cluster", lambda address, place: nullcontext())
    return done


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_features_of_shards_are_those_of_one_process(tmp_path, here, monkeypatch):
    monkeypatch.setenv("CAPTIONING_QUIET", "1")
    data = make_data(tmp_path)
    (tmp_path / "pictures/07.png").write_text("no picture")
    options = [*data, "--encoder", tmp_path / "encoder.keras", *TINY, "--mirror"]
    alone = script("preprocessing", *options)
    assert alone.status == 0, alone.err
    stores = {folder.name: files_of(folder) for folder in (tmp_path / "features").iterdir()}
    (tmp_path / "features").rename(tmp_path / "features of one")
    together = script("preprocessing", *options, "--cluster", *SHARDS)
    assert together.status == 0, together.err
    assert {folder.name: files_of(folder) for folder in (tmp_path / "features").iterdir()} == stores
    assert len(stores) == 2
    assert here == [f"features-{shard:06}.zip" for shard in (0, 1, 0, 1)][: len(here)]
    assert together.out == alone.out
    assert not [*(tmp_path / "features").rglob("shards")]
    count = len(here)
    assert script("preprocessing", *options, "--cluster", *SHARDS).status == 0
    assert len(here) == count


@pytest.mark.weekly
def test_retrieve_indexes_on_a_cluster_as_alone(tmp_path, here, monkeypatch):
    monkeypatch.setenv("CAPTIONING_QUIET", "1")
    make_data(tmp_path)
    options = ["--images", tmp_path / "pictures", "--extract-batch-size", "5"]
    alone = script("retrieve", *options, "--index", tmp_path / "one")
    together = script("retrieve", *options, "--index", tmp_path / "index", "--cluster", *SHARDS)
    assert (alone.status, together.status) == (0, 0), together.err
    assert here == ["vectors-000000.npz", "vectors-000001.npz"]
    assert files_of(tmp_path / "index") == files_of(tmp_path / "one")


class Brightness:
    """Embeds a picture by how bright it is, in place of an aligner."""

    def embed_files(self, names, paths, batch_size, workers):
        for name in names:
            try:
                bright = load_image(paths[name], 32).mean() / 255
                yield [name], np.float32([[bright, (1 - bright**2) ** 0.5]]), {}
            except UnreadableImage as error:
                yield [name], np.zeros((0, 2), np.float32), {name: error}


@pytest.fixture
def indexed(tmp_path, here, monkeypatch):
    """Indexes tmp_path/pictures into a folder ``place``, on a cluster or ``alone``. Gives the files of the index."""
    source, shards = Place(str(tmp_path / "pictures"), "--images"), Place(str(tmp_path / "index/shards"), "--shards")
    config = Config(extract_batch_size=4)
    monkeypatch.setattr(vectors, "load", lambda source, *_: partial(vectors.embed_shard, Brightness(), source, config))

    def index(place, alone=False) -> dict[str, bytes]:
        paths = {name: source.folder / name for name, *_ in source.pictures(Finder())}

        def bring(embed):
            return update(tmp_path / place, "towers", "here", paths, embed, 2)

        if alone:
            bring(lambda names: Brightness().embed_files(names, paths, 4, 1))
            return files_of(tmp_path / place)
        vectors.index_on_cluster(
            bring,
            cluster="local",
            source=source,
            shards=shards,
            model=tmp_path / "towers",
            fingerprint="towers",
            stamp_of=lambda name: stamp(paths[name]),
            config=config,
            most=12,
            cores=1,
        )
        assert not shards.folder.exists()
        return files_of(tmp_path / place)

    return index


def test_an_index_of_shards_is_that_of_one_process(tmp_path, indexed, here, monkeypatch):
    folder = make_pictures(tmp_path / "pictures", 18)
    break_picture(folder, "3.png")
    assert indexed("index") == indexed("one", alone=True)
    assert here == ["vectors-000000.npz", "vectors-000001.npz"]
    # Further pictures come, and a run is killed when it has published one of its shards.
    make_pictures(folder, 12, first=20)
    monkeypatch.setattr(running, "run_shards", partial(killed, running.run_shards))
    with pytest.raises(KeyboardInterrupt):
        indexed("index")
    make_pictures(folder, 3, first=40)
    monkeypatch.setattr(running, "run_shards", running.run_shards.args[0])
    indexed("index")
    indexed("one", alone=True)
    found, one = (ImageIndex(tmp_path / place) for place in ("index", "one"))
    assert len(here) == len({*here}) + 3, "the published shard was not done again"
    assert sorted(found.images) == sorted(one.images) == sorted({*source_names(folder)} - {"3.png"})
    for name in one.images:
        assert (found.vectors[found.images.index(name)] == one.vectors[one.images.index(name)]).all()


@pytest.mark.parametrize("entry", ["thesis.txt", "more/thesis.txt"])
def test_a_place_for_shards_that_holds_other_things_is_refused_and_left_alone(entry, tmp_path):
    path = tmp_path / "docs" / entry
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    shards = Place(str(tmp_path / "docs"), "--shards")
    with pytest.raises(UserError, match=r"--shards: .*docs: holds other things, such as (thesis.txt|more), .* name an"):
        refuse_strangers(VECTORS, shards)
    for name in ("vectors-000000.npz", "vectors-000001.missing", "manifest.parquet", "job.json", "vectors-1.npy"):
        shards.publish(name, [b"a shard"])
    clear(VECTORS, shards)
    assert sorted(shards.entries()) == sorted([entry.split("/")[0], "vectors-1.npy"])
    assert path.read_text() == "mine"


def test_what_says_which_job_it_was_is_cleared_last(tmp_path, monkeypatch):
    shards, removed = Place(str(tmp_path / "shards"), "--shards"), []
    for name in ("job.json", "manifest.parquet", "vectors-000000.npz"):
        shards.publish(name, [b"a shard"])
    remove = shards.remove
    monkeypatch.setattr(shards, "remove", lambda name: (removed.append(name), remove(name)))
    clear(VECTORS, shards)
    assert removed == ["vectors-000000.npz", "manifest.parquet", "job.json"]


@pytest.mark.parametrize("cleared", [False, True])
def test_pictures_that_changed_since_a_killed_run_are_embedded_anew(
    cleared, tmp_path, indexed, here, monkeypatch, capsys
):
    folder = make_pictures(tmp_path / "pictures", 18)
    with monkeypatch.context() as patch:
        patch.setattr(running, "run_shards", partial(killed, running.run_shards))
        with pytest.raises(KeyboardInterrupt):
            indexed("index")
    if cleared:  # all but what says which job it was
        (tmp_path / "index/shards/manifest.parquet").unlink()
    else:
        (folder / "1.png").write_bytes((folder / "17.png").read_bytes())
    assert indexed("index")["vectors-2.npy"] == indexed("one", alone=True)["vectors-1.npy"]
    assert here == ["vectors-000000.npz", "vectors-000000.npz", "vectors-000001.npz"]
    assert ("index/shards: pictures have changed" in capsys.readouterr().err) == (not cleared)


def test_shards_stay_until_the_index_has_their_vectors(tmp_path, indexed, here, monkeypatch):
    make_pictures(tmp_path / "pictures", 18)
    with monkeypatch.context() as patch:
        patch.setattr(retrieval_index._Contents, "save", lambda *_: 1 / 0)  # a kill before the index is written
        with pytest.raises(ZeroDivisionError):
            indexed("index")
    assert len([*(tmp_path / "index/shards").glob("vectors-*.npz")]) == 2
    indexed("index")
    assert len(here) == 2, "no shard was done again"


def test_shards_left_beside_a_finished_index_are_cleared(tmp_path, indexed, here, monkeypatch):
    make_pictures(tmp_path / "pictures", 18)
    with monkeypatch.context() as patch:
        patch.setattr(vectors, "clear", lambda *_: 1 / 0)  # a kill while they are cleared
        with pytest.raises(ZeroDivisionError):
            indexed("index")
    before = files_of(tmp_path / "index")
    assert indexed("index") == before
    assert len(here) == 2


def test_a_job_is_begun_only_when_the_cluster_is_held(tmp_path, indexed, monkeypatch):
    make_pictures(tmp_path / "pictures", 18)

    def refuse(address, place):
        assert place.names().keys() <= {".lock"}
        raise UserError("another job is writing here")

    monkeypatch.setattr(running, "alone_on_cluster", refuse)
    with pytest.raises(UserError, match="another job is writing here"):
        indexed("index")


@pytest.fixture
def extracted(tmp_path, here, monkeypatch):
    """Makes a store of features in tmp_path/store, without an encoder and features."""
    shards = Place(str(tmp_path / "shards"), "--shards")
    key = StoreKey("encoder", "0", "as it is", 32, 0, "float32", "0")
    pictures = [(f"{i:02}.png", 1, None) for i in range(18)]
    monkeypatch.setattr(features, "FeatureStore", lambda folder, key: folder)
    monkeypatch.setattr(features, "join", lambda folder, *_: store_index(folder))
    monkeypatch.setattr(features, "do_all", lambda work, *_: shards.publish("features-000000.zip", [b"a shard"]))
    look, settings = Look(), Config(extract_batch_size=4)
    return shards, lambda: features.extract_on_cluster(
        "local", shards, tmp_path / "store", key, pictures, settings, look, "", (1, 2), 12, 1
    )


def store_index(folder):
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    return folder


def test_shards_left_beside_a_finished_store_are_cleared(extracted, monkeypatch):
    shards, extract = extracted
    with monkeypatch.context() as patch:
        patch.setattr(features, "clear", lambda *_: 1 / 0)  # a kill while they are cleared
        with pytest.raises(ZeroDivisionError):
            extract()
    assert "features-000000.zip" in shards.names()
    extract()
    assert not shards.folder.exists()


def test_shards_of_another_store_are_left_alone(extracted):
    shards, extract = extracted
    extract()
    shards.publish("job.json", [b'{"kind": "features", "store": "another"}'])
    extract()
    assert shards.names().keys() == {"job.json"}


def test_a_job_of_features_is_begun_only_when_the_cluster_is_held(extracted, monkeypatch):
    shards, extract = extracted

    def refuse(address, place):
        assert place.names().keys() <= {".lock"}
        raise UserError("another job is writing here")

    monkeypatch.setattr(running, "alone_on_cluster", refuse)
    with pytest.raises(UserError, match="another job is writing here"):
        extract()
    assert not shards.folder.exists()


def source_names(folder) -> list[str]:
    return [name for name, *_ in Place(str(folder), "--images").pictures(Finder())]


def killed(run_shards, work, todo):
    """A run that is killed after one shard."""
    yield from run_shards(work, todo[:1])
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [ValueError("no array"), KeyError("vectors"), zipfile.BadZipFile("no zip")])
def test_a_damaged_file_of_a_shard_is_named(error, tmp_path):
    with (
        pytest.raises(UserError, match=r"vectors-000003.npz: damaged .* delete it"),
        reading(VECTORS, Place(str(tmp_path), "--shards"), 3),
    ):
        raise error
