"""Captions made in the visitor's own browser: what the page gets for that, and that they are those of the server."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import threading

import numpy as np
import pytest
from helpers import assert_asks_itself_only, until
from PIL import Image, ImageDraw

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx2")
pytest.importorskip("onnxruntime")
from fastapi.testclient import TestClient

import app
from captioning.base.errors import UserError
from captioning.data import download
from captioning.serving import browser as in_browser
from captioning.serving.api import PAGE, create_app
from captioning.serving.engine import Engine, Model
from captioning.serving.guard import Hosts
from captioning.words.splitting import SPLITTINGS
from config import POCKET, Config

SCRIPT = b"export const x = 1;"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files with the names that browsers get, and others."""
    folder = tmp_path_factory.mktemp("files")
    for name in [*in_browser.FILES, *in_browser.EXPORTED, "check.json", "other.txt"]:
        (folder / name).write_bytes(SCRIPT)
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    """An engine that does not run, because no picture comes."""
    return Engine([Model("small", Config(), True, lambda: None, graphs=folder)])


@pytest.fixture(scope="module")
def client(engine, folder):
    return TestClient(create_app(engine, runtime=folder))


def test_browsers_get_the_runtime_and_the_graphs_and_nothing_else(client):
    kinds = {"mjs": "text/javascript", "wasm": "application/wasm", "json": "application/json"}
    for path in [*(f"runtime/{name}" for name in in_browser.FILES), *(f"models/0/{n}" for n in in_browser.EXPORTED)]:
        answer = client.get(f"/browser/{path}")
        kind = kinds.get(path.rpartition(".")[2], "application/octet-stream")
        assert (answer.content, answer.headers["content-type"]) == (SCRIPT, kind)
    again = client.get(f"/browser/{path}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b""), "a browser keeps what it has"
    for path in ("runtime/other.txt", "runtime/..%2fapp.py", "models/1/export.json", "models/-1/export.json"):
        assert client.get(f"/browser/{path}").status_code == 404
    assert client.get("/browser/models/0/check.json").status_code == 404


def test_only_such_a_page_may_run_webassembly(client, engine):
    headers = client.get("/").headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert policy.endswith("script-src 'self' 'wasm-unsafe-eval'")
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    about = client.get("/api/models").json()
    assert (about["in_browser"], about["models"][0]["min_length"]) == (True, engine.default.config.min_length)
    plain = TestClient(create_app(engine))
    assert plain.get("/api/models").json()["in_browser"] is False
    assert "wasm" not in plain.get("/").headers["content-security-policy"]
    assert "cross-origin-opener-policy" not in plain.get("/").headers
    assert plain.get("/browser/models/0/encoder.onnx").status_code == 404


def test_captioners_that_browsers_cannot_run_are_refused(tmp_path):
    def refuse(*typed, mentions):
        with pytest.raises(UserError, match=mentions):
            app.models_of([tmp_path / "pocket.zip"], app.app_parser().parse_args(["--in-browser", *typed]), True)

    (tmp_path / "pocket.zip").symlink_to(POCKET)
    refuse(mentions=r"--in-browser: .*pocket\.zip has no ONNX graphs; python export\.py --format onnx --model")
    graphs = tmp_path / "pocket" / "onnx"
    graphs.mkdir(parents=True)
    for path in (POCKET.with_suffix("") / "onnx").iterdir():
        (graphs / path.name).symlink_to(path)
    refuse("--runtime", "keras", mentions="--in-browser: --runtime keras")
    refuse("--exclude-words", "dog", mentions="--in-browser: only Keras runs prefix, include and exclude_words")
    (graphs / "encoder.onnx").unlink()
    (graphs / "encoder.onnx").write_bytes(b"another one")
    refuse(mentions=r"--in-browser: .*encoder\.onnx is not what was written; python export\.py .*--overwrite")


def packed(**files: bytes) -> bytes:
    """An archive as npm has them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """What the registry has, which a test may change; the cache is empty."""
    monkeypatch.setattr(in_browser, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(in_browser, "FILES", {"a.mjs": hashlib.sha256(SCRIPT).hexdigest()})
    holds = {"archive": packed(**{"a.mjs": SCRIPT, "b.mjs": b"other"})}

    def fetch(address, dest):
        assert address == in_browser.ADDRESS
        if not dest.exists():
            if holds["archive"] is None:
                raise download.DownloadError(f"{address}: cannot be fetched: no connection: refused")
            dest.parent.mkdir(parents=True, exist_ok=True)
            dest.write_bytes(holds["archive"])

    monkeypatch.setattr(download, "fetch", fetch)
    return holds


def test_the_runtime_is_fetched_once_and_checked(published):
    assert not in_browser.has_runtime()
    folder = in_browser.prepare_runtime()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.mjs": SCRIPT}
    published["archive"] = None
    assert in_browser.prepare_runtime() == folder, "without a network"
    (folder / "a.mjs").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"--in-browser: needs onnxruntime-web .* no connection: refused\. Try again"):
        in_browser.prepare_runtime()
    (folder / in_browser.ARCHIVE).write_bytes(packed(**{"a.mjs": SCRIPT}))  # by hand, as the message says
    assert in_browser.prepare_runtime() == folder
    assert in_browser.has_runtime()


@pytest.mark.parametrize(
    "archive",
    [packed(**{"a.mjs": b"malicious"}), packed(), packed(**{"a.mjs": SCRIPT})[:40], b""],
    ids=["changed", "empty", "torn", "nothing"],
)
def test_another_runtime_is_refused(published, archive):
    published["archive"] = archive
    with pytest.raises(UserError, match=r"damaged, and removed .* start again, and it is fetched anew"):
        in_browser.prepare_runtime()
    assert list(in_browser.runtime_folder().iterdir()) == []


# The JavaScript of the page -------------------------------------------------------------------------------------------

NODE = """
import { factorFor, squash } from "PAGE/pixels.js";
import { requireInputs } from "PAGE/captioner.js";
import { idsOf, join, spell } from "PAGE/words.js";
import { readFileSync } from "node:fs";
const { pictures, texts, graph, ids } = JSON.parse(readFileSync(0));
const squashed = pictures.map(({ data, width, height, size, factor }) => {
  const all = Buffer.from(data, "base64");
  const part = (left, top, wide, high) => Buffer.concat(Array.from({ length: high }, (_, y) => (
    all.subarray(((top + y) * width + left) * 4, ((top + y) * width + left + wide) * 4))));
  return Buffer.from(squash(part, width, height, size, factor)).toString("base64");
});
const file = Buffer.from(graph, "base64");
requireInputs(file, new Set(["beam_size"]));
console.log(JSON.stringify({
  squashed, graph: file.toString("base64"), joined: texts.map(([words, splitting]) => join(words, splitting)),
  spelled: spell(idsOf(ids), { words: ["", "", "", "", "a", "snow", "##board"], wordpieces: true }),
  factors: [[4000, 3000, 260, true], [1040, 1040, 260, true], [1039, 9999, 260, true], [300, 300, 260, true],
    [4000, 3000, 260, false], [8000, 6000, 260, false]].map((each) => factorFor(...each)),
}));
"""
# Width, height, size, factor: wide, high (resampled down first), high by a little, made smaller first, of that size.
SHAPES = [(90, 60, 32, 1), (40, 90, 32, 1), (60, 70, 32, 1), (130, 104, 16, 2), (32, 32, 32, 1), (5, 3, 8, 1)]
TEXTS = [
    (["the", "man", "'s", "dog", "does", "n't", "run"], "treebank"),
    (["一", "只", "dog", "the", "man's", "カメラ", "ネコ", "は", "หมา", "วิ่ง", "ok"], "unicode"),
    (["a", " ", "d", "o", "g", "红"], "characters"),
]


def model_of(*names: str) -> bytes:
    """An ONNX model whose initializers have these ``names`` and 100 numbers, as far as names are looked for."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content

    version, bits = b"\x08\x0a", b"\x1d\x00\x00\x80\x3f"  # ir_version, and what a reader must step over
    weights = [field(5, b"\x10\x01" + bits + field(8, name.encode()) + field(9, bytes(400))) for name in names]
    return version + field(7, field(11, b"input " + names[-1].encode()) + b"".join(weights)) + field(8, b"\x10\x12")


def test_the_page_resamples_and_spells_as_the_server_does():
    if not shutil.which("node"):
        pytest.skip("needs node")
    rng = np.random.default_rng(0)
    shades = [rng.integers(0, 256, (height, width, 4), dtype=np.uint8) for width, height, _, _ in SHAPES]
    pictures = [
        {
            "data": base64.b64encode(each).decode(),
            **dict(zip(("width", "height", "size", "factor"), shape, strict=True)),
        }
        for each, shape in zip(shades, SHAPES, strict=True)
    ]
    graph = model_of("beam_size", "x")
    asked = {
        "pictures": pictures,
        "texts": TEXTS,
        "graph": base64.b64encode(graph).decode(),
        "ids": [1, 4, 5, 6, 2, 4, 0],
    }
    code = NODE.replace("PAGE", PAGE.as_uri())
    command = ["node", "--input-type=module", "--no-warnings", "-e", code]
    found = json.loads(
        subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True).stdout
    )
    for each, (_, _, size, factor), squashed in zip(shades, SHAPES, found["squashed"], strict=True):
        image = Image.fromarray(each[..., :3]).reduce(factor).resize((size, size), Image.Resampling.BICUBIC)
        pixels = np.frombuffer(base64.b64decode(squashed), "uint8").reshape(size, size, 3)
        np.testing.assert_array_equal(pixels, np.asarray(image))
    assert found["joined"] == [SPLITTINGS[splitting].join(words) for words, splitting in TEXTS]
    assert found["spelled"] == [{"text": "a", "ids": 1}, {"text": "snowboard", "ids": 2}]
    assert found["factors"] == [4, 2, 1, 1, 1, 11]
    assert base64.b64decode(found["graph"]) == model_of("_eam_size", "x")


# In a real browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Scenes: one that EXIF turns, one that is made smaller first, a transparent one. And a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    scene = Image.new("RGB", (400, 300), "skyblue")
    pen = ImageDraw.Draw(scene)
    pen.rectangle((0, 200, 400, 300), "green")
    pen.ellipse((140, 120, 260, 240), "red")
    pen.rectangle((290, 60, 350, 230), "saddlebrown")
    turned = Image.Exif()
    turned[0x0112] = 6
    scene.rotate(90, expand=True).save(folder / "turned.jpg", exif=turned, quality=95)
    Image.blend(scene, Image.effect_noise(scene.size, 90).convert("RGB"), 0.05).resize((1240, 1200)).save(
        folder / "large.jpg", quality=90
    )
    scene.putalpha(Image.linear_gradient("L").resize(scene.size))
    scene.save(folder / "fading.webp", lossless=True)
    (folder / "none.jpg").write_text("no picture")
    return [folder / name for name in ("turned.jpg", "large.jpg", "fading.webp", "none.jpg")]


@pytest.fixture(scope="module")
def server():
    """The address of a server whose page captions in the browser, and what stops it."""
    import uvicorn

    if not in_browser.has_runtime():
        pytest.skip("needs onnxruntime-web; python app.py --in-browser fetches it")
    models = app.models_of(
        [POCKET], app.app_parser().parse_args(["--in-browser", "--precision", "float32"]), named=True
    )
    with app.bind("127.0.0.1", 0) as listening, Engine(models, window=0.001) as engine:
        app.listen(listening)
        hosts = Hosts("127.0.0.1")
        made = create_app(engine, hosts=hosts, runtime=in_browser.prepare_runtime())
        running = uvicorn.Server(uvicorn.Config(made, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()

        def stop():
            running.should_exit = True
            thread.join()

        yield f"http://127.0.0.1:{listening.getsockname()[1]}", stop
        stop()


@pytest.mark.slow
def test_the_browser_captions_as_the_server_does_and_without_it(browser, server, pictures):
    import requests
    from selenium.webdriver.common.keys import Keys

    address, stop = server

    def of_server(name, **settings):
        with open(name, "rb") as picture:
            asked = {"files": {"image": picture}, "params": {"attention": True, **settings}, "timeout": 60}
            return requests.post(f"{address}/api/captions", **asked).json()

    def one(selector):
        return browser.find_element("css selector", selector)

    def answers():
        """What the page shows, as JSON, once all pictures are captioned."""
        until(lambda: not browser.find_elements("css selector", ".card[aria-busy]"))
        (browser.downloads / "captions.json").unlink(missing_ok=True)
        one("#download-all").click()
        return json.loads(until(lambda: [*browser.downloads.glob("captions.json")])[0].read_text())

    expected = [of_server(name) for name in pictures[:-1]]
    fewer = [of_server(pictures[0], beam_size=2)]
    browser.get(address)
    until(lambda: one("#loading").text == "The captioner is ready.")
    assert one("#limits").text.endswith("captioned in this browser, on your device. They are sent nowhere.")
    assert browser.execute_script("return crossOriginIsolated")
    stop()  # from here on, nothing can be sent
    one("#files").send_keys("\n".join(map(str, pictures)))
    assert_same(answers(), expected)
    cards = browser.find_elements("css selector", ".card")
    assert "none.jpg: this browser cannot read it as a picture" in cards[-1].text
    assert cards[0].find_element("css selector", ".best .words").text == expected[0]["captions"][0]["caption"]
    assert "%" in cards[0].find_element("css selector", ".best .sure").text
    one("#beam").send_keys(Keys.ARROW_LEFT)
    assert_same(answers()[:1], fewer)
    assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []
    assert_asks_itself_only(browser, address)


def assert_same(found, expected):
    """The same best and greedy captions, equally probable, with nearly the same confidence and attention.

    Browsers decode JPEG a little differently, so one of the less probable captions of a beam may be another.
    """
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        assert (one["image"], one["beam_size"]) == (other["image"], other["beam_size"])
        texts = {caption["caption"]: caption for caption in one["captions"]}
        shared = [(texts[wanted["caption"]], wanted) for wanted in other["captions"] if wanted["caption"] in texts]
        assert len(one["captions"]) == len(other["captions"]) <= len(shared) + 1, one["image"]
        best = one["captions"][0], other["captions"][0]
        for caption, wanted in [(one["greedy"], other["greedy"]), best, *shared]:
            assert caption["caption"] == wanted["caption"], one["image"]
            assert caption["unsure"] == wanted["unsure"]
            assert caption["log_prob"] == pytest.approx(wanted["log_prob"], abs=0.2)
            assert caption["confidence"] == pytest.approx(wanted["confidence"], abs=0.02)
            assert caption["attention"]["words"] == wanted["attention"]["words"]
            assert caption["attention"]["side"] == 9
            np.testing.assert_allclose(caption["attention"]["weights"], wanted["attention"]["weights"], atol=0.02)
