"""Captioning a folder of photographs, from files to lines on disk, against the encoder alone.

    python benchmarks/folder.py

Makes JPEGs of the size of Flickr8k's (500 x 375 pixels, about 130 kB) and captions them with the pocket captioner and a beam
of 3 as ``test.py FOLDER --output`` does, lines synced to the disk. Beside it each of its three parts alone, on as many
batches: files into pixels, pixels into features, features into captions. All take turns after a first batch that compiles; the
median counts.
The bar: the folder at no less than 80% of the pictures per second of the bare encoder, which is the Keras model's own
``predict_on_batch``. The captioner computes with that model folded (``folding.py``), which is faster, so the bar is easier
than it was when there was no folding. The share of the folded encoder's speed is printed too, and the folder without.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
from common import image_name, make_parser, print_table, verdict, write_results
from PIL import Image

from captioning.base.script import run_script
from config import POCKET

BAR = 0.8


def make_photographs(folder: Path, count: int) -> float:
    """``count`` JPEGs of coarse shapes under fine grain. Returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(shapes) + rng.normal(0, 9, (375, 500, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / image_name(i), quality=95)
    return sum(path.stat().st_size for path in folder.iterdir()) / count


def main() -> None:
    args = make_parser(__doc__).parse_args()
    batches, rounds = (2, 1) if args.quick else (16, 5)

    from captioning.albums.album import caption_album, list_pictures
    from captioning.pictures.loading import load_image
    from model import Captioner

    captioner = Captioner.load(POCKET)
    config = captioner.config.with_overrides({"beam_size": 3})
    size = config.extract_batch_size
    count = batches * size
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(config.workers) as pool:
        folder = Path(temporary, "photographs")
        mean_bytes = make_photographs(folder, count)
        names = list_pictures(folder)
        pixels = np.stack([load_image(folder / name, config.image_size) for name in names[:size]]).astype("float32")
        features = captioner.encode(pixels)
        turns = itertools.count()

        def album(names: list[str], captioner=captioner) -> None:
            caption_album(folder, names, Path(temporary, f"{next(turns)}.jsonl"), {}, captioner, config)

        def encode(pixels: np.ndarray) -> np.ndarray:
            features = captioner.encoder.predict_on_batch(np.asarray(pixels, dtype="float32"))
            return np.asarray(features).astype(config.feature_dtype)

        unfolded = SimpleNamespace(encode=encode, caption=captioner.caption)

        parts: dict[str, Callable[[], object]] = {
            "reading alone": lambda: [*pool.map(lambda name: load_image(folder / name, config.image_size), names)],
            "bare encoder": lambda: [captioner.encoder.predict_on_batch(pixels) for _ in range(batches)],
            "folded encoder": lambda: [captioner.encode(pixels) for _ in range(batches)],
            "search alone": lambda: [captioner.caption(features, config) for _ in range(batches)],
            "folder": lambda: album(names),
            "folder, not folded": lambda: album(names, unfolded),
        }
        seconds: dict[str, list[float]] = {name: [] for name in parts}
        album(names[:size])  # compiles
        album(names[:size], unfolded)
        for _ in range(rounds):
            for name, work in parts.items():
                began = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - began)
    rates = {name: count / median(found) for name, found in seconds.items()}
    share = rates["folder"] / rates["bare encoder"]
    of_folded = rates["folder"] / rates["folded encoder"]
    print_table(
        ["", "pictures", "seconds", "pictures/s"],
        [[name, count, f"{median(seconds[name]):.1f}", f"{rate:.1f}"] for name, rate in rates.items()],
    )
    print(f"JPEGs of {mean_bytes / 1e3:.0f} kB on average")
    print(
        f"folder: {share:.0%} of the bare encoder's speed, {of_folded:.0%} of the folded one's; {verdict(args, share >= BAR)}"
    )
    results = {
        "bar": BAR,
        "pictures_per_second": rates,
        "seconds": seconds,
        "share": share,
        "share_of_folded": of_folded,
    }
    write_results(args, "folder", results | {"pass": share >= BAR})


if __name__ == "__main__":
    run_script(main)
