"""app.py: what it offers and refuses; and the page in a real browser, over a small untrained captioner."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, assert_asks_itself_only, save_encoder, until
from PIL import Image
from running import script
from sure import CONFIDENCE

import app
from captioning.base.errors import UserError
from captioning.serving.engine import Engine, Model
from captioning.words.vocabulary import Vocabulary
from config import Config

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

WORDS = ["a", "red", "green", "blue", "ball", "runs"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Two untrained captioners, the newer with attention over 2 x 2 regions and a confidence, and a damaged one."""
    import keras

    from captioning.features.encoder import build_encoder
    from model import Captioner

    folder = tmp_path_factory.mktemp("runs")
    sizes = {"encoder": save_encoder(folder / "encoder.keras"), "image_size": 32, "embedding_size": 8}
    sizes |= {"hidden_size": 8, "min_length": 3, "max_caption_length": 6}
    for age, name in enumerate(("adaptive", "merge")):
        keras.utils.set_random_seed(age)
        config = Config(decoder=name, feature_grid=2, **sizes)
        (folder / name).mkdir()
        path = folder / name / "captioner.zip"
        captioner = Captioner.untrained(config, Vocabulary(WORDS), build_encoder(config))
        captioner.confidence = CONFIDENCE if name == "adaptive" else None
        captioner.save(path)
        os.utime(path, (2e9 - age, 2e9 - age))
    (folder / "torn").mkdir()
    (folder / "torn" / "captioner.zip").write_bytes(b"text")
    return folder


def arguments(*typed: str):
    return app.app_parser().parse_args(typed)


def test_what_ships_comes_first_then_the_newest_run(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "PRETRAINED", tmp_path)
    for name in ("flickr8k.zip", "pocket.zip"):
        shutil.copyfile(run_dir / "merge" / "captioner.zip", tmp_path / name)
    (tmp_path / "search.zip").write_bytes(b"towers, which caption nothing")
    os.utime(run_dir / "torn" / "captioner.zip", (1e9, 1e9))
    found = app.bundles_found(run_dir)
    shipped = [tmp_path / "pocket.zip", tmp_path / "flickr8k.zip"]
    assert found == [*shipped, *(run_dir / name for name in ("adaptive", "merge", "torn"))]


def test_what_can_be_chosen(run_dir, tmp_path, capsys):
    (tmp_path / "merge").mkdir()
    for copy in (tmp_path / "pocket.zip", tmp_path / "merge" / "captioner.zip"):
        shutil.copyfile(run_dir / "merge" / "captioner.zip", copy)
    paths = [*(run_dir / name for name in ("adaptive", "torn", "merge")), tmp_path / "pocket.zip"]
    paths.append(tmp_path / "merge" / "captioner.zip")
    models = app.models_of(paths, arguments("--beam-size", "4"), named=False)
    assert [(model.name, model.attends) for model in models] == [
        ("adaptive", True), ("merge", False), ("pocket", False), ("merge (2)", False)
    ]  # fmt: skip
    assert all(model.config.beam_size == 4 and model.config.min_length == 3 for model in models)
    assert "left out: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"torn.*not a bundle, or a damaged one"):
        app.models_of(paths, arguments(), named=True)
    with pytest.raises(UserError, match="hidden_size: the model was trained with 8"):
        app.models_of(paths[:1], arguments("--hidden-size", "9"), named=True)
    with pytest.raises(UserError, match="none of the captioners found can be used"):
        app.models_of(paths[1:2], arguments(), named=False)


def test_a_default_that_cannot_be_loaded_does_not_keep_the_page_from_starting(capsys, monkeypatch):
    def warm_up(engine):
        if engine.default.name != "whole":
            raise UserError(f"{engine.default.name}: damaged")

    monkeypatch.setattr(Engine, "warm_up", warm_up)

    def offered(*names: str, named: bool) -> list[str]:
        engine = Engine([Model(name, Config(), False, lambda: None) for name in names])
        app.warm_up(engine, named)
        assert engine.default.name == "whole"
        return list(engine.models)

    assert offered("torn", "also torn", "whole", "other", named=False) == ["whole", "other"]
    assert "left out: torn: damaged\n" in capsys.readouterr().err
    with pytest.raises(UserError, match="torn: damaged"):
        offered("torn", "whole", named=True)
    with pytest.raises(UserError, match="torn: damaged"):
        offered("torn", named=False)


def test_a_bundle_that_was_removed_is_not_found(tmp_path):
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "captioner.zip").symlink_to(tmp_path / "nowhere")
    assert tmp_path / "gone" not in app.bundles_found(str(tmp_path))


def test_what_photos_need(tmp_path, run_dir, monkeypatch):
    def photos(*typed):
        return app.photos_of(app.app_parser().parse_args(list(map(str, typed))))

    assert photos() is None
    for name in ("aligner", "index", "exclude"):
        with pytest.raises(UserError, match=f"--{name}: is read only with --photos DIR"):
            photos(f"--{name}", tmp_path)
    with pytest.raises(UserError, match="--index-type: is read only with --photos DIR"):
        photos("--index-type", "hnsw")
    with monkeypatch.context() as patch:
        patch.setattr("captioning.retrieval.index_types._has_faiss", lambda: False)
        with pytest.raises(UserError, match="--index-type hnsw: faiss is not installed"):
            photos("--photos", tmp_path, "--index-type", "hnsw")
    monkeypatch.setattr("captioning.retrieval.index.SEARCH", tmp_path / "search.zip")
    with pytest.raises(UserError, match=r"search\.zip: there are no towers here; .* with --aligner RUN"):
        photos("--photos", tmp_path)
    with pytest.raises(UserError, match="one of kind aligner is wanted"):
        photos("--photos", tmp_path, "--aligner", run_dir / "merge")
    monkeypatch.setattr("app.settings_of", lambda path, kind: Config())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--photos: .*empty: holds no pictures"):
        photos("--photos", tmp_path / "empty", "--aligner", tmp_path)
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        photos("--photos", tmp_path / "nowhere", "--aligner", tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "empty" / "a.png")
    opened = photos("--photos", tmp_path / "empty", "--aligner", tmp_path / "run", "--index", tmp_path / "index")
    assert (opened.name, opened._place("m1")) == ("empty", tmp_path / "index")
    assert opened._index_type is None
    opened = photos("--photos", tmp_path / "empty", "--aligner", tmp_path / "run", "--index-type", "exact")
    assert opened._index_type == "exact"
    opened = photos("--photos", tmp_path / "empty", "--aligner", tmp_path / "run" / "aligner.zip")
    assert opened._place("m1").parent == tmp_path / "run" / "index", "where retrieve.py has it"


def test_origins_are_checked_before_any_work(tmp_path, monkeypatch, capsys):
    for origin, mentions in (("https://example.org/", "--allow-origin: .* is no origin"), ("*", "nowhere")):
        monkeypatch.setattr(sys, "argv", ["app.py", "--allow-origin", origin, "--model", str(tmp_path / "nowhere")])
        with pytest.raises(UserError, match=mentions):
            app.main()
    assert (
        capsys.readouterr().err
        == "warning: --allow-origin '*': any page in a browser that reaches this server can use it\n"
    )


def test_a_server_cannot_stop_before_it_is_told_to(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py", "--grace", "-1"])
    with pytest.raises(UserError, match="--grace: at least 0 seconds, got -1"):
        app.main()


def test_a_port_that_is_taken(run_dir):
    taken_port = r"--port: cannot listen at 127\.0\.0\.1, port \d+: .*in use; choose another"
    with app.bind("127.0.0.1", 0) as first:
        with app.bind(*first.getsockname()) as second:  # both were quick, and neither listens yet
            app.listen(first)
            with pytest.raises(UserError, match=taken_port):
                app.listen(second)
        with pytest.raises(UserError, match=taken_port):
            app.bind(*first.getsockname())
    for host, port in (("127.0.0.1", 99_999), ("not a host", 0)):
        with pytest.raises(UserError, match=f"--port: cannot listen at {host}, port {port}: .*; choose another"):
            app.bind(host, port)


def test_until_it_can_caption_connections_are_refused():
    with app.bind("127.0.0.1", 0) as bound:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(bound.getsockname(), timeout=30)
        app.listen(bound)
        socket.create_connection(bound.getsockname(), timeout=30).close()


def test_without_its_libraries_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "captioning.serving.server", raising=False)  # other tests may have imported it
    monkeypatch.setattr(sys, "argv", ["app.py"])
    with pytest.raises(UserError, match=r'^app\.py: uvicorn is not installed; pip install -e "\.\[app\]"$'):
        app.main()


# In a process of its own, and a browser -------------------------------------------------------------------------------


@contextmanager
def served(*options: str | Path):
    """The address of an app.py with these options; afterwards Ctrl-C stops it."""
    errors: list[str] = []
    with subprocess.Popen(
        [sys.executable, ROOT / "app.py", *options, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CI": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores Ctrl-C
    ) as server:
        reader = threading.Thread(target=lambda: errors.extend(server.stderr), daemon=True)
        reader.start()
        try:
            for line in server.stdout:
                if found := re.match(r"captions at (http://127\.0\.0\.1:\d+)  \(Ctrl-C stops\)", line):
                    break
            else:
                reader.join()
                pytest.fail("".join(errors))
            yield found[1]
            server.send_signal(signal.SIGINT)
            assert server.wait(300) == 0
            assert server.stdout.read() == "\nstopped\n"
            reader.join()
            assert "Traceback" not in "".join(errors)
        finally:
            server.kill()
            reader.join()


@pytest.fixture(scope="module")
def page(run_dir):
    """The address of a server that captions with the two small captioners."""
    with served("--model", run_dir / "adaptive", "--model", run_dir / "merge") as address:
        yield address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for name in ("one.png", "two.jpg"):
        Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).resize((360, 240)).save(folder / name)
        made.append(folder / name)
    made.append(folder / "three.jpg")
    made[-1].write_text("no picture")
    return made


@pytest.mark.slow
def test_programs_get_captions(page, pictures):
    import requests

    with open(pictures[0], "rb") as picture:
        answer = requests.post(
            f"{page}/api/captions", files={"image": picture}, params={"attention": True}, timeout=300
        )
    assert answer.status_code == 200, answer.text
    answer = answer.json()
    assert (answer["image"], answer["model"], len(answer["captions"])) == ("one.png", "adaptive", 3)
    assert [found["score"] for found in answer["captions"]] == sorted(
        (f["score"] for f in answer["captions"]), reverse=True
    )
    assert all(found["unsure"] == (found["confidence"] < 0.4) for found in answer["captions"])
    look = answer["captions"][0]["attention"]
    assert look["words"] == answer["captions"][0]["caption"].split()
    for weights, sentinel in zip(look["weights"], look["sentinel"], strict=True):
        assert sum(weights) + sentinel == pytest.approx(1, abs=1e-3)
    # Who is still sending hears what is wrong.
    large = requests.post(f"{page}/api/captions", files={"image": bytes(40 << 20)}, timeout=300)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    with socket.create_connection(page[7:].split(":"), timeout=300) as raw:  # somebody who gives up midway
        raw.sendall(
            b"POST /api/captions HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 999\r\n\r\nabc"
        )
    with open(pictures[0], "rb") as picture:
        again = requests.post(
            f"{page}/api/captions?model=merge&beam_size=1",
            data=picture,
            headers={"content-type": "image/png"},
            timeout=60,
        )
    assert again.json()["model"] == "merge"


# The page in the browser. ``opened`` shows it anew to each test.


def all_of(selector: str, within) -> list:
    """The elements that match a CSS ``selector`` within a page or an element."""
    return within.find_elements("css selector", selector)


def one_of(selector: str, within):
    """The first element that matches a CSS ``selector``."""
    return within.find_element("css selector", selector)


def cards_done(browser) -> list | None:
    """The cards of the page, once there are some and all of them have their captions."""
    found = all_of(".card", browser)
    return found if found and not all_of(".card[aria-busy]", browser) else None


def send(browser, pictures: list[Path]) -> list:
    """Choose ``pictures`` and wait. Returns the cards."""
    one_of("#files", browser).send_keys("\n".join(map(str, pictures)))
    return until(lambda: cards_done(browser))


@pytest.fixture
def opened(page, browser):
    """The browser with the page. Afterwards nothing has gone wrong, and nothing was asked of any other place."""
    browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    browser.get(page)
    until(lambda: one_of("#beam-value", browser).text == "3")
    yield browser
    assert [entry for entry in browser.get_log("browser") if "api/captions" not in entry["message"]] == []
    assert_asks_itself_only(browser, page)


@pytest.mark.slow
def test_the_page_captions_several_pictures_at_once(opened, pictures):
    cards = send(opened, pictures)  # the last one is not a picture
    assert not one_of("#photos", opened).is_displayed(), "no folder, no search box"
    assert [one_of("h3", card).text for card in cards] == ["one.png", "two.jpg", "three.jpg"]
    assert [len(all_of("li.caption", card)) for card in cards] == [3, 3, 0]
    assert [len(all_of(".caption", card)) for card in cards] == [4, 4, 0]  # the greedy one too
    sure = [part.text for part in all_of(".sure", cards[0])]
    assert len(sure) == 4
    assert all(re.fullmatch(r"confidence\s\d+ %( \(unsure\))?", text) for text in sure)
    assert "three.jpg: not a picture in a format that this server reads" in cards[2].text
    assert not one_of(".again", cards[2]).is_displayed()
    assert one_of("img", cards[0]).get_attribute("alt") == all_of(".words", cards[0])[0].text
    assert one_of("#status", opened).text == "3 pictures"


@pytest.mark.slow
def test_the_page_shows_attention_by_the_keyboard_alone(opened, pictures):
    from selenium.webdriver.common.keys import Keys

    (card,) = send(opened, pictures[:1])
    words, canvas, looks = all_of(".best .words button", card), one_of("canvas", card), one_of(".looks", card)
    assert not canvas.is_displayed()
    opened.execute_script("arguments[0].focus()", words[0])
    until(canvas.is_displayed)
    assert re.match(rf"“{words[0].text}”: \d+ % in the (upper|lower) (left|right), and \d+ % not", looks.text)
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    until(lambda: looks.text.startswith(f"“{words[1].text}”"))
    assert [word.get_attribute("aria-pressed") for word in words[:2]] == ["false", "true"]
    image = one_of("img", card)
    assert [round(canvas.rect[side]) for side in ("x", "y", "width", "height")] == [
        round(image.rect[side]) for side in ("x", "y", "width", "height")
    ]
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(lambda: not canvas.is_displayed())


@pytest.mark.slow
def test_the_page_captions_anew_when_settings_change(opened, pictures):
    from selenium.webdriver.common.keys import Keys

    (card,) = send(opened, pictures[:1])
    one_of("#beam", opened).send_keys(Keys.ARROW_LEFT)
    until(lambda: cards_done(opened) and len(all_of("li.caption", card)) == 2)
    before = all_of(".score", card)[0].text
    one_of("#penalty", opened).send_keys(Keys.HOME)
    until(lambda: cards_done(opened) and all_of(".score", card)[0].text != before)
    one_of("#model option[value=merge]", opened).click()  # a captioner without attention
    until(lambda: cards_done(opened) and all_of("p.words", card))
    assert not all_of(".sure", card)  # nor a confidence
    assert "no attention" in one_of("#model-note", opened).text


@pytest.mark.slow
def test_the_page_takes_pictures_by_paste_and_drop_and_gives_json(opened, pictures):
    send(opened, pictures[:2])
    for event, field in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        count = len(all_of(".card", opened))
        opened.execute_script(
            """
            const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 30 });
            canvas.toBlob((blob) => {
              const data = new DataTransfer();
              data.items.add(new File([blob], arguments[0] + ".png", { type: "image/png" }));
              const event = new Event(arguments[0], { bubbles: true, cancelable: true });
              event[arguments[1]] = data;
              document.dispatchEvent(event);
            });
            """,
            event,
            field,
        )
        until(lambda count=count: len(all_of(".card", opened)) == count + 1 and cards_done(opened))
        assert all_of(".card h3", opened)[0].text == f"{event}.png"
    one_of("#download-all", opened).click()
    saved = until(lambda: list(opened.downloads.glob("captions.json")))[0]
    images = [answer["image"] for answer in json.loads(saved.read_text())]
    assert images == ["drop.png", "paste.png", "one.png", "two.jpg"]
    one_of("#remove-all", opened).click()
    until(lambda: not all_of(".card", opened))
    assert opened.switch_to.active_element.get_attribute("id") == "choose"


@pytest.mark.slow
def test_the_page_fits_a_phone_and_names_its_controls(opened, pictures):
    send(opened, pictures[:1])
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
        for control in all_of("button, select, input:not([hidden]), a", opened):
            assert not control.is_displayed() or control.accessible_name
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_photos_are_searched_by_trained_towers(run_dir, pictures, tmp_path):
    """The whole way in a process of its own: towers that borrow their encoder, an index that retrieve.py shares."""
    import keras
    import requests

    from captioning.features.encoder import build_encoder
    from captioning.retrieval.aligner import Aligner

    keras.utils.set_random_seed(0)
    config = Config(
        encoder=str(run_dir / "encoder.keras"),
        image_size=32,
        embedding_size=8,
        hidden_size=8,
        stage="align",
        monitor="recall",
        joint_size=16,
    )
    towers = tmp_path / "search.zip"
    Aligner.untrained(config, Vocabulary(WORDS), build_encoder(config)).save(
        towers, half=True, lender=run_dir / "merge" / "captioner.zip"
    )
    options = ["--aligner", towers, "--photos", pictures[0].parent]
    with served("--model", run_dir / "merge", *options) as address:

        def ready():
            return (answer := requests.get(f"{address}/api/photos", timeout=60).json())["state"] == "ready" and answer

        assert until(ready)["unreadable"] == 1
        answer = requests.get(f"{address}/api/search", params={"query": "a red ball"}, timeout=60).json()
        assert sorted(hit["name"] for hit in answer["results"]) == ["one.png", "two.jpg"]
        photo = f"{address}/api/photos/{answer['results'][0]['photo']}"
        assert requests.get(photo, timeout=60).content.startswith(b"\xff\xd8")
        assert requests.get(f"{photo}/caption", timeout=60).json()["model"] == "merge"
    (folder,) = (tmp_path / "index").iterdir()
    before = (folder / "index.json").stat().st_mtime_ns
    outcome = script("retrieve", "--model", towers, "--images", pictures[0].parent, "a red ball", "--json")
    found = [(Path(hit["image"]).name, round(hit["cosine"], 4)) for hit in json.loads(outcome.out)["results"]]
    assert found == [(hit["name"], hit["cosine"]) for hit in answer["results"]]
    assert (folder / "index.json").stat().st_mtime_ns == before, "both share the index"
