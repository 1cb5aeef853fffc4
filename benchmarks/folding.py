"""How much faster encoders are with batch norms folded into convolutions: pictures per second, folded and not.

    python benchmarks/folding.py

Encoders with random weights take one picture at a time, and batches of 32. Both forms take turns. The first turn
compiles and does not count. The median of the others counts.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from common import make_parser, print_table, write_results

from captioning.base.script import run_script
from config import Config

ENCODERS = {"EfficientNet-Lite0": "efficientnet_lite0", "ResNet50": "resnet50"}
BATCHES = (1, 32)


def main() -> None:
    args = make_parser(__doc__).parse_args()
    pictures, rounds = (4, 1) if args.quick else (192, 5)

    from captioning.features.encoder import build_encoder
    from captioning.features.folding import FoldedEncoder

    pixels = np.random.default_rng(0).uniform(0, 255, (32, 224, 224, 3)).astype("float32")
    found: dict[str, dict[str, list[float]]] = {}
    for name, encoder in list(ENCODERS.items())[: 1 if args.quick else None]:
        plain = build_encoder(Config(encoder=encoder, encoder_weights="none", feature_grid=0))
        ways: dict[str, Callable] = {"as Keras has it": plain.predict_on_batch, "folded": FoldedEncoder(plain)}
        for batch in BATCHES:
            rates = found.setdefault(f"{name}, batches of {batch}", {way: [] for way in ways})
            for turn in range(rounds + 1):
                for way, encode in ways.items():
                    began = time.perf_counter()
                    for _ in range(max(1, pictures // batch)):
                        encode(pixels[:batch])
                    if turn:  # the first turn compiles
                        rates[way].append(max(1, pictures // batch) * batch / (time.perf_counter() - began))
    medians = {name: {way: median(rates) for way, rates in ways.items()} for name, ways in found.items()}
    gain = {name: rates["folded"] / rates["as Keras has it"] for name, rates in medians.items()}
    print_table(
        ["pictures/s", *next(iter(medians.values())), "ratio"],
        [[name, *(f"{rate:.1f}" for rate in rates.values()), f"{gain[name]:.2f}"] for name, rates in medians.items()],
    )
    write_results(args, "folding", {"pictures_per_second": medians, "gain": gain, "runs": found})


if __name__ == "__main__":
    run_script(main)
