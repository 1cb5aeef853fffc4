"""The seconds to a first caption in the visitor's own browser, from opening the page of ``app.py --in-browser``.

    python benchmarks/in_browser.py
    python benchmarks/in_browser.py --photos DIR     # also: how many captions are those of the server

Opens the page in headless Chromium and chooses a photograph at once. Browser and server share one machine, so the
network takes no time. The browser then holds nothing of the page. "further" is another photograph on the same page,
"anew" the same one with another beam size, and "again" the first one after the page was loaded anew. No bars.

Needs chromium, chromedriver and pip install -e ".[app,dev]".
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import requests
from common import make_parser, print_table, write_results
from folder import make_photographs

from captioning.base.script import run_script
from captioning.data.files import list_images
from captioning.serving.browser import VERSION
from config import POCKET
from tools.chromium import SECONDS, browser, until
from tools.servers import served

WHAT = ("ready", "first", "further", "anew", "again")


@contextmanager
def new_browser() -> Iterator[Any]:
    """A headless Chromium that knows nothing yet."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        browser("disable-dev-shm-usage", f"user-data-dir={folder}") as driven,
    ):
        yield driven


def captioned(page: Any, count: int) -> bool:
    """Whether the page shows the captions of ``count`` pictures."""
    script = "return document.querySelectorAll('.card:not([aria-busy]) .best').length"
    return page.execute_script(script) == count


def choose(page: Any, picture: Path) -> None:
    page.find_element("css selector", "#files").send_keys(str(picture))


def one_round(address: str, pictures: list[Path]) -> dict[str, float]:
    """The seconds of ``WHAT`` in a browser of its own."""
    from selenium.webdriver.common.keys import Keys

    times: dict[str, float] = {}
    with new_browser() as page:
        for name in ("first", "again"):
            began = time.perf_counter()
            page.get(address)
            until(lambda: page.execute_script("return document.querySelector('#beam').value === '3'"))
            choose(page, pictures[0])
            until(lambda: captioned(page, 1))
            times[name] = time.perf_counter() - began
            if name == "first":
                began = time.perf_counter()
                choose(page, pictures[1])
                until(lambda: captioned(page, 2))
                times["further"] = time.perf_counter() - began
                page.execute_script("document.querySelector('.card .remove').click()")
                began = time.perf_counter()
                page.find_element("css selector", "#beam").send_keys(Keys.ARROW_LEFT)
                until(lambda: captioned(page, 1) and len(page.find_elements("css selector", "li.caption")) == 2)
                times["anew"] = time.perf_counter() - began
    with new_browser() as page:
        began = time.perf_counter()
        page.get(address)
        until(lambda: "ready" in page.execute_script("return document.querySelector('#loading').textContent"))
        times["ready"] = time.perf_counter() - began
    return times


def same_captions(address: str, pictures: list[Path]) -> tuple[int, list[dict[str, str]]]:
    """How many best captions of the browser are those of the server, and the others."""
    different = []
    with new_browser() as page:
        page.get(address)
        for picture in pictures:
            page.execute_script("document.querySelector('#remove-all').click()")
            choose(page, picture)
            until(lambda: captioned(page, 1))
            here = page.execute_script("return document.querySelector('.best .words').ariaLabel")
            answer = requests.post(f"{address}/api/captions", files={"image": picture.read_bytes()}, timeout=SECONDS)
            there = answer.json()["captions"][0]["caption"]
            if here != there:
                different.append({"image": picture.name, "browser": here, "server": there})
    return len(pictures) - len(different), different


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder whose captions are compared with the server's")
    args = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in WHAT}
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as temporary,
        served("--model", str(POCKET), "--in-browser", "--precision", "float32") as (address, _),
    ):
        make_photographs(Path(temporary, "photographs"), 2)
        pictures = sorted(Path(temporary, "photographs").iterdir())
        for _ in range(1 if args.quick else 5):
            for name, seconds in one_round(address, pictures).items():
                found[name].append(seconds)
        if args.photos:
            photos = list(list_images(args.photos).values())
            same, different = same_captions(address, photos)
            results = {"photos": len(photos), "same": same, "different": different}
        with new_browser() as page:
            chromium = page.capabilities["browserVersion"]
    print_table(
        ["caption", "median", "most"],
        [[name, f"{median(times):.2f}", f"{max(times):.2f}"] for name, times in found.items()],
    )
    if results:
        print(f"{results['same']} of {results['photos']} captions are those of the server")
        print(*(json.dumps(each, ensure_ascii=False) for each in results["different"]), sep="\n")
    medians = {name: median(times) for name, times in found.items()}
    made = {"chromium": chromium, "onnxruntime-web": VERSION, "median": medians, "values": found, **results}
    write_results(args, "in_browser", made)


if __name__ == "__main__":
    run_script(main)
