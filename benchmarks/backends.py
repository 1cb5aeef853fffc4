"""The speed of training each decoder on each installed Keras backend, in target words per second.

    python benchmarks/backends.py
    python benchmarks/backends.py --only tensorflow

Measures as throughput.py does for our decoders, in a process of its own for each backend and precision. Each decoder
has the sizes of its flickr8k preset: merge and inject over one vector, the others over 49 regions. Attention
and the transformer are also measured with their captions apart: each has an image of its own, as in the training of
merge and inject. There is no bar.
"""

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path

from common import (
    make_parser,
    make_store,
    measure_apart,
    print_table,
    random_features,
    synthetic_captions,
    write_results,
)
from throughput import FEATURE_SIZE, ours

from captioning.base.script import run_script
from captioning.command_line.resolving import preset
from captioning.features.store import FeatureStore
from config import Config

TINY = {"embedding_size": 16, "hidden_size": 16}
APART = ("attention", "transformer")
REGIONS = {
    "merge": 1,
    "inject": 1,
    "attention": 49,
    "adaptive": 49,
    "transformer": 49,
    "updown": 49,
    "aoa": 49,
    "m2": 49,
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--measure", nargs=3, metavar=("STORES", "EPOCHS", "PRECISION"), help=argparse.SUPPRESS)
    parser.add_argument("--only", help="measure only this backend [default: all that are installed]")
    args = parser.parse_args()
    names = ["transformer"] if args.quick else list(REGIONS)
    if args.measure:
        import keras

        from captioning.training.batches import CaptionBatches

        if args.measure[2] != Config().precision:
            keras.mixed_precision.set_dtype_policy(f"mixed_{args.measure[2]}")
        speeds = {}
        for name in names:
            store = FeatureStore(Path(args.measure[0]) / str(REGIONS[name]))
            captions = synthetic_captions(len(store.rows))
            config = preset(f"flickr8k-{name}").with_overrides({**TINY, "layers": 1} if args.quick else {})
            speeds[name] = ours(config, store, captions, int(args.measure[1]))
            if name in APART:
                apart = ours(config, store, captions, int(args.measure[1]), batches_type=CaptionBatches)
                speeds[f"{name}, captions apart"] = apart
        print(json.dumps(speeds))
        return

    images, epochs = ({1: 10, 49: 10}, 2) if args.quick else ({1: 1000, 49: 200}, 4)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for regions, count in images.items():
            shape = (regions, FEATURE_SIZE)
            make_store(Path(folder) / str(regions), random_features(shape), count, shape)
        for backend in ("tensorflow", "jax", "torch"):
            if not importlib.util.find_spec(backend) or args.only not in (None, backend):
                continue
            for precision in ("float32", "bfloat16"):
                speeds = measure_apart(__file__, folder, epochs, precision, quick=args.quick, KERAS_BACKEND=backend)
                found.setdefault(backend, {})[precision] = speeds
    table = [
        [backend, precision, *(f"{speed:,.0f}" for speed in speeds.values())]
        for backend, precisions in found.items()
        for precision, speeds in precisions.items()
    ]
    print_table(["target words/s", "precision", *next(iter(next(iter(found.values())).values()))], table)
    write_results(args, f"backends-{args.only}" if args.only else "backends", {"words_per_second": found})


if __name__ == "__main__":
    run_script(main)
