"""Captioning a folder of photographs, from files to lines on disk, against the encoder alone.

    python benchmarks/folder.py

Makes JPEGs of the size of Flickr8k's (500 x 375 pixels, about 130 kB) and captions them as ``test.py FOLDER --output`` does:
decoding, EfficientNet-Lite0, a merge or inject decoder of default size with a beam of 3, lines synced to the disk. The
decoders are untrained, so captions are held to 11 words. Beside them the same encoder on as many batches of pixels that
are in memory already. All take turns after a first batch that compiles; the median counts.
The bar: the folder at no less than 80% of the encoder's pictures per second.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from common import image_name, make_parser, print_table, synthetic_vocabulary, verdict, write_results
from PIL import Image

from config import Config, run_script

BAR = 0.8
WORDS = 11


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
    import keras

    from albums import caption_album, list_pictures
    from encoders import build_encoder
    from model import Captioner

    keras.utils.set_random_seed(0)
    config = Config(encoder="efficientnet_lite0", beam_size=3, min_length=WORDS, max_caption_length=WORDS)
    encoder = build_encoder(config)
    captioners = {
        name: Captioner.untrained(config.with_overrides({"decoder": name}), synthetic_vocabulary(), encoder)
        for name in ("merge", "inject")
    }
    size = config.extract_batch_size
    count = batches * size
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size, config.image_size, config.image_size, 3), dtype=np.uint8)
    seconds: dict[str, list[float]] = {"encoder": [], **{name: [] for name in captioners}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photographs")
        mean_bytes = make_photographs(folder, count)
        names = list_pictures(folder)

        def caption(decoder: str, names: list[str], output: str) -> None:
            caption_album(folder, names, Path(temporary, f"{decoder}-{output}"), {}, captioners[decoder], config)

        for decoder in captioners:
            caption(decoder, names[:size], "first.jsonl")  # compiles
        for turn in range(rounds):
            began = time.perf_counter()
            for _ in range(batches):
                captioners["merge"].encode(pixels)
            seconds["encoder"].append(time.perf_counter() - began)
            for decoder in captioners:
                began = time.perf_counter()
                caption(decoder, names, f"{turn}.jsonl")
                seconds[decoder].append(time.perf_counter() - began)
    rates = {name: count / median(found) for name, found in seconds.items()}
    shares = {name: rates[name] / rates["encoder"] for name in captioners}
    labels = {"encoder": "encoder alone"} | {name: f"folder, {name}" for name in captioners}
    print_table(
        ["", "pictures", "seconds", "pictures/s"],
        [[labels[name], count, f"{median(seconds[name]):.1f}", f"{rate:.1f}"] for name, rate in rates.items()],
    )
    print(f"JPEGs of {mean_bytes / 1e3:.0f} kB on average")
    for name, share in shares.items():
        print(f"{labels[name]}: {share:.0%} of the encoder's speed; {verdict(args, share >= BAR)}")
    results = {"bar": BAR, "pictures_per_second": rates, "seconds": seconds, "shares": shares}
    write_results(args, "folder", results | {"pass": min(shares.values()) >= BAR})


if __name__ == "__main__":
    run_script(main)
