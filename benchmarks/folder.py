"""Captioning a folder of photographs, from files to lines on the disk, against the encoder alone.

    python benchmarks/folder.py
    python benchmarks/folder.py --beside pretrained/flickr8k.zip     # with another captioner, and the ratio of both
    python benchmarks/folder.py --whole                 # only whole folders, by Keras and by ONNX Runtime

Makes JPEGs of the size of Flickr8k's (500 x 375 pixels, about 130 kB). Captions them as ``test.py FOLDER --output``
does, with the pocket captioner and a beam of 3, and syncs the lines to the disk. Each of the three parts is also
measured alone, on as many batches: files to pixels, pixels to features, features to captions. All take turns. The first
batch compiles and does not count. The median counts.

The bar: the folder has at least 80% of the pictures per second of the bare encoder. That is the Keras model's own
``predict_on_batch``. The captioner uses this model folded (``captioning/features/folding.py``), which is faster. So the
bar is easier than it was before there was folding. The share of the folded encoder's speed is printed too, and the
speed of the folder without folding.

ONNX Runtime, by which ``test.py`` captions where it can, captions the same folder in turn: with an encoder in float32
and, if the captioner has one, with an encoder in 8 bits. The bar: the one that ``test.py`` takes here has 1.5 times the
pictures per second of Keras.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import image_name, make_parser, print_table, verdict, write_results
from PIL import Image

from captioning.base.script import run_script
from config import POCKET, Config

BAR = 0.8
ONNX_BAR = 1.5


def make_photographs(folder: Path, count: int) -> float:
    """Write ``count`` JPEGs of coarse shapes under fine grain. Returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(shapes) + rng.normal(0, 9, (375, 500, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / image_name(i), quality=95)
    return sum(path.stat().st_size for path in folder.iterdir()) / count


def ways(path: Path, folder: Path, outputs: Path, batches: int) -> dict[str, Callable[[], object]]:
    """The pieces of work to time, by name, each on ``batches`` batches of the photographs in ``folder``.

    ``path``: the captioner. ``outputs``: a folder for the files of captions. Everything is compiled when this returns.
    """
    from captioning.albums.captions import caption_album, list_pictures
    from captioning.pictures.loading import load_image
    from model import Captioner

    captioner = Captioner.load(path)
    config = captioner.config.with_overrides({"beam_size": 3})
    size = config.extract_batch_size
    names = list_pictures(folder)
    pixels = np.stack([load_image(folder / name, config.image_size) for name in names[:size]]).astype("float32")
    features = captioner.encode(pixels)
    turns = itertools.count()

    def read(name: str) -> np.ndarray:
        return load_image(folder / name, config.image_size)

    def read_all() -> list[np.ndarray]:
        with ThreadPoolExecutor(config.workers) as pool:
            return list(pool.map(read, names))

    def album(names: list[str], captioner: Any) -> None:
        caption_album(folder, names, outputs / f"{next(turns)}.jsonl", {}, captioner, config)

    def encode(pixels: np.ndarray) -> np.ndarray:
        features = captioner.encoder.predict_on_batch(np.asarray(pixels, dtype="float32"))
        return np.asarray(features).astype(config.feature_dtype)

    unfolded = SimpleNamespace(encode=encode, caption=captioner.caption, lanes=1)
    for compiled in (captioner, unfolded):
        album(names[:size], compiled)
    by_onnx: dict[str, Callable[[], object]] = {}
    for precision in ("float32", "int8"):
        alone, many = (graphs_of(path, precision, folder) for folder in (False, True))
        if alone and many:
            by_onnx |= {
                f"encoder, onnx {precision}": lambda by=alone: [by.encode(pixels) for _ in range(batches)],
                f"folder, onnx {precision}": lambda by=many: album(names, by),
            }
            by_onnx["search alone, onnx"] = lambda by=alone: [by.caption(features, config) for _ in range(batches)]
    return {
        "reading alone": read_all,
        "bare encoder": lambda: [captioner.encoder.predict_on_batch(pixels) for _ in range(batches)],
        "folded encoder": lambda: [captioner.encode(pixels) for _ in range(batches)],
        "search alone": lambda: [captioner.caption(features, config) for _ in range(batches)],
        "folder": lambda: album(names, captioner),
        "folder, not folded": lambda: album(names, unfolded),
        **by_onnx,
    }


def graphs_of(path: Path, precision: str, folder: bool) -> Any:
    """The captioner ``path`` on ONNX Runtime, or None if it has no such export.

    ``precision``: of its encoder. ``folder``: whether it is made for many pictures.
    """
    from captioning.exports.runtime import GraphCaptioner, Unsuitable

    try:
        return GraphCaptioner.load(path, precision, folder)
    except Unsuitable as reason:
        print(f"not timed: ONNX Runtime: {reason}")
        return None


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--beside", metavar="FILE", type=Path, help="a captioner whose folder is timed in turn with ours"
    )
    parser.add_argument("--whole", action="store_true", help="time no parts alone, only whole folders")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed [default: %(default)s]")
    args = parser.parse_args()
    batches, rounds = (2, 1) if args.quick else (16, args.rounds)

    count = batches * Config().extract_batch_size
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photographs")
        mean_bytes = make_photographs(folder, count)
        work = ways(POCKET, folder, Path(temporary), batches)
        if args.beside:
            (Path(temporary) / "beside").mkdir()
            beside = ways(args.beside, folder, Path(temporary) / "beside", batches)
            work[f"folder, {args.beside.name}"] = beside["folder"]
        if args.whole:
            work = {name: way for name, way in work.items() if name.startswith("folder") and "not folded" not in name}
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(rounds):
            for name, way in work.items():
                began = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - began)
    rates = {name: count / median(found) for name, found in seconds.items()}
    shares = {name: rates["folder"] / rates[name] for name in ("bare encoder", "folded encoder") if name in rates}
    print_table(
        ["", "pictures", "seconds", "pictures/s"],
        [[name, count, f"{median(seconds[name]):.1f}", f"{rate:.1f}"] for name, rate in rates.items()],
    )
    print(f"JPEGs of {mean_bytes / 1e3:.0f} kB on average")
    passes = shares.get("bare encoder", BAR) >= BAR
    for name, share in shares.items():
        print(f"folder: {share:.0%} of the speed of the {name}")
    if shares:
        print(verdict(args, passes))
    by_onnx = {}
    for precision in ("float32", "int8"):
        if f"folder, onnx {precision}" in rates:
            by_onnx[precision] = rates[f"folder, onnx {precision}"] / rates["folder"]
            print(f"folder: ONNX Runtime, {precision}, is {by_onnx[precision]:.2f} times as fast as Keras")
    if by_onnx:
        fast = by_onnx["float32"] >= ONNX_BAR
        passes = passes and fast
        print(f"folder: ONNX Runtime, float32: at least {ONNX_BAR} times wanted: {verdict(args, fast)}")
    ratios = {}
    if args.beside:
        other = f"folder, {args.beside.name}"
        ratios = {name: rates[name] / rates[other] for name in rates if name.startswith("folder") and name != other}
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times the pictures/s of {args.beside.name} with Keras")
    results = {
        "bar": BAR,
        "pictures_per_second": rates,
        "seconds": seconds,
        "shares": shares,
        "ratios_beside": ratios,
        "ratio_onnx": by_onnx,
        "onnx_bar": ONNX_BAR,
    }
    write_results(args, "folder", results | {"pass": passes})


if __name__ == "__main__":
    run_script(main)
