"""Captioning a folder of photographs, from files to lines on the disk, against the encoder alone.

    python benchmarks/folder.py
    python benchmarks/folder.py --beside pretrained/flickr8k.zip     # with another captioner, and the ratio of both

Makes JPEGs of the size of Flickr8k's (500 x 375 pixels, about 130 kB). Captions them as ``test.py FOLDER --output``
does, with the pocket captioner and a beam of 3, and syncs the lines to the disk. Each of the three parts is also
measured alone, on as many batches: files to pixels, pixels to features, features to captions. All take turns. The first
batch compiles and does not count. The median counts.

The bar: the folder has at least 80% of the pictures per second of the bare encoder. That is the Keras model's own
``predict_on_batch``. The captioner uses this model folded (``captioning/features/folding.py``), which is faster. So the
bar is easier than it was before there was folding. The share of the folded encoder's speed is printed too, and the
speed of the folder without folding. ONNX Runtime, by which ``test.py`` captions where it can, captions the same folder
in turn.
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

    captioner, graphs = Captioner.load(path), graphs_of(path)
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

    unfolded = SimpleNamespace(encode=encode, caption=captioner.caption)
    for compiled in (captioner, unfolded):
        album(names[:size], compiled)
    by_onnx = {}
    if graphs:
        by_onnx = {
            "encoder, onnx": lambda: [graphs.encode(pixels) for _ in range(batches)],
            "search alone, onnx": lambda: [graphs.caption(features, config) for _ in range(batches)],
            "folder, onnx": lambda: album(names, graphs),
        }
    return {
        "reading alone": read_all,
        "bare encoder": lambda: [captioner.encoder.predict_on_batch(pixels) for _ in range(batches)],
        "folded encoder": lambda: [captioner.encode(pixels) for _ in range(batches)],
        "search alone": lambda: [captioner.caption(features, config) for _ in range(batches)],
        "folder": lambda: album(names, captioner),
        "folder, not folded": lambda: album(names, unfolded),
        **by_onnx,
    }


def graphs_of(path: Path) -> Any:
    """The captioner ``path`` on ONNX Runtime, or None if it has no ONNX export."""
    from captioning.exports.runtime import GraphCaptioner, Unsuitable

    try:
        return GraphCaptioner.load(path)
    except Unsuitable as reason:
        print(f"not timed: ONNX Runtime: {reason}")
        return None


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--beside", metavar="FILE", type=Path, help="a captioner whose folder is timed in turn with ours"
    )
    args = parser.parse_args()
    batches, rounds = (2, 1) if args.quick else (16, 5)

    count = batches * Config().extract_batch_size
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photographs")
        mean_bytes = make_photographs(folder, count)
        work = ways(POCKET, folder, Path(temporary), batches)
        if args.beside:
            (Path(temporary) / "beside").mkdir()
            beside = ways(args.beside, folder, Path(temporary) / "beside", batches)
            work[f"folder, {args.beside.name}"] = beside["folder"]
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(rounds):
            for name, way in work.items():
                began = time.perf_counter()
                way()
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
    by_onnx = rates["folder, onnx"] / rates["folder"] if "folder, onnx" in rates else None
    if by_onnx:
        print(f"folder: ONNX Runtime is {by_onnx:.2f} times as fast as Keras")
    ratio = rates["folder"] / rates[f"folder, {args.beside.name}"] if args.beside else None
    if ratio:
        print(f"folder: {ratio:.2f} times the pictures/s of {args.beside.name}")
    results = {
        "bar": BAR,
        "pictures_per_second": rates,
        "seconds": seconds,
        "share": share,
        "share_of_folded": of_folded,
        "ratio_beside": ratio,
        "ratio_onnx": by_onnx,
    }
    write_results(args, "folder", results | {"pass": share >= BAR})


if __name__ == "__main__":
    run_script(main)
