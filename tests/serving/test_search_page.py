"""The search box of the page in a real browser, over towers and a captioner that know colours only."""

import threading

import pytest
from colour_models import COLOURS, ColourCaptioner, ColourTowers, paint
from helpers import assert_asks_itself_only, until

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from captioning.serving.engine import Engine, Model
from captioning.serving.guard import Hosts
from captioning.serving.photos import Photos
from config import Config

PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "holidays"
    for i in range(9):
        paint(folder / f"{list(COLOURS)[i % 3]} {i}.jpg", list(COLOURS)[i % 3], (200 + 10 * i, 300))
    paint(folder / "below" / "a <b>&amp; 50% ü.png", "blue", (300, 200))
    return folder


@pytest.fixture(scope="module")
def held():
    """What holds the second batch of the index back."""
    return threading.Event()


@pytest.fixture(scope="module")
def page(folder, held, tmp_path_factory):
    """The address of a server over the folder."""
    import uvicorn

    import app
    from captioning.serving.api import create_app

    model = Model(
        "colours", Config(image_size=32, beam_size=2, feature_grid=0, decoder="merge"), False, ColourCaptioner
    )

    def hold(number):
        while number == 1 and not held.wait(0.01):
            photos._answer()  # as after every batch

    towers = ColourTowers(hold)
    index = tmp_path_factory.mktemp("index")
    with (
        app.bind("127.0.0.1", 0) as listening,
        Engine([model], window=0.001) as engine,
        Photos(folder, lambda: towers, lambda fingerprint: index, 1e9) as photos,
    ):
        app.listen(listening)
        settings = uvicorn.Config(
            create_app(engine, photos, Hosts("127.0.0.1")), log_level="warning", lifespan="off", ws="none"
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def one(selector: str, browser):
    return browser.find_element("css selector", selector)


def every(selector: str, browser) -> list:
    return browser.find_elements("css selector", selector)


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def names(browser) -> list[str]:
    return [found.text for found in every("#photos-found .name", browser)]


def search(browser, text: str) -> list[str]:
    """Search, and wait for the photos and their captions. Returns the names of the photos."""
    box = one("#query", browser)
    box.clear()
    box.send_keys(text, "\n")
    until(lambda: f"“{text}”" in one("#search-note", browser).text and not every("#photos-found[aria-busy]", browser))
    until(lambda: all(image.get_attribute("alt").endswith("ball.") for image in every("#photos-found img", browser)))
    return names(browser)


@pytest.fixture
def opened(page, browser):
    """The browser with the page. Afterwards nothing has gone wrong, and nothing was asked of any other place."""
    browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    browser.get(page)
    until(lambda: one("#photos", browser).is_displayed())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert browser.get_log("browser") == []
    assert_asks_itself_only(browser, page)


@pytest.mark.slow
def test_the_page_searches_while_the_index_is_made(opened, held):
    until(lambda: "8 of 10 photos can be searched so far." in one("#index-note", opened).text)
    assert one("#index-bar", opened).is_displayed()
    assert len(search(opened, "a red ball")) == 8
    assert "8 of 10 photos were searched. Search again for the others." in one("#search-note", opened).text
    held.set()
    until(lambda: one("#index-note", opened).text.startswith("10 photos, searched on the machine"))
    assert not one("#index-bar", opened).is_displayed()
    assert len(search(opened, "a red ball")) == 10


@pytest.mark.slow
def test_the_page_shows_photos_by_the_keyboard_alone(opened, held):
    from selenium.webdriver.common.keys import Keys

    held.set()
    until(lambda: one("#index-note", opened).text.startswith("10 photos"))
    found = search(opened, "blue zebra")
    assert sorted(found[:4]) == ["below/a <b>&amp; 50% ü.png", "blue 2.jpg", "blue 5.jpg", "blue 8.jpg"]
    assert "Unknown words were left out: zebra." in one("#search-note", opened).text
    assert [image.get_attribute("alt") for image in every("#photos-found img", opened)[:4]] == ["a blue ball."] * 4
    until(lambda: all(image.get_property("naturalWidth") > 0 for image in every("#photos-found img", opened)))

    press(opened, Keys.TAB, Keys.TAB)  # from the box over the button into the photos
    active = lambda: opened.switch_to.active_element.text  # noqa: E731
    assert active() == found[0]
    press(opened, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert active() == found[1]
    press(opened, Keys.END)
    assert active() == found[9]
    press(opened, Keys.HOME, Keys.ARROW_DOWN)
    assert active() != found[1], "the row below"
    assert active() in found
    press(opened, Keys.ARROW_UP)
    assert active() == found[0]

    viewer, image = one("#viewer", opened), one("#viewer img", opened)
    assert not viewer.is_displayed()
    press(opened, Keys.ENTER)
    until(viewer.is_displayed)
    until(lambda: image.get_property("naturalWidth") > 0)
    assert one("#viewer-name", opened).text == found[0]
    assert one("#viewer .caption", opened).text == "a blue ball" == image.get_attribute("alt")
    assert one("#viewer .place", opened).text == "1 of 10 for “blue zebra”"
    assert not one("#viewer .back", opened).is_enabled()
    press(opened, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert one("#viewer-name", opened).text == found[2]
    press(opened, Keys.ARROW_LEFT)
    assert one("#viewer-name", opened).text == found[1]
    press(opened, Keys.END)
    assert one("#viewer-name", opened).text == found[9]
    assert not one("#viewer .on", opened).is_enabled()
    press(opened, Keys.ARROW_RIGHT)
    assert one("#viewer-name", opened).text == found[9]
    press(opened, Keys.ARROW_LEFT, Keys.ESCAPE)
    until(lambda: not viewer.is_displayed())
    assert active() == found[8], "the photo that was looked at last"

    # With the mouse, too.
    every("#photos-found button", opened)[3].click()
    until(viewer.is_displayed)
    one("#viewer .on", opened).click()
    assert one("#viewer-name", opened).text == found[4]
    one("#viewer .close", opened).click()
    until(lambda: not viewer.is_displayed())


@pytest.mark.slow
def test_what_the_page_says_of_a_search_that_fails(opened, held):
    held.set()
    one("#query", opened).send_keys("   \n")
    assert "Type what the photos should show" in one("#search-note", opened).text
    one("#query", opened).send_keys("zebra\n")
    until(lambda: "the model knows none of these words" in one("#search-note", opened).text)
    assert "problem" in one("#search-note", opened).get_attribute("class")
    assert [
        entry["message"].split(" - ")[0].split("?")[0].rsplit("/", 1)[1] for entry in opened.get_log("browser")
    ] == ["search"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_search_fits_a_phone_in_light_and_dark(opened, held, scheme):
    held.set()
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    search(opened, "green")
    wide = "return document.documentElement.scrollWidth"
    assert opened.execute_script(wide) <= 360
    tops = [button.rect["y"] for button in every("#photos-found button", opened)]
    assert tops[0] == tops[1] < tops[2], "two photos in a row"
    for control in every("button, input:not([hidden]), a, progress", opened):
        assert not control.is_displayed() or control.accessible_name
    ground = opened.execute_script("return getComputedStyle(document.getElementById('photos')).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(30, 36, 39)"}[scheme]
    every("#photos-found button", opened)[0].click()
    until(one("#viewer", opened).is_displayed)
    box = opened.execute_script("return document.getElementById('viewer').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= 360
    assert box["bottom"] <= 740
    for button in every("#viewer button", opened):
        assert button.rect["height"] >= 44, "a finger's width"
        assert button.accessible_name


@pytest.mark.slow
def test_a_photo_that_vanishes_is_said(opened, held, folder):
    held.set()
    paint(folder / "red 0.jpg", "red", (200, 300))
    found = search(opened, "red")
    path = folder / found[0]
    content = path.read_bytes()
    path.unlink()
    try:
        every("#photos-found button", opened)[0].click()
        until(lambda: "cannot be shown" in one("#viewer img", opened).get_attribute("alt"))
        one("#viewer .close", opened).click()
        assert found[0] not in search(opened, "a red")
    finally:
        path.write_bytes(content)
    assert all("404" in entry["message"] for entry in opened.get_log("browser"))
