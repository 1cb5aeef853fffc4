"""A headless Chromium for tools and benchmarks that look at our pages. Needs chromium, chromedriver and selenium."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from captioning.base.errors import UserError

SECONDS = 300  # that a page gets for anything


@contextmanager
def browser(*flags: str) -> Iterator[Any]:
    """The driver of a headless Chromium. ``flags``: further ones, without dashes. Raises UserError if there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise UserError("chromium: not found, or its chromedriver; apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", *flags):
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as driven:
        yield driven


def until(condition: Callable[[], Any]) -> Any:
    """What ``condition()`` gives once that is true. Raises UserError when it takes too long."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise UserError(f"the page did not get ready within {SECONDS} s; is there a message of app.py above?")
        time.sleep(0.01)
    return found
