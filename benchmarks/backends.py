"""Training speed of each decoder on each installed Keras backend, in target words per second.

    python benchmarks/backends.py

The same measurement as ours in throughput.py, in a process of its own per backend. There is no bar.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import make_parser, make_store, print_table, random_features, synthetic_captions, write_results
from throughput import FEATURE_SIZE, ours

from config import Config, run_script
from feature_store import FeatureStore

DECODERS = ("merge", "inject")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("STORE", "EPOCHS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        store = FeatureStore(Path(args.measure[0]))
        captions = synthetic_captions(len(store.rows))
        speeds = {name: ours(Config(decoder=name), store, captions, int(args.measure[1])) for name in DECODERS}
        print(json.dumps(speeds))
        return

    images, epochs = (40, 2) if args.quick else (1000, 4)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), random_features((1, FEATURE_SIZE)), images, (1, FEATURE_SIZE))
        for backend in ("tensorflow", "jax", "torch"):
            if importlib.util.find_spec(backend):
                command = [sys.executable, __file__, "--measure", folder, str(epochs)]
                environment = {**os.environ, "KERAS_BACKEND": backend}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found[backend] = json.loads(done.stdout.splitlines()[-1])
    table = [[backend, *(f"{speeds[name]:,.0f}" for name in DECODERS)] for backend, speeds in found.items()]
    print_table(["target words/s", *DECODERS], table)
    write_results(args, "backends", {"words_per_second": found})


if __name__ == "__main__":
    run_script(main)
