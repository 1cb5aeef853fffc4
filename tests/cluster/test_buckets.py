"""A job whose pictures and captions are in buckets: of a local S3 server, moto's."""

import pytest
from small_albums import FakeCaptioner, break_picture, make_pictures

pytest.importorskip("pyarrow")
server = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

from cluster_work import CONFIG, SETTINGS, job, work  # noqa: E402

from captioning.albums.captions import caption_album  # noqa: E402
from captioning.base.errors import UserError  # noqa: E402
from captioning.cluster import running  # noqa: E402
from captioning.cluster.captions import CAPTIONS  # noqa: E402
from captioning.cluster.jobs import merge  # noqa: E402
from captioning.cluster.places import Place  # noqa: E402
from captioning.cluster.running import Worker, do_all  # noqa: E402
from captioning.pictures.finding import Finder  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # the server's own warnings


@pytest.fixture(scope="module")
def address():
    """The address of a server, for ``endpoint_override``."""
    found = server.ThreadedMotoServer(port=0, verbose=False)
    found.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield f"http://127.0.0.1:{found.get_host_and_port()[1]}"
    found.stop()


@pytest.fixture
def bucket(address, tmp_path):
    """Pictures in a bucket, as in ``tmp_path / "pictures"``. Gives the client and a function that names a place."""
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    client.create_bucket(Bucket="box")
    folder = make_pictures(tmp_path / "pictures", 18)
    break_picture(folder, "3.png")
    for path in folder.rglob("*.*"):
        client.upload_file(str(path), "box", f"photos/{path.relative_to(folder).as_posix()}")
    yield client, lambda path: f"s3://{path}?endpoint_override={address}&allow_bucket_creation=false"
    for each in client.list_objects_v2(Bucket="box")["Contents"]:
        client.delete_object(Bucket="box", Key=each["Key"])
    client.delete_bucket(Bucket="box")


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Workers run in this process."""
    monkeypatch.setattr(running, "run_shards", lambda work, todo: map(Worker(work).publish, todo))


def test_a_bucket_gives_what_a_folder_gives(bucket, tmp_path, capsys):
    client, named = bucket
    source, place = Place(named("box/photos"), "SOURCE"), Place(named("box/captions"), "--output")
    folder = Place(str(tmp_path / "pictures"), "SOURCE")
    assert list(source.pictures(Finder())) == list(folder.pictures(Finder()))
    assert list(source.pictures(Finder(["deep*"]))) == list(folder.pictures(Finder(["deep*"])))
    client.put_object(Bucket="box", Key="photos/vanished.png", Body=b"")
    manifest = job(source, place)
    client.delete_object(Bucket="box", Key="photos/vanished.png")
    report = do_all(work(source, place), manifest, place)
    assert (report.pictures, report.unreadable, report.missing) == (19, 2, 1)
    assert "s3://box/photos/vanished.png: cannot be opened" in capsys.readouterr().err
    merge(CAPTIONS, place, manifest.shards)
    names = [name for name in manifest if name != "vanished.png"]
    caption_album(folder.folder, names, tmp_path / "one.jsonl", SETTINGS, FakeCaptioner(), CONFIG)
    one = (tmp_path / "one.jsonl").read_text().replace(str(folder.folder), "s3://box/photos")
    assert b"".join(place.chunks("captions.jsonl")).decode() == one
    assert CAPTIONS.published(place.names()) == {0}
    assert "captions-000001.missing" in place.names()


def test_an_upload_that_fails_leaves_the_earlier_file(bucket):
    _, named = bucket
    place = Place(named("box/captions"), "--output")

    def broken():
        yield bytes(12 << 20)  # so many that S3 takes them in parts
        raise KeyboardInterrupt

    place.publish("a b+c", [b"good file"])
    with pytest.raises(KeyboardInterrupt):
        place.publish("a b+c", broken())
    assert place.names() == {"a b+c": 9}
    assert b"".join(place.chunks("a b+c")) == b"good file"


def test_buckets_that_cannot_be_used_are_named(bucket):
    _, named = bucket
    with pytest.raises(UserError, match="--output: s3://none/here: there is no bucket none; make it"):
        Place(named("none/here"), "--output")
    with pytest.raises(UserError, match="SOURCE: s3://box/nothing: holds no pictures"):
        Place(named("box/nothing"), "SOURCE").require_pictures(Finder())
    with pytest.raises(UserError, match="SOURCE: s3://box/photos: cannot be reached"):
        Place("s3://box/photos?endpoint_override=http://127.0.0.1:9", "SOURCE")


def test_missing_credentials_are_named(bucket, monkeypatch):
    _, named = bucket
    with monkeypatch.context() as patch:
        patch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # now it asks who wants something
        with pytest.raises(UserError, match=r"SOURCE: s3://box/photos: .*; its credentials are missing"):
            Place(named("box/photos"), "SOURCE").require_pictures(Finder())
