"""The HTTP API and the pages: what is answered, what is refused and how, and that nothing comes from elsewhere."""

import asyncio
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("httpx2")
from fastapi.testclient import TestClient

from captioning.base.errors import UserError
from captioning.serving import api
from captioning.serving.engine import MAX_BEAM, Engine, Model
from captioning.words.vocabulary import Vocabulary
from config import Config


class FakeCaptioner:
    """Says the first grey value of each picture."""

    def __init__(self, error: Exception | None = None, confidence: float | None = None):
        self.regions = 4
        self.vocabulary = Vocabulary(["a"])
        self.error = error
        self.sure = (
            {"confidence": None} if confidence is None else {"confidence": confidence, "unsure": confidence < 0.5}
        )
        self.searches: list[Config] = []

    def encode(self, pixels):
        if self.error:
            raise self.error
        return pixels[:, 0, 0, :1].astype("float32")

    def caption(self, features, config):
        self.searches.append(config)

        def said(row, k):
            return SimpleNamespace(
                text=f"grey {int(row[0])} {k}", log_prob=-1.0 - k, score=-config.length_penalty - k, **self.sure
            )

        return [[said(row, k) for k in range(config.beam_size)] for row in features]

    def attend(self, features, captions):
        weights = np.array([0.1, 0.2, 0.3, 0.25, 0.15], "float32")
        return [np.tile(weights, (len(text.split()) + 1, 1)) for text in captions]


CONFIG = Config(
    image_size=32, beam_size=2, length_penalty=0.5, encoder="data/mine.keras", feature_grid=0, decoder="adaptive"
)
MODELS = [
    Model("first", CONFIG, True, FakeCaptioner),
    Model("plain", CONFIG.with_overrides({"decoder": "inject"}), False, FakeCaptioner),
    Model("damaged", CONFIG, True, lambda: (_ for _ in ()).throw(UserError("damaged.zip: copy it anew"))),
    Model("sure", CONFIG, True, lambda: FakeCaptioner(confidence=0.41237)),
    Model("broken", CONFIG, True, lambda: FakeCaptioner(ValueError("shapes"))),
]


def picture(value: int = 7, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 20), (value,) * 3).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def engine():
    with Engine(MODELS, window=0.001) as started:
        yield started


@pytest.fixture(scope="module")
def client(engine):
    return TestClient(api.create_app(engine), raise_server_exceptions=False)


def post(client, data: bytes | None = None, kind: str = "image/png", **settings):
    content = picture() if data is None else data
    return client.post("/api/captions", content=content, headers={"content-type": kind}, params=settings)


def refused(response, status: int, code: str, mentions: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert re.search(mentions, error["message"]), error["message"]


def test_a_picture_as_the_body_or_in_a_form(client):
    expected = {
        "model": "first",
        "beam_size": 2,
        "length_penalty": 0.5,
        "consensus": False,
        "greedy": {"caption": "grey 7 0", "log_prob": -1.0, "score": -0.5},
        "captions": [
            {"caption": "grey 7 0", "log_prob": -1.0, "score": -0.5},
            {"caption": "grey 7 1", "log_prob": -2.0, "score": -1.5},
        ],
    }
    response = client.post("/api/captions", files={"image": ("seven.png", picture(), "image/png")})
    assert response.json() == {"image": "seven.png", **expected}
    for kind in ("image/png", "IMAGE/JPEG; q=1", "application/octet-stream"):
        assert post(client, kind=kind).json() == {"image": "picture", **expected}


def test_settings_of_a_request(client):
    answer = post(client, model="plain", beam_size=4, length_penalty=1.5, attention=True).json()
    assert (answer["model"], answer["beam_size"], answer["length_penalty"]) == ("plain", 4, 1.5)
    assert [found["score"] for found in answer["captions"]] == [-1.5 - k for k in range(4)]
    assert "attention" not in answer["captions"][0]  # which this one has not


def test_whether_consensus_ranked_the_captions_is_said():
    fake = FakeCaptioner()
    voting = Model("voting", CONFIG.with_overrides({"consensus": True, "beam_size": 4}), True, lambda: fake)
    with Engine([voting], window=0.001) as started:
        client = TestClient(api.create_app(started))
        assert client.get("/api/models").json()["models"][0]["consensus"] is True
        answers = [post(client).json(), post(client, beam_size=2).json(), post(client, beam_size=1).json()]
    assert [answer["consensus"] for answer in answers] == [True, False, False]
    assert [config.votes for config in fake.searches] == [False, True, False, False, False]


def test_attention_word_by_word(client):
    answer = post(client, attention=True).json()
    for found in (answer["greedy"], *answer["captions"]):
        look = found["attention"]
        assert look["words"] == found["caption"].split()
        assert look["side"] == 2
        assert look["weights"] == [[0.1, 0.2, 0.3, 0.25]] * 3
        assert look["sentinel"] == [0.15] * 3


def test_wrong_settings_are_named(client):
    refused(post(client, beam=3), 422, "bad_setting", "^beam: there is no such setting; choose from model, beam_size")
    refused(post(client, beam_size=0), 422, "bad_setting", "^beam_size: .*greater than or equal to 1, got '0'")
    refused(post(client, beam_size=MAX_BEAM + 1), 422, "bad_setting", "^beam_size: .*less than or equal to 10")
    refused(post(client, beam_size="three"), 422, "bad_setting", "^beam_size: .*integer.* got 'three'")
    refused(post(client, length_penalty=5.1), 422, "bad_setting", "^length_penalty: .*less than or equal to 5")
    refused(post(client, length_penalty="nan"), 422, "bad_setting", "^length_penalty: ")
    refused(
        post(client, model="absent"), 404, "unknown_model", "^model: there is no 'absent'; choose from first, plain"
    )


def test_what_is_no_picture(client):
    refused(post(client, b"text"), 415, "wrong_type", "^picture: not a picture in a format")
    refused(
        post(client, picture(kind="JPEG")[:-200]),
        422,
        "unreadable",
        "^picture: cannot be read as a picture: .*[Tt]runcated",
    )
    refused(post(client, kind="text/plain"), 415, "wrong_type", "^content-type: text/plain is not read here")
    refused(client.post("/api/captions"), 415, "wrong_type", "^content-type: none")
    refused(post(client, b""), 400, "bad_request", "^the body is empty")
    address = json.dumps({"image": "http://127.0.0.1/secret.png"}).encode()
    refused(post(client, address, "application/json"), 415, "wrong_type", "application/json is not read here")


def test_forms_that_are_not_one_picture(client):
    two = [("image", ("a.png", picture())), ("image", ("b.png", picture()))]
    refused(client.post("/api/captions", files=two), 400, "bad_request", "files.* several pictures as several requests")
    one = {"image": ("a.png", picture())}
    refused(
        client.post("/api/captions", files=one, data={"beam_size": 3}),
        400,
        "bad_request",
        r"Settings belong in the address: .*\?beam",
    )
    refused(
        client.post("/api/captions", files={"photo": ("a.png", picture())}),
        400,
        "bad_request",
        "no file in the field image",
    )
    refused(post(client, b"--x", "multipart/form-data"), 400, "bad_request", "boundary")


def test_too_many_bytes_are_counted_while_they_come(client, monkeypatch):
    monkeypatch.setattr(api, "MAX_BYTES", 1 << 20)

    def large():
        for _ in range(17):
            yield bytes(1 << 16)

    headers = {"content-type": "image/png"}
    refused(
        client.post("/api/captions", content=large(), headers=headers),
        413,
        "too_large",
        "^more than 1 MiB; send a smaller",
    )
    files = {"image": ("a.png", bytes((1 << 20) + 1))}
    refused(client.post("/api/captions", files=files), 413, "too_large", "^more than 1 MiB")


def test_too_many_pixels(client, monkeypatch):
    monkeypatch.setattr("captioning.serving.engine.MAX_PIXELS", 799)
    refused(post(client), 413, "too_large", "send a smaller copy")


def test_small_pictures_do_not_wait_for_large_ones(client, monkeypatch):
    may_end, real = threading.Event(), api.read_upload

    def read(file, name, size, tell):
        if name == "large.png":
            assert may_end.wait(30)
        return real(file, name, size, tell)

    monkeypatch.setattr(api, "read_upload", read)
    monkeypatch.setattr(api, "SMALL", 4 * 100 * 100)
    large = io.BytesIO()
    Image.new("RGB", (101, 100)).save(large, "PNG")

    def send():
        return client.post("/api/captions", files={"image": ("large.png", large.getvalue())})

    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(send) for _ in range(5)]
        try:
            assert post(client, picture(9)).status_code == 200
        finally:
            may_end.set()
        assert [each.result().status_code for each in waiting] == [200] * 5


def test_what_is_there_of_a_damaged_picture_is_captioned_with_a_note(client):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "PNG")
    found = client.post("/api/captions", files={"image": ("a\u202e.png", file.getvalue()[:-500])}).json()
    assert len(found["notes"]) == 1
    assert found["notes"][0].startswith(r"a\u202e.png: damaged: only ")
    assert "notes" not in post(client).json()


def test_a_picture_that_does_not_arrive(client, monkeypatch):
    async def never(request):
        await asyncio.sleep(30)

    monkeypatch.setattr(api, "_from_body", never)
    monkeypatch.setattr(api, "RECEIVE_SECONDS", 0.01)
    refused(post(client), 408, "too_slow", "did not arrive")


def test_a_proxy_learns_whether_the_server_can_caption():
    with Engine(MODELS) as started:
        client = TestClient(api.create_app(started))
        with started.place():
            answer = client.get("/api/health")
    assert (answer.status_code, answer.json()) == (200, {"state": "ready", "taken": 1, "places": 64})
    refused(client.get("/api/health"), 503, "closing", "the server is stopping")


def test_when_all_places_are_taken(engine, client):
    held = [engine.place() for _ in range(engine._places)]
    for place in held:
        place.__enter__()
    try:
        response = post(client)
        refused(response, 503, "busy", "try again in")
        assert int(response.headers["retry-after"]) >= 1
    finally:
        for place in held:
            place.__exit__(None, None, None)
    assert post(client).status_code == 200
    post(client, b"text")
    assert engine._taken == 0


def test_fifty_at_once_get_an_answer_each(client):
    answers = {}

    def ask(i):
        answers[i] = post(client, picture(i)).json()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: answer["captions"][1]["caption"] for i, answer in answers.items()} == {
        i: f"grey {i} 1" for i in range(50)
    }


def test_captioners_that_fail(client):
    refused(post(client, model="damaged"), 500, "model", r"^damaged\.zip: copy it anew$")
    refused(post(client, model="broken"), 500, "internal", "its log says why")
    assert post(client).status_code == 200


def test_what_can_be_chosen(client):
    answer = client.get("/api/models").json()
    assert [model["name"] for model in answer["models"]] == [model.name for model in MODELS]
    assert answer["models"][1] == {
        "name": "plain", "encoder": "mine", "decoder": "inject", "attention": False, "beam_size": 2, "length_penalty": 0.5,
        "min_length": CONFIG.min_length, "consensus": False,
    }  # fmt: skip
    assert answer["limits"]["beam_size"] == MAX_BEAM


def test_the_description_for_programs(client):
    about = client.get("/openapi.json").json()
    post_ = about["paths"]["/api/captions"]["post"]
    assert {parameter["name"] for parameter in post_["parameters"]} == {
        "model",
        "beam_size",
        "length_penalty",
        "attention",
    }
    assert {"multipart/form-data", "image/*"} <= set(post_["requestBody"]["content"])
    assert {"200", "413", "415", "422", "503"} <= set(post_["responses"])


SCRIPTS = [
    "/app.js",
    "/search.js",
    "/in_browser.js",
    "/captioning_worker.js",
    "/captioner.js",
    "/pixels.js",
    "/words.js",
]
PAGES = ["/", "/api.html", "/style.css", "/icon.svg", *SCRIPTS]


@pytest.mark.parametrize("path", PAGES)
def test_pages_load_nothing_from_elsewhere(client, path):
    response = client.get(path)
    assert response.status_code == 200
    for address in re.findall(
        r"(?:https?:)?//[\w.-]+[^\s\"'<)]*", re.sub(r"^\s*//.*|  // .*", "", response.text, flags=re.M)
    ):
        # A name space, and commands to type.
        assert address.startswith(("http://www.w3.org/", "http://127.0.0.1:8000/")), address
    assert not re.search(r"@import|<iframe|<base", response.text)


@pytest.mark.parametrize("path", [*PAGES, "/api/models", "/openapi.json", "/nothing", "/../config.py"])
def test_browsers_are_told_to_load_nothing_from_elsewhere(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_other_addresses(client):
    for path in ("/nothing", "/%2e%2e/config.py", "/api/captions"):
        refused(client.get(path), 404, "not_found", "see /api.html")
    refused(client.post("/api/models"), 405, "bad_request", "Method Not Allowed; see /api.html")
    for path in ("/docs", "/redoc"):  # which would load scripts from elsewhere
        assert client.get(path).status_code == 404


def test_the_page_about_the_api_tells_the_truth(client):
    text = (api.PAGE / "api.html").read_text()
    for status in api._ERRORS:
        assert f"<td>{status}</td>" in text
    for _, status, code in api._RAISED:
        assert f"<td>{status}</td><td><code>{code}</code>" in text
    for name in ("20 MiB", "50 megapixels", "64 pictures", "1 to 10"):
        assert name in text
    assert (api.MAX_BYTES, MAX_BEAM) == (20 << 20, 10)


def test_captions_carry_the_confidence_of_a_captioner_that_has_one(client):
    found = post(client, model="sure").json()
    for caption in (found["greedy"], *found["captions"]):
        assert (caption["confidence"], caption["unsure"]) == (0.4124, True)
    plain = post(client, model="first").json()
    assert all({"confidence", "unsure"}.isdisjoint(caption) for caption in (plain["greedy"], *plain["captions"]))
