"""How much faster TensorFlow's oneDNN kernels are on this processor: pictures per second with them and without.

    python benchmarks/onednn.py

Two encoders take batches of 32 pictures, and the pocket captioner searches with a beam of 3 over the features of noise.
Processes with the kernels and without take turns. The median counts. ``base.script.set_up_tensorflow`` turns the
kernels on for all scripts. TensorFlow itself does so only if the processor has AVX-512's VNNI or better.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from common import make_parser, measure_apart, print_table, write_results

from captioning.base.script import run_script
from config import POCKET, Config

BATCH = 32
ENCODERS = {"EfficientNet-Lite0": "efficientnet_lite0", "ResNet50": "resnet50"}
SEARCH = "pocket, beam 3"


def rates(batches: int, encoders: list[str]) -> dict[str, float]:
    """Pictures per second of each kind of work in this process. The first batch compiles and does not count."""
    from captioning.features.encoder import build_encoder
    from model import Captioner

    def noise(size: int) -> np.ndarray:
        return np.random.default_rng(0).uniform(0, 255, (BATCH, size, size, 3)).astype("float32")

    pixels = noise(224)
    captioner = Captioner.load(POCKET)
    config = captioner.config.with_overrides({"beam_size": 3})
    features = captioner.encode(noise(captioner.config.image_size))
    work: dict[str, Callable[[], object]] = {}
    for name in encoders:
        model = build_encoder(Config(encoder=ENCODERS[name], encoder_weights="none", feature_grid=0))
        work[name] = lambda model=model: model.predict_on_batch(pixels)
    work[SEARCH] = lambda: captioner.caption(features, config)
    found = {}
    for name, batch in work.items():
        batch()
        began = time.perf_counter()
        for _ in range(batches):
            batch()
        found[name] = batches * BATCH / (time.perf_counter() - began)
    return found


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--measure", type=int, metavar="BATCHES", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(rates(args.measure, list(ENCODERS)[: 1 if args.quick else None])))
        return
    os.environ["KERAS_BACKEND"] = "tensorflow"
    batches, rounds = (1, 1) if args.quick else (6, 3)
    found: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
    for _ in range(rounds):
        for setting, measured in found.items():
            measured.append(measure_apart(__file__, batches, quick=args.quick, TF_ENABLE_ONEDNN_OPTS=setting))
    medians = {s: {name: median(run[name] for run in runs) for name in runs[0]} for s, runs in found.items()}
    gain = {name: rate / medians["0"][name] for name, rate in medians["1"].items()}
    print_table(
        ["pictures/s", "without", "with", "ratio"],
        [[name, f"{medians['0'][name]:.1f}", f"{medians['1'][name]:.1f}", f"{gain[name]:.2f}"] for name in gain],
    )
    write_results(args, "onednn", {"pictures_per_second": medians, "gain": gain, "runs": found})


if __name__ == "__main__":
    run_script(main)
