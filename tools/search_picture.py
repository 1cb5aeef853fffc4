"""Take a picture of the page's photo search, in headless Chromium. docs/search.png was made with this.

    pip download --no-deps --only-binary :all: -d wheels scikit-image==0.26.0
    unzip -j -d photos wheels/scikit_image-*.whl
    skimage/data/{astronaut,camera,chelsea,coffee,coins,moon,motorcycle_left}.png skimage/data/rocket.jpg
    python tools/search_picture.py photos "a motorcycle in a garage" docs/search.png

Needs chromium and chromedriver, and pip install -e ".[app,dev]". More options go to app.py, such as --aligner
runs/ALIGN. The PNG file has 256 colours.
"""

import io
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.script import run_script
from tools.chromium import browser, until
from tools.servers import served

WIDTH, HEIGHT = 800, 900  # CSS pixels of the window


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="the folder to search")
    parser.add_argument("query", help="what to search for")
    parser.add_argument("output", type=Path, help="the PNG file to write")
    parser.add_argument("--photo", type=int, metavar="N", help="show the Nth photo that is found large")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    parser.add_argument("--phone", action="store_true", help="at the width of a phone, 360 pixels")
    args, options = parser.parse_known_args()
    with (
        served("--photos", str(args.photos), *options) as (address, _),
        browser("hide-scrollbars", f"window-size={WIDTH},{HEIGHT}") as driver,
    ):
        width = 360 if args.phone else WIDTH
        screen = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1.25, "mobile": args.phone}
        colours = [{"name": "prefers-color-scheme", "value": "dark" if args.dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
        driver.get(address)
        search(driver, args.query)
        target = driver.find_element("id", "photos")
        if args.photo:
            target.find_elements("css selector", "#photos-found button")[args.photo - 1].click()
            target = driver.find_element("id", "viewer")
            until(lambda: target.find_element("tag name", "img").get_property("naturalWidth"))
        picture = Image.open(io.BytesIO(target.screenshot_as_png)).convert("RGB")
    picture.quantize(256).save(args.output, optimize=True)
    print(f"{args.output}: {args.output.stat().st_size / 1e3:.0f} kB")


def search(driver: Any, query: str) -> None:
    """Search when the index is ready, and wait for the photos and their captions."""

    def seen(script: str) -> Any:
        return driver.execute_script(f"return {script}")

    until(lambda: "searched on the machine" in seen("document.getElementById('index-note').textContent"))
    driver.find_element("id", "query").send_keys(query, "\n")
    images = "[...document.querySelectorAll('#photos-found img')]"
    until(lambda: seen(f"{images}.length && {images}.every((image) => image.naturalWidth && image.alt.endsWith('.'))"))
    driver.execute_script("document.activeElement.blur()")


if __name__ == "__main__":
    run_script(main)
