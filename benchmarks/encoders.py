"""What a picture costs each of the EfficientNet-Lites: milliseconds of CPU time, by the size of the picture.

    python benchmarks/encoders.py

The encoders have random weights and take one picture at a time. They take turns. The first turn compiles and does not
count. The median of the others counts. The scores that go with it are in docs/results.md ("Encoders").
"""

import time
from statistics import median

import numpy as np
from common import make_parser, print_table, write_results

from captioning.base.script import run_script
from config import Config

# Each at its own size, then two at another's.
ENCODERS = (
    ("efficientnet_lite0", 224),
    ("efficientnet_lite1", 240),
    ("efficientnet_lite2", 260),
    ("efficientnet_lite0", 260),
    ("efficientnet_lite2", 224),
)


def main() -> None:
    args = make_parser(__doc__).parse_args()
    pictures, rounds = (2, 1) if args.quick else (50, 9)

    from captioning.features.encoder import build_encoder
    from captioning.features.folding import FoldedEncoder

    ways = {}
    for name, size in ENCODERS:
        pixels = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype("float32")
        plain = build_encoder(Config(encoder=name, image_size=size, encoder_weights="none", feature_grid=0))
        ways[f"{name}, {size} pixels"] = FoldedEncoder(plain), pixels
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, (encode, pixels) in ways.items():
            began = time.process_time()
            for _ in range(pictures):
                encode(pixels)
            if turn:  # the first turn compiles
                found[way].append(1000 * (time.process_time() - began) / pictures)
    medians = {way: median(times) for way, times in found.items()}
    least = min(medians.values())
    print_table(
        ["encoder", "ms of CPU time a picture", "ratio"],
        [[way, f"{spent:.1f}", f"{spent / least:.2f}"] for way, spent in medians.items()],
    )
    write_results(args, "encoders", {"milliseconds": medians, "runs": found})


if __name__ == "__main__":
    run_script(main)
