"""Photos of a folder over HTTP: what a search finds while the index is made and later, and that nothing else is shown."""

import io
import os
import threading
from contextlib import contextmanager

import pytest
from colour_models import COLOURS, ColourCaptioner, ColourTowers, paint
from helpers import until
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("httpx2")
from fastapi.testclient import TestClient

from captioning.base.errors import UserError
from captioning.serving import api, photos
from captioning.serving.engine import Engine, Model
from captioning.serving.guard import Hosts
from captioning.serving.photos import Photos, Recent
from captioning.serving.worker import Closed
from config import Config

CONFIG = Config(image_size=32, beam_size=2, feature_grid=0, decoder="attention")


class Served:
    """A client of a server over a folder. ``get`` asks /api/ANYTHING."""

    def __init__(self, client, photos: Photos, towers: ColourTowers, captioner: ColourCaptioner, engine: Engine):
        self.client, self.photos, self.towers, self.captioner, self.engine = client, photos, towers, captioner, engine

    def get(self, address: str, **settings):
        return self.client.get(f"/api/{address}", params=settings or None)

    def ready(self) -> dict:
        until(lambda: self.photos.progress.state in ("ready", "failed"))
        return self.get("photos").json()

    def names(self, query: str, **settings) -> list[str]:
        return [hit["name"] for hit in self.get("search", query=query, **settings).json()["results"]]

    def id(self, name: str) -> str:
        hits = self.get("search", query="red", limit=100).json()["results"]
        return next(hit["photo"] for hit in hits if hit["name"] == name)


@contextmanager
def serving(folder, index, towers=None, look_again=1e9, hosts=None, index_type=None):
    towers, captioner = towers or ColourTowers(), ColourCaptioner()
    model = Model("colours", CONFIG, True, lambda: captioner)
    load = (lambda: (_ for _ in ()).throw(towers)) if isinstance(towers, Exception) else (lambda: towers)
    with (
        Engine([model], window=0.001) as engine,
        Photos(folder, load, lambda fingerprint: index, look_again, index_type=index_type) as searched,
    ):
        client = TestClient(api.create_app(engine, searched, hosts), raise_server_exceptions=False)
        yield Served(client, searched, towers, captioner, engine)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my photos"
    for name, colour in (("rose.png", "red"), ("more/leaf.png", "green"), ("more/sky é.png", "blue")):
        paint(folder / name, colour)
    (folder / "torn.jpg").write_text("no picture")
    (tmp_path / "secret.png").write_bytes((folder / "rose.png").read_bytes())
    return folder


@pytest.fixture
def served(folder, tmp_path):
    with serving(folder, tmp_path / "index") as found:
        found.ready()
        yield found


def refused(response, status: int, code: str, mentions: str) -> None:
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code
    assert mentions in response.json()["error"]["message"]


def test_a_sentence_finds_photos(served):
    answer = served.get("search", query="a red zebra", limit=2).json()
    assert [hit["name"] for hit in answer["results"]] == ["rose.png", "more/leaf.png"]
    assert answer["results"][0]["cosine"] == pytest.approx(1, abs=0.01)
    assert (answer["query"], answer["unknown_words"], answer["searched"]) == ("a red zebra", ["zebra"], 3)
    assert answer["photos"] == {"folder": "my photos", "state": "ready", "indexed": 4, "total": 4, "unreadable": 1}
    assert served.names("blue")[0] == "more/sky é.png"
    assert len(served.names("green")) == 3
    assert served.get("models").json()["photos"] == "my photos"


def test_what_a_search_refuses(served):
    refused(served.get("search", query="zebra"), 422, "bad_query", "query 'zebra': the model knows none of these words")
    refused(served.get("search", query="?"), 422, "bad_query", "query '?'")
    refused(served.get("search"), 422, "bad_setting", "query: ")
    refused(served.get("search", query="red", limit=0), 422, "bad_setting", "limit: ")
    refused(served.get("search", query="red", limit=101), 422, "bad_setting", "limit: ")
    refused(served.get("search", query="red", best=3), 422, "bad_setting", "best: ")
    refused(served.get("search", query="a" * 301), 422, "bad_setting", "query: ")
    refused(served.get(f"photos/{served.id('rose.png')}", size="huge"), 422, "bad_setting", "size: ")
    refused(served.get("photos/0123456789abcdef"), 404, "gone", "there is no such photo")


def test_without_a_folder_the_server_says_what_to_do():
    model = Model("colours", CONFIG, True, ColourCaptioner)
    with Engine([model]) as engine:
        client = TestClient(api.create_app(engine))
        for address in ("search?query=red", "photos", "photos/0123456789abcdef", "photos/0123456789abcdef/caption"):
            refused(client.get(f"/api/{address}"), 404, "no_photos", "python app.py --photos DIR")
        assert client.get("/api/models").json()["photos"] is None


def test_copies_are_small_upright_and_without_metadata(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "at home"  # to be turned by 90 degrees; a description
    paint(folder / "phone.jpg", "red", (900, 300), exif=exif)
    with serving(folder, tmp_path / "index") as served:
        served.ready()
        for size, wanted in (("small", (107, 320)), ("large", (300, 900))):
            response = served.get(f"photos/{served.id('phone.jpg')}", size=size)
            assert response.headers["content-type"] == "image/jpeg"
            assert b"at home" not in response.content
            with Image.open(io.BytesIO(response.content)) as copy:
                assert (copy.format, copy.size, len(copy.getexif())) == ("JPEG", wanted, 0)


def test_copies_stay_in_memory_until_the_photo_changes(served, folder, monkeypatch):
    read: list = []
    monkeypatch.setattr(
        photos, "read_picture", lambda *args, before=photos.read_picture: read.append(1) or before(*args)
    )
    photo = served.id("rose.png")
    first = served.get(f"photos/{photo}").content
    assert served.get(f"photos/{photo}").content == first
    assert len(read) == 1
    paint(folder / "rose.png", "blue", (61, 40))
    assert served.get(f"photos/{photo}").content != first
    assert len(read) == 2


def test_what_stays_in_memory_is_bounded():
    recent: Recent[bytes] = Recent(10, len)
    for key in "abc":
        recent.put(key, b"1234")
    assert [recent.get(key) for key in "abc"] == [None, b"1234", b"1234"]
    recent.get("b")
    recent.put("d", b"12345")
    assert [recent.get(key) for key in "bcd"] == [b"1234", None, b"12345"]
    recent.put("d", b"1")
    recent.put("e", b"12345")
    assert recent.get("b") == b"1234", "what was replaced weighs nothing"
    recent.put("large", b"12345678901")
    assert recent.get("large") is None


def test_a_photo_has_a_caption(served):
    photo = served.id("more/leaf.png")
    wanted = {"photo": photo, "model": "colours", "caption": "a green ball"}
    assert served.get(f"photos/{photo}/caption").json() == wanted
    seen = served.captioner.seen
    assert served.get(f"photos/{photo}/caption").json() == wanted
    assert served.captioner.seen == seen, "it is remembered"


def test_only_files_of_the_folder_are_shown(folder, tmp_path):
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "in.png").symlink_to(folder / "rose.png")
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "elsewhere").symlink_to(tmp_path)
    with serving(folder, tmp_path / "index") as served:
        served.ready()
        assert sorted(served.names("red")) == ["in.png", "more/leaf.png", "more/sky é.png", "rose.png"]
        outside = photos._id_of("out.png")
        refused(served.get(f"photos/{outside}"), 404, "gone", "there is no such photo")
        for path in ("..%2Fsecret.png", "../secret.png", "%2e%2e/secret.png", "rose.png", "..%5Csecret.png"):
            assert served.get(f"photos/{path}").status_code == 404
        # A file that becomes a link after it was indexed.
        photo = served.id("rose.png")
        (folder / "in.png").unlink()
        (folder / "rose.png").unlink()
        (folder / "rose.png").symlink_to(tmp_path / "secret.png")
        for address in (f"photos/{photo}", f"photos/{photo}/caption"):
            refused(served.get(address), 404, "gone", "rose.png: there is no such photo")
        assert sorted(served.names("red")) == ["more/leaf.png", "more/sky é.png"]


def test_odd_names(folder, tmp_path):
    odd = ["a b&c=d?e#f%20.png", "'\"<img src=x>.png", "two\nlines.png", "日本.png", os.fsdecode(b"caf\xe9.png")]
    for name in odd:
        paint(folder / name, "red")
    with serving(folder, tmp_path / "index") as served:
        served.ready()
        results = served.get("search", query="red").json()["results"]
        assert {hit["name"] for hit in results} > {*odd[:2], r"two\nlines.png", odd[3], r"caf\udce9.png"}
        for hit in results:
            assert served.get(f"photos/{hit['photo']}").status_code == 200


def test_photos_above_the_limit_are_refused(folder, tmp_path, monkeypatch):
    paint(folder / "large.png", "red", (100, 100))
    paint(folder / "large.jpg", "red", (3000, 2000))
    with serving(folder, tmp_path / "index") as served:
        served.ready()
        monkeypatch.setattr(photos, "MAX_MEMORY", 4 * 1_600_000)
        assert served.get(f"photos/{served.id('large.jpg')}").status_code == 200, (
            "a JPEG is decoded at a part of its size"
        )
        monkeypatch.setattr(photos, "MAX_MEMORY", 4 * 60 * 40)
        for name in ("large.png", "large.jpg"):
            refused(served.get(f"photos/{served.id(name)}", size="large"), 413, "too_large", f"{name}: cannot be read")
        assert served.get(f"photos/{served.id('rose.png')}").status_code == 200


def test_a_photo_that_is_damaged_later_is_named_without_its_place(served, folder, tmp_path):
    photo = served.id("rose.png")
    (folder / "rose.png").write_bytes(b"no picture")
    response = served.get(f"photos/{photo}", size="large")
    refused(response, 422, "unreadable", "rose.png: cannot be read as a picture")
    assert str(tmp_path) not in response.text


def test_all_places_can_be_taken(served):
    photo = served.id("rose.png")
    held = [served.engine.place() for _ in range(served.engine._places)]
    for place in held:
        place.__enter__()
    try:
        for address in ("search?query=red", f"photos/{photo}", f"photos/{photo}/caption"):
            response = served.get(address)
            assert (response.status_code, "retry-after" in response.headers) == (503, True)
    finally:
        for place in held:
            place.__exit__(None, None, None)
    assert served.names("red")
    assert served.engine._taken == 0


def test_photos_are_shown_under_the_servers_own_name_only(folder, tmp_path):
    with serving(folder, tmp_path / "index", hosts=Hosts("127.0.0.1")) as served:
        served.ready()
        for address in ("search?query=red", "photos"):
            for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
                assert served.client.get(f"/api/{address}", headers={"host": host}).status_code == 200
            evil = served.client.get(f"/api/{address}", headers={"host": "evil.example:8000"})
            refused(evil, 403, "wrong_host", "ask at 127.0.0.1, or start it with --allowed-host evil.example")


# The index ------------------------------------------------------------------------------------------------------------


def test_a_search_finds_what_is_there_while_the_index_is_made(folder, tmp_path):
    for i in range(20):
        paint(folder / f"{i:02}.png", list(COLOURS)[i % 3])
    known, go_on, held = threading.Event(), threading.Event(), []

    def hold(number):
        if number == 1:  # the first eight are done
            known.wait()
            held.append(1)
            while not go_on.wait(0.005):
                searching.photos._answer()

    with serving(folder, tmp_path / "index", ColourTowers(hold)) as searching:
        known.set()
        try:
            until(lambda: held)
            answer = searching.get("search", query="blue").json()
            assert answer["photos"] == {
                "folder": "my photos", "state": "indexing", "indexed": 8, "total": 24, "unreadable": 0
            }  # fmt: skip
            assert answer["searched"] == 8
            assert {hit["name"] for hit in answer["results"]} == {f"{i:02}.png" for i in range(8)}
            assert answer["results"][0]["name"] == "02.png"
            assert searching.get(f"photos/{answer['results'][0]['photo']}").status_code == 200
        finally:
            go_on.set()
        assert searching.ready()["indexed"] == 24
        assert len(searching.names("blue")) == 23


def test_searches_are_answered_between_two_batches(folder, tmp_path):
    for i in range(20):
        paint(folder / f"{i:02}.png", "red")
    first = threading.Event()

    def hold(number):
        if number == 0:
            first.wait(30)

    with serving(folder, tmp_path / "index", ColourTowers(hold)) as served:
        until(lambda: served.photos.progress.state == "indexing")
        futures = [served.photos.search("red", 3) for _ in range(2)]
        first.set()
        assert [future.result(30).searched for future in futures] == [8, 8]


def test_photos_that_have_vanished_are_replaced_by_the_next_best(folder, tmp_path):
    for i in range(12):
        paint(folder / f"{i:02}.png", "red")
    paint(folder / "zz.png", "green")
    with serving(folder, tmp_path / "index") as served:
        served.ready()
        for i in range(11):
            (folder / f"{i:02}.png").unlink()
        assert served.names("red", limit=2) == ["11.png", "rose.png"]
        assert len(served.names("red", limit=100)) == 5
        assert served.get("search", query="red", limit=2).json()["searched"] == 16


@pytest.mark.slow
def test_the_page_searches_with_faiss_too(folder, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("captioning.retrieval.index_types.LEAST", 0)
    monkeypatch.setattr("captioning.retrieval.index_types._CHUNK", 16)
    for i in range(60):
        paint(folder / f"{i:02}.png", list(COLOURS)[i % 3])
    learning, answered = threading.Event(), []
    answer, attach = Photos._answer, photos.attach

    def counted_answer(self):
        answered.extend([1] if learning.is_set() else [])  # between the chunks that faiss learns
        answer(self)

    def announced_attach(*settings):
        learning.set()
        found = attach(*settings)
        learning.clear()
        return found

    monkeypatch.setattr(Photos, "_answer", counted_answer)
    monkeypatch.setattr(photos, "attach", announced_attach)
    with serving(folder, tmp_path / "index", index_type="hnsw", look_again=0) as served:
        until(lambda: (tmp_path / "index" / "hnsw.json").exists() and served.photos._approximate)
        assert len(answered) >= 4
        first = served.photos._approximate
        (found,) = served.names("red", limit=1)
        assert found in {"rose.png", *(f"{i:02}.png" for i in range(0, 60, 3))}
        assert served.photos._parts[0].whole.approximate is first
        until(lambda: served.photos._parts[0].whole.approximate is first, 10)  # after another look
        paint(folder / "new.png", "blue", (90, 90))
        until(lambda: "new.png" in served.names("blue", limit=40))
        until(lambda: served.photos._approximate is not first and len(served.photos._approximate.keys) == 64)


def test_a_search_does_not_wait_for_ever(folder, tmp_path, monkeypatch):
    go_on = threading.Event()
    with serving(folder, tmp_path / "index", ColourTowers(lambda number: go_on.wait(30))) as served:
        until(lambda: served.photos.progress.state == "indexing")
        with monkeypatch.context() as patch:
            patch.setattr("captioning.serving.search_api.SECONDS", 0.05)
            refused(served.get("search", query="red"), 500, "search", "was not answered within 0.05 s")
        assert served.engine._taken == 0
        go_on.set()
        served.ready()
        assert served.names("red")


def test_a_stop_keeps_what_is_done_and_the_next_start_goes_on(folder, tmp_path):
    for i in range(20):
        paint(folder / f"{i:02}.png", "red")
    reached, leave = threading.Event(), threading.Event()

    def hold(number):
        if number == 1:
            reached.set()
            leave.wait(30)
            until(lambda: served.photos._closed)

    with serving(folder, tmp_path / "index", ColourTowers(hold)) as served:
        reached.wait(30)
        leave.set()
    assert not served.photos._worker.is_alive()
    with serving(folder, tmp_path / "index") as again:
        again.ready()
        assert len(again.towers.asked) == 24 - 16
        assert len(again.names("red")) == 23
    with serving(folder, tmp_path / "index") as third:
        third.ready()
        assert third.towers.asked == []


def test_new_changed_and_vanished_photos_are_noticed(folder, tmp_path):
    with serving(folder, tmp_path / "index", look_again=0) as served:
        served.ready()
        (folder / "more" / "leaf.png").unlink()
        assert set(served.names("green")) == {"rose.png", "more/sky é.png"}, "at once"
        paint(folder / "new.png", "green")
        paint(folder / "rose.png", "blue", (50, 50))
        until(lambda: served.names("green")[0] == "new.png")
        assert set(served.names("blue")[:2]) == {"rose.png", "more/sky é.png"}
        assert served.towers.asked.count("more/sky é.png") == 1


def test_a_folder_that_is_gone_or_empty_costs_nothing(folder, tmp_path, capsys):
    with serving(folder, tmp_path / "index", look_again=0) as served:
        served.ready()
        folder.rename(tmp_path / "unplugged")
        assert served.names("red") == []
        until(lambda: served.photos.progress.state == "failed")
        assert "there is no such folder of images" in served.get("photos").json()["message"]
        folder.mkdir()
        served.names("red")
        until(lambda: "holds no pictures" in (served.photos.progress.message or ""))
        folder.rmdir()
        (tmp_path / "unplugged").rename(folder)
        until(lambda: served.names("red") and served.photos.progress.state == "ready")
        assert sorted(served.towers.asked) == sorted(["rose.png", "more/leaf.png", "more/sky é.png", "torn.jpg"])


def test_towers_that_cannot_be_loaded(folder, tmp_path, capsys):
    with serving(folder, tmp_path / "index", UserError("search.zip: damaged; copy it anew")) as served:
        assert served.ready()["message"] == "search.zip: damaged; copy it anew"
        refused(served.get("search", query="red"), 500, "search", "search.zip: damaged; copy it anew")
    with serving(folder, tmp_path / "index", ValueError("shapes")) as served:
        assert served.ready()["message"] == "the search failed; the log of the server says why"
        assert "ValueError: shapes" in capsys.readouterr().err


def test_an_index_that_cannot_be_written_is_said(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with serving(folder, tmp_path / "file") as served:
        assert "file: the index cannot be written" in served.ready()["message"]
        refused(served.get("search", query="red"), 500, "search", "name another --index")


def test_searches_that_wait_when_the_server_stops_are_refused(folder, tmp_path):
    with serving(folder, tmp_path / "index") as served:
        served.ready()
    with pytest.raises(Closed):
        served.photos.search("red", 3)
