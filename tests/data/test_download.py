"""Downloads against a server of our own on the loopback address: resumed, verified, and explained when they fail."""

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from captioning.base import addresses
from captioning.base.errors import UserError
from captioning.data import download
from config import Config

DATA = bytes(range(256)) * 2000  # 512,000 bytes
PIECE = download._PIECE
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves DATA at every path, and notes the Range header of each request. The attributes set how well it behaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.etag: str | None = '"one"'
        self.knows_ranges = True
        self.sends_length = True
        self.statuses: list[int] = []  # answered first, one a request
        self.drops: list[int] = []  # bytes after which the connection is dropped, one a request
        self.ranges: list[str | None] = []

    def url(self, name="file.zip"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if self.headers.get("If-Range") not in (None, server.etag):
            asked = None
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_ranges else 0
        if start >= len(server.data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        if server.sends_length:
            self.send_header("Content-Length", str(len(server.data) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        body = server.data[start:]
        self.wfile.write(body[: server.drops.pop(0)] if server.drops else body)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0, 0, 0))
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "new" / "file.zip"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leave_part(dest: Path, data: bytes, size: int = len(DATA), validator: str | None = '"one"') -> None:
    """What an interrupted fetch of a file of ``size`` bytes leaves, having got ``data``."""
    dest.parent.mkdir()
    dest.with_name(dest.name + ".part").write_bytes(data)
    dest.with_name(dest.name + ".part.json").write_text(json.dumps({"size": size, "validator": validator}))


@pytest.mark.parametrize("checksum", [None, MD5, "md5:" + hashlib.md5(DATA).hexdigest().upper()])
def test_a_file_is_fetched_whole_and_nothing_else_is_left(server, dest, checksum):
    download.fetch(server.url(), dest, checksum)
    assert dest.read_bytes() == DATA
    assert names(dest.parent) == ["file.zip"]


def test_a_dropped_connection_is_resumed_where_it_broke(server, dest):
    server.drops = [6 * PIECE, 3 * PIECE, 0, 1, PIECE + 1, 0, 1, 2 * PIECE]  # each gain renews the three pauses
    download.fetch(server.url(), dest, MD5)
    assert dest.read_bytes() == DATA
    assert server.ranges[:3] == [None, f"bytes={6 * PIECE}-", f"bytes={9 * PIECE}-"]


def test_a_later_call_resumes_what_an_earlier_one_left(server, dest):
    server.drops = [6 * PIECE, 0, 0, 0]
    with pytest.raises(download.DownloadError, match="what came is kept"):
        download.fetch(server.url(), dest, MD5)
    assert not dest.exists()
    server.ranges.clear()
    download.fetch(server.url(), dest, MD5)
    assert server.ranges == [f"bytes={6 * PIECE}-"]
    assert dest.read_bytes() == DATA


def test_a_complete_part_needs_no_server(server, dest):
    leave_part(dest, DATA)
    download.fetch(server.url(), dest, MD5)
    assert server.ranges == []
    assert dest.read_bytes() == DATA


def test_a_server_that_ignores_ranges_starts_over(server, dest):
    server.knows_ranges, server.drops = False, [100_000, 200_000]
    download.fetch(server.url(), dest)
    assert dest.read_bytes() == DATA


def test_a_server_that_gives_no_length(server, dest):
    server.sends_length = False
    download.fetch(server.url(), dest)
    assert dest.read_bytes() == DATA
    assert names(dest.parent) == ["file.zip"]


@pytest.mark.parametrize(
    ("etag", "size"),
    [('"two"', len(DATA)), (None, len(DATA) + 7), (None, 90)],
    ids=["other ETag", "other size", "shorter: 416"],
)
def test_a_file_that_changed_on_the_server_is_never_mixed(server, dest, etag, size):
    leave_part(dest, b"old" * 100, validator=etag and '"one"')
    server.data, server.etag = b"n" * size, etag
    download.fetch(server.url(), dest)
    assert dest.read_bytes() == b"n" * size


def test_a_part_that_nothing_is_known_of_is_fetched_anew(server, dest):
    leave_part(dest, b"x" * 10)
    dest.with_name("file.zip.part.json").write_text("{")
    download.fetch(server.url(), dest)
    assert dest.read_bytes() == DATA


def test_a_wrong_checksum_is_refused_and_the_file_set_aside(server, dest):
    with pytest.raises(UserError, match=r"checksum of what came is md5:.*set aside as .*file\.zip\.bad"):
        download.fetch(server.url(), dest, "md5:" + "0" * 32)
    assert names(dest.parent) == ["file.zip.bad"]


def test_a_file_already_there_is_verified_not_fetched(server, dest):
    dest.parent.mkdir()
    dest.write_bytes(DATA)
    download.fetch(server.url(), dest, "sha256:" + hashlib.sha256(DATA).hexdigest())
    with pytest.raises(UserError, match="Move it away"):
        download.fetch(server.url(), dest, "md5:" + "0" * 32)
    assert dest.read_bytes() == DATA
    assert server.ranges == []


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, dest):
    server.statuses = [503, 429]
    download.fetch(server.url(), dest)
    assert dest.read_bytes() == DATA
    server.statuses = [404]
    with pytest.raises(download.DownloadError, match="404"):
        download.fetch(server.url(), dest.with_name("other.zip"))
    assert len(server.ranges) == 4


def test_a_full_disk_is_said_before_and_during_the_fetch(server, dest, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(UserError, match="512,000 bytes more, and its disk has 1,000 free"):
            download.fetch(server.url(), dest)
    monkeypatch.setattr(Path, "open", full_disk)
    with pytest.raises(UserError, match="disk is full"):
        download.fetch(server.url(), dest)
    assert not dest.exists()


def full_disk(self, *args, **kwargs):
    raise OSError(28, "No space left on device")


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def flickr8k(tmp_path, *urls, checksums=()) -> Config:
    return Config(data_dir=str(tmp_path / "f8k"), download_urls=urls, download_checksums=checksums)


def test_flickr8k_is_fetched_under_the_names_in_the_addresses(server, tmp_path):
    config = flickr8k(tmp_path, server.url("a%20b.zip?token=1"), server.url("deep/c.zip"), checksums=(MD5, MD5))
    download.fetch_archives(config)
    assert names(tmp_path / "f8k") == ["a b.zip", "c.zip"]


def test_an_unreachable_address_says_what_to_do_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0,))
    with pytest.raises(UserError) as raised:
        download.fetch_archives(flickr8k(tmp_path, f"http://127.0.0.1:{closed_port()}/a.zip"))
    for part in ("Connection refused", "Flickr8k_Dataset.zip", "Flickr8k_text.zip", "f8k", "--download-urls"):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "url", ["file.zip", "ftp://host/file.zip", "http://[bad/file.zip", "http://host/", "http://h/..%2f.zip"]
)
def test_an_address_that_is_none_is_refused(tmp_path, url):
    with pytest.raises(UserError, match=r"not an http|must end in the name of a \.zip"):
        download.fetch_archives(flickr8k(tmp_path, url))


@pytest.mark.parametrize(("dataset", "year"), [("flickr8k", "2017"), ("coco", "2014"), ("coco", "2017")])
def test_published_archives_are_fetched_from_their_addresses_and_verified(tmp_path, monkeypatch, dataset, year):
    asked = []
    monkeypatch.setattr(download, "fetch", lambda *arguments: asked.append(arguments))
    download.fetch_archives(Config(dataset=dataset, coco_year=year, data_dir=str(tmp_path)))
    for url, dest, checksum in asked:
        assert url.startswith("http")
        assert dest == tmp_path / url.rpartition("/")[2]
        assert re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum)
    if dataset == "coco":
        wanted = [f"annotations_trainval{year}.zip", f"val{year}.zip", f"train{year}.zip"]
        assert [dest.name for _, dest, _ in asked] == wanted


def test_karpathys_splits_are_fetched_to_beside_the_captions_file(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(download, "fetch", lambda *arguments: asked.append(arguments))
    file = tmp_path / "splits" / "dataset_coco.json"
    download.fetch_archives(Config(dataset="karpathy", captions_file=str(file), data_dir=str(tmp_path)))
    download.fetch_archives(
        Config(
            dataset="karpathy", captions_file=str(file), data_dir=str(tmp_path), download_urls=("http://mirror/k.zip",)
        )
    )
    [(url, dest, checksum), mirrored] = asked
    assert mirrored == ("http://mirror/k.zip", dest, None)
    assert url.endswith("/caption_datasets.zip")
    assert dest == tmp_path / "splits" / "caption_datasets.zip"
    assert re.fullmatch("sha256:[0-9a-f]{64}", checksum)


def test_coco_is_fetched_and_read_as_any_other(server, tmp_path):
    """Another address may serve it; without a checksum the digest is printed, and a break is resumed."""
    server.drops = [6 * PIECE]
    config = Config(dataset="coco", data_dir=str(tmp_path / "coco"), download_urls=(server.url("val2017.zip"),))
    download.fetch_archives(config)
    assert names(tmp_path / "coco") == ["val2017.zip"]
    server.statuses = [404]
    with pytest.raises(
        UserError, match=r"404(.|\n)*put annotations_trainval2017\.zip and val2017\.zip and train2017\.zip"
    ):
        download.fetch_archives(config.with_overrides({"download_urls": [server.url("train2017.zip")]}))


def test_a_data_set_that_nobody_publishes_is_not_fetched(tmp_path):
    with pytest.raises(UserError, match=r"--download: .*dataset is demo"):
        download.fetch_archives(Config(dataset="demo", data_dir=str(tmp_path)))


def test_of_several_data_sets_those_that_can_be_are_fetched():
    several = {"dataset": ["coco", "folder", "flickr8k"], "captions_file": "c.csv"}
    found = download.fetchable(Config().with_overrides(several).data_sets())
    assert [each.dataset for each in found] == ["coco", "flickr8k"]
    alone = Config().with_overrides({"dataset": "flickr30k"}).data_sets()
    assert download.fetchable(alone) == alone, "so that fetching says why it cannot be"


def test_a_server_that_sends_byte_after_byte_is_left(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(download.time, "monotonic", lambda: next(clock))
    slow, fast = (
        SimpleNamespace(raw=SimpleNamespace(read1=lambda most, size=size: bytes(size))) for size in (1, 20_000)
    )
    with pytest.raises(download._Broken, match="fewer than 1,000 bytes a second"):
        list(download._pieces(slow))
    kept = download._pieces(fast)
    assert sum(len(next(kept)) for _ in range(50)) == 10**6


@pytest.mark.parametrize("place", ["http://169.254.169.254/latest/x.zip", "http://localhost:1/x.zip", "http://[::1"])
def test_a_redirect_into_a_private_network_is_not_followed(dest, monkeypatch, place):
    real = addresses._is_private
    monkeypatch.setattr(addresses, "_is_private", lambda host: host != "127.0.0.1" and real(host))

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", place)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(download.DownloadError, match=r"private network|URL"):
            download.fetch(f"http://127.0.0.1:{other.server_port}/file.zip", dest)
        other.shutdown()
    assert not dest.exists()
