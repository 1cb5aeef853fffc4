"""The manifest, the shards, publishing, going on, merging and errors: all that needs no Ray."""

import json
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from running import refused
from small_albums import FakeCaptioner, break_picture, make_pictures

pa = pytest.importorskip("pyarrow")

from cluster_work import BATCH, CONFIG, SETTINGS, job, run_here, work  # noqa: E402

from captioning.albums.captions import caption_album, list_pictures  # noqa: E402
from captioning.base.errors import Terminated, UserError  # noqa: E402
from captioning.cluster import places, running  # noqa: E402
from captioning.cluster.captions import CAPTIONS  # noqa: E402
from captioning.cluster.jobs import merge, written_alone  # noqa: E402
from captioning.cluster.manifest import Manifest, shard_size, write_manifest  # noqa: E402
from captioning.cluster.places import Place  # noqa: E402
from captioning.cluster.running import Report, connected, do_all  # noqa: E402
from captioning.cluster.vectors import VECTORS  # noqa: E402

MERGE = ["--merge-indexes", "a", "b", "--output", "c"]


@pytest.fixture
def place(tmp_path):
    return Place(str(tmp_path / "out"), "--output")


def source(tmp_path, count=18) -> Place:
    return Place(str(make_pictures(tmp_path / "pictures", count)), "SOURCE")


@pytest.fixture
def here(monkeypatch):
    """Workers run in this process, one after the other. Gives the shards that they did."""
    return run_here(monkeypatch)


def test_the_manifest_lists_each_picture_once_in_the_order_of_an_album(tmp_path, place):
    manifest = job(source(tmp_path), place)
    assert list(manifest) == list_pictures(tmp_path / "pictures")
    assert [manifest.size(shard) for shard in range(manifest.shards)] == [8, 10]
    table = pa.parquet.read_table(tmp_path / "out/manifest.parquet")
    assert table.column_names == ["picture", "size", "shard", "path"]
    assert table["size"].to_pylist() == [(tmp_path / "pictures" / name).stat().st_size for name in manifest]
    assert table["shard"].to_pylist() == [0] * 8 + [1] * 10


@pytest.mark.parametrize("count", [*range(1, 30), 100])
def test_shards_hold_whole_batches_and_the_last_is_no_smaller_than_one(count, tmp_path, place):
    write_manifest(((f"{i}.jpg", i, None) for i in range(count)), place, tmp_path, 12, BATCH)
    manifest = Manifest(place)
    sizes = [manifest.size(shard) for shard in range(manifest.shards)]
    assert sum(sizes) == count
    assert max(sizes) <= 12
    assert all(size % BATCH == 0 for size in sizes[:-1])
    assert sizes[-1] >= min(BATCH, count)


def test_a_shard_has_room_for_two_batches():
    assert shard_size(10_000, 32) == 9_952
    with pytest.raises(UserError, match="--shard-pictures: 63 are fewer than two batches of 32; give 64 or more"):
        shard_size(63, 32)


def test_shards_joined_are_the_album_of_one_process(tmp_path, place, here):
    pictures = source(tmp_path)
    break_picture(pictures.folder, "3.png")
    manifest = job(pictures, place)
    assert do_all(work(pictures, place), manifest, place) == Report(pictures=18, unreadable=1)
    assert here == [0, 1]
    assert merge(CAPTIONS, place, manifest.shards) == "captions.jsonl"
    one = tmp_path / "one.jsonl"
    caption_album(pictures.folder, list(manifest), one, SETTINGS, FakeCaptioner(), CONFIG)
    assert (tmp_path / "out/captions.jsonl").read_bytes() == one.read_bytes()


def test_what_is_published_is_not_done_again(tmp_path, place, here):
    pictures = source(tmp_path)
    manifest = job(pictures, place)
    do_all(work(pictures, place), manifest, place)
    (tmp_path / "out/captions-000000.jsonl").unlink()
    (tmp_path / "out/.new-captions-000000.jsonl-1a2b3c4d").write_text("half of a file")
    with written_alone(place):
        do_all(work(pictures, place), job(pictures, place), place)
    assert here == [0, 1, 0]
    do_all(work(pictures, place), job(pictures, place), place)
    assert here == [0, 1, 0]
    files = ["captions-000000.jsonl", "captions-000001.jsonl", "job.json", "manifest.parquet"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files


def test_a_picture_that_vanished_is_tried_again(tmp_path, place, here, capsys):
    pictures = source(tmp_path)
    manifest = job(pictures, place)
    (pictures.folder / "7.png").rename(tmp_path / "away.png")
    assert do_all(work(pictures, place), manifest, place).missing == 1
    assert "pictures/7.png: cannot be opened" in capsys.readouterr().err
    (tmp_path / "away.png").rename(pictures.folder / "7.png")
    assert do_all(work(pictures, place), manifest, place).missing == 0
    assert do_all(work(pictures, place), manifest, place).missing == 0
    assert len(here) == 3
    merge(CAPTIONS, place, manifest.shards)
    lines = (tmp_path / "out/captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == list(manifest)


@pytest.mark.parametrize(
    ("kind", "unreadable", "missing", "says"),
    [
        (CAPTIONS, 0, 7, "error: ... and 2 more in shard 1\n"),
        (CAPTIONS, 7, 4, "error: ... and 6 more in shard 1; captions-000001.jsonl lists the unreadable ones\n"),
        (VECTORS, 6, 0, "error: ... and 1 more in shard 1; index.json of the result lists the unreadable ones\n"),
        (CAPTIONS, 2, 3, "fault 4\n"),
    ],
)
def test_faults_that_are_not_printed_are_counted(kind, unreadable, missing, says, tmp_path, place, capsys, monkeypatch):
    manifest = job(source(tmp_path), place)
    report = Report(1, 10, unreadable, missing, [f"fault {number}" for number in range(5)])
    monkeypatch.setattr(running, "run_shards", lambda *_: [report])
    do_all(replace(work(place, place), kind=kind), manifest, place)
    told = [line for line in capsys.readouterr().err.splitlines(keepends=True) if line.startswith("error: ")]
    assert told[-1].endswith(says)


def test_no_shard_is_published_without_any_picture(tmp_path, place, here):
    pictures = source(tmp_path)
    manifest = job(pictures, place)
    pictures.folder.rename(tmp_path / "away")
    with pytest.raises(UserError, match="none of the 8 pictures of shard 0 can be opened"):
        do_all(work(pictures, place), manifest, place)
    assert CAPTIONS.published(place.names()) == set()


def test_a_shard_that_fails_leaves_nothing(tmp_path, place):
    def broken():
        yield b"half of a file"
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"--output: .*out: a cannot be written \(No space left on device\)"):
        place.publish("a", broken())
    assert place.names() == {}


@pytest.fixture(params=[10**9, 4], ids=["moved", "copied"])
def bucket(request, tmp_path, monkeypatch):
    """A folder that is used as buckets are. Files above some bytes cannot be moved in it."""
    monkeypatch.setattr(places, "_MOVABLE", request.param)
    found = Place(str(tmp_path), "--output")
    found.folder = None
    return found


def test_an_upload_that_fails_leaves_the_earlier_file(bucket):
    def broken():
        yield b"half of a file"
        raise KeyboardInterrupt

    bucket.publish("a b+c", [b"good ", b"", b"file"])
    with pytest.raises(KeyboardInterrupt):
        bucket.publish("a b+c", broken())
    assert bucket.names() == {"a b+c": 9}
    assert b"".join(bucket.chunks("a b+c")) == b"good file"
    bucket.publish("a b+c", [b"better"])
    assert bucket.names() == {"a b+c": 6}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": SETTINGS | {"beam_size": 5}}, "beam_size was 3, now 5"),
        ({"settings": SETTINGS | {"models": ["1" * 20]}}, "models was .*, now "),
        ({"most": 8}, "shard_pictures was 12, now 8"),
        ({"exclude": ["1*"]}, "exclude was None, now "),
    ],
)
def test_another_job_is_refused_and_nothing_changes(change, says, tmp_path, place):
    pictures = source(tmp_path)
    job(pictures, place)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match=f"out was begun with other settings .*{says}"):
        job(pictures, place, **change)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_results_without_their_settings_are_refused(tmp_path, place):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/captions-000000.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"holds results, but job.json, which says what made them, is missing"):
        job(source(tmp_path), place)


def test_two_jobs_on_one_destination_are_refused(tmp_path, place):
    with (
        written_alone(place),
        pytest.raises(UserError, match="another job is writing here"),
        written_alone(Place(place.address, "--output")),
    ):
        pass
    assert not (tmp_path / "out").exists(), "an empty destination does not stay"


def test_a_refused_job_leaves_no_folders(tmp_path):
    with pytest.raises(UserError, match="refused"), written_alone(Place(str(tmp_path / "a/b/c"), "--output")):
        raise UserError("refused")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with written_alone(Place(str(tmp_path / "a/b/c"), "--output")):
        (tmp_path / "a/b/d").mkdir()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["d"], "what others made stays"
    (tmp_path / "a/b/d").rmdir()
    (tmp_path / "a/b").rmdir()
    with written_alone(Place(str(tmp_path / "a/b"), "--output")):
        pass
    assert (tmp_path / "a").exists(), "a folder that was there stays"


def test_an_unfinished_job_is_not_merged(tmp_path, place):
    manifest = job(source(tmp_path), place)
    with pytest.raises(UserError, match=r"--merge: .*: 2 shards are not done, such as captions-000000.jsonl"):
        merge(CAPTIONS, place, manifest.shards)


def test_an_album_that_went_on_stays_when_it_is_merged_again(tmp_path, place, here):
    pictures = source(tmp_path)
    manifest = job(pictures, place)
    do_all(work(pictures, place), manifest, place)
    merge(CAPTIONS, place, manifest.shards)
    album = tmp_path / "out/captions.jsonl"
    longer = album.read_bytes() + b'{"image": "later.png"}\n'
    album.write_bytes(longer)
    merge(CAPTIONS, place, manifest.shards)
    assert album.read_bytes() == longer
    for other in (b"x" * len(longer), longer[:9]):
        album.write_bytes(other)
        with pytest.raises(UserError, match=r"--merge: .*out/captions.jsonl: is there already and .*; move it away"):
            merge(CAPTIONS, place, manifest.shards)
        assert album.read_bytes() == other


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.jsonl.settings.json"])
def test_a_destination_with_an_album_of_its_own_is_refused(name, tmp_path, place):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine\n")
    with pytest.raises(UserError, match=f"--output: .*out: holds {name}, which no job made here; name another"):
        job(source(tmp_path), place)
    assert place.names() == {name: 5}


def test_a_damaged_manifest_is_named(tmp_path, place):
    job(source(tmp_path), place)
    (tmp_path / "out/manifest.parquet").write_bytes(b"PAR1 no manifest")
    with pytest.raises(UserError, match=r"manifest.parquet: damaged"):
        job(source(tmp_path), place)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["p", "--cluster"], "--cluster: needs a place for the captions"),
        (["p", "q", "--output", "d", "--cluster"], "--cluster: captions one folder or bucket"),
        (["p", "--output", "d.jsonl", "--merge"], "--merge: joins the shards of --cluster"),
        (["p", "--output", "d.jsonl", "--shard-pictures", "9"], "--shard-pictures: is read only with --cluster"),
        (["p", "--output", "d", "--cluster", "--worker-cores", "0"], "--worker-cores: 0 is less than 1"),
        (["p", "--output", "d", "--keywords", "--cluster"], "--keywords: is not done on a cluster"),
        (["s3://b/p", "--output", "d", "--follow-links", "--cluster"], "--follow-links: a bucket has no links"),
        (["nowhere", "--output", "d", "--cluster"], "nowhere: there is no such folder of images"),
    ],
)
def test_bad_options_are_refused_before_any_work(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("test", *arguments, mentions=says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("retrieve", ["--images", "s3://b/p"], "a bucket is indexed on a cluster; add --cluster"),
        ("retrieve", ["--images", "s3://b/p", "--cluster", "--best", "3", "a dog"], "a bucket is only indexed"),
        ("retrieve", ["--split", "dev", "--cluster"], "--cluster: indexes the pictures of --images"),
        ("retrieve", [*MERGE, "--cluster"], "--cluster: --merge-indexes searches nothing"),
        ("retrieve", [*MERGE, "--shards", "s"], "--shards: --merge-indexes searches nothing"),
        ("retrieve", [*MERGE, "--shard-pictures", "0"], "--shard-pictures: --merge-indexes searches nothing"),
        ("retrieve", [*MERGE, "--worker-cores", "2"], "--worker-cores: --merge-indexes searches nothing"),
        ("retrieve", [*MERGE, "--best", "0"], "--best: --merge-indexes searches nothing"),
        ("preprocessing", ["--features", "f.h5", "--cluster"], "--cluster: extracts features, and those of --features"),
        ("preprocessing", ["--shards", "here"], "--shards: is read only with --cluster"),
    ],
)
def test_other_scripts_refuse_what_does_not_go_together(script, arguments, says):
    refused(script, *arguments, mentions=says)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:10001"])
def test_an_unreachable_cluster_is_named(address):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=f"--cluster: {address}: "), connected(address):
        pass


@pytest.mark.parametrize("address", ["S3://a/x", "s3:/a/x", "s3:a/x", "s3a://a", "file:///tmp", "http://a/x", "GS://a"])
def test_a_mistyped_address_is_no_folder(address):
    with pytest.raises(UserError, match=f"--output: {address}: there are no places of this kind; give s3://BUCKET"):
        Place(address, "--output")


def test_a_folder_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Place("photos 12:30/a", "--output").folder == tmp_path / "photos 12:30/a"
    assert Place(f"{tmp_path}/s3:/a", "--output").folder == tmp_path / "s3:/a"


@pytest.mark.parametrize(("told", "comes"), [(True, Terminated), (False, KeyboardInterrupt)])
def test_a_driver_that_is_told_to_end_says_so_although_ray_forgets_it(told, comes, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda *_, **__: None, shutdown=lambda: None))

    def terminate(*_):
        raise Terminated

    def wait():  # as Ray does
        if told:
            with suppress(Terminated):
                signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(KeyboardInterrupt) as raised, connected("local"):
            wait()
        assert raised.type is comes
        assert signal.getsignal(signal.SIGTERM) is terminate
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with pytest.raises(UserError, match=r'SOURCE: .* pyarrow, which is not installed; pip install -e ".\[cluster\]"'):
        Place(str(tmp_path), "SOURCE")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'Ray is not installed; pip install -e ".\[cluster\]"'), connected("local"):
        pass
