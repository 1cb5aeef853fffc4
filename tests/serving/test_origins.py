"""Pages of other origins: those that are named may use the API, and nobody else's."""

import io

import pytest
from colour_models import ColourCaptioner
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("httpx2")
from fastapi.testclient import TestClient

from captioning.base.errors import UserError
from captioning.serving import api
from captioning.serving.engine import Engine, Model
from captioning.serving.guard import Hosts, Origins
from config import Config

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
OURS = "https://example.org"


@pytest.fixture(scope="module")
def engine():
    config = Config(image_size=32, beam_size=2, feature_grid=0, decoder="attention")
    with Engine([Model("colours", config, True, ColourCaptioner)], window=0.001) as started:
        yield started


@pytest.fixture(scope="module")
def ask(engine):
    """``ask(*allowed)`` gives a client of a server that allows these origins."""

    def client(*allowed: str) -> TestClient:
        app = api.create_app(engine, hosts=Hosts("127.0.0.1"), origins=Origins(allowed) if allowed else None)
        return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)

    return client


def cors(response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("path", ["/api/models", "/api/photos", "/api/nothing"])
def test_a_page_of_an_allowed_origin_reads_answers_and_errors(ask, path):
    response = ask("http://localhost:3000", OURS).get(path, headers={"origin": OURS})
    assert cors(response) == {
        "access-control-allow-origin": OURS,
        "access-control-expose-headers": "Retry-After",
    }
    assert response.headers["vary"] == "Origin"
    assert response.headers["content-security-policy"], "and the other headers stay"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://example.org", "https://example.org:444", "https://example.org.evil.example",
     "https://sub.example.org", "null", "*", "https://EXAMPLE.org/", ""],
)  # fmt: skip
def test_pages_of_other_origins_read_nothing(ask, origin):
    client = ask(OURS)
    response = client.get("/api/models", headers={"origin": origin})
    assert (response.status_code, cors(response), response.headers["vary"]) == (200, {}, "Origin")
    response = client.options("/api/captions", headers=PREFLIGHT | {"origin": origin})
    assert (response.status_code, response.json()["error"]["code"], cors(response)) == (403, "wrong_origin", {})
    assert "start it with --allow-origin" in response.json()["error"]["message"]


def test_a_browser_may_ask_before_it_sends_a_picture(ask):
    client = ask(OURS)
    response = client.options("/api/captions", headers=PREFLIGHT | {"origin": OURS})
    assert (response.status_code, response.content) == (204, b"")
    assert cors(response) == {
        "access-control-allow-origin": OURS,
        "access-control-expose-headers": "Retry-After",
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "Content-Type",
        "access-control-max-age": "600",
    }
    local = PREFLIGHT | {"origin": OURS, "access-control-request-private-network": "true"}
    assert cors(client.options("/api/captions", headers=local))["access-control-allow-private-network"] == "true"
    file = io.BytesIO()
    Image.new("RGB", (40, 20), (220, 30, 30)).save(file, "PNG")
    headers = {"origin": OURS, "content-type": "image/png"}
    response = client.post("/api/captions", content=file.getvalue(), headers=headers)
    assert (response.status_code, cors(response)["access-control-allow-origin"]) == (200, OURS)


def test_without_the_option_nothing_changes(ask):
    response = ask().get("/api/models", headers={"origin": OURS})
    assert (response.status_code, cors(response), "vary" in response.headers) == (200, {}, False)
    assert ask().options("/api/captions", headers=PREFLIGHT | {"origin": OURS}).status_code == 405


def test_all_pages_may_where_that_is_wanted(ask):
    for origin in ("https://evil.example", "null"):
        response = ask("*").get("/api/models", headers={"origin": origin})
        assert (cors(response)["access-control-allow-origin"], "vary" in response.headers) == ("*", False)


def test_the_page_itself_is_shown_to_no_other_origin(ask):
    for path in ("/", "/app.js"):
        assert cors(ask("*").get(path, headers={"origin": OURS})) == {}


def test_other_names_of_this_server_stay_refused(ask):
    response = ask("*").get("/api/models", headers={"origin": OURS, "host": "evil.example"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "wrong_host")


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("https://example.org", "https://example.org"),
        ("HTTPS://Example.ORG", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80", "http://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://192.168.0.7", "http://192.168.0.7"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_are_known_as_browsers_send_them(typed, sent):
    assert sent in Origins([typed])


@pytest.mark.parametrize(
    "text",
    ["example.org", "https://example.org/", "https://example.org/page", "https://*.example.org", "https://", "", " ",
     "https://me@example.org", "https://example.org?x", "https://example.org:0", "https://example.org:70000",
     "https://example.org,https://other.example", "https://b\u00fccher.example", "http://a\r\nb", "https://.org"],
)  # fmt: skip
def test_what_is_no_origin_is_named(text):
    with pytest.raises(UserError, match=r"--allow-origin: .* is no origin; give scheme, name and port alone"):
        Origins(["https://example.org", text])


def test_the_origin_of_files_is_refused():
    with pytest.raises(UserError, match="--allow-origin: 'null' is the origin of all files"):
        Origins(["null"])
