"""The peak memory of training on feature stores of 1, 4 and 16 times the size.

    python benchmarks/memory.py

Each figure is the peak resident memory (VmHWM) of a process of its own. The process trains on made-up float16 features
of 7 x 7 x 2048 with five captions per image. It reads every row of its store: in 16 epochs of the 1x store, 4 of 4x and
1 of 16x. So all processes take the same number of steps. The decoder is small, so memory for data cannot hide behind
it.

The classic way (benchmarks/classic.py) is measured too: all features in a dictionary, one row per prefix, one-hot
targets. It trains for a few batches only, because its features are all in memory before the first. It does not run if
it would need more than --cap-gb.
The bar: 16x costs at most 5% more than 1x.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from common import (
    image_name,
    make_parser,
    make_store,
    measure_apart,
    peak_memory,
    print_table,
    random_features,
    synthetic_captions,
    synthetic_vocabulary,
    verdict,
    write_results,
)

from captioning.base.script import run_script
from captioning.features.store import FeatureStore
from config import Config

SHAPE = (49, 2048)
FACTORS = (1, 4, 16)
BAR = 0.05
SETTINGS = {"decoder": "merge", "embedding_size": 16, "hidden_size": 16}
CLASSIC_ROWS, CLASSIC_STEPS = 64, 20


def train_ours(folder: Path, epochs: int) -> dict[str, float]:
    """Train on the whole store ``epochs`` times.

    Returns peak bytes after the first epoch and at the end, and the steps.
    """
    import keras

    from captioning.decoders.build import build_decoder
    from captioning.training.batches import CaptionBatches
    from captioning.training.cross_entropy import CaptionTrainer
    from captioning.training.optimizers import make_optimizer

    config = Config(**SETTINGS)
    store = FeatureStore(folder)
    vocabulary = synthetic_vocabulary()
    batches = CaptionBatches(store, synthetic_captions(len(store.rows)), vocabulary, config)
    if len(np.unique(batches.rows)) != len(store.rows):
        raise RuntimeError("an epoch does not read every row of the store")
    trainer = CaptionTrainer(build_decoder(config, len(vocabulary), *SHAPE))
    trainer.compile(optimizer=make_optimizer(config, len(batches)))
    peaks = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch),
        on_epoch_end=lambda epoch, logs: peaks.append(peak_memory()),
    )
    trainer.fit(batches, epochs=epochs, callbacks=[callback], verbose=0)
    return {"first_epoch": peaks[0], "peak": peaks[-1], "steps": epochs * len(batches)}


def train_classic(folder: Path, epochs: int) -> dict[str, float]:
    """Load all features into a dictionary, then train for a few batches. Returns peak bytes and the steps."""
    from classic import PrefixBatches, build_model

    stored = np.load(folder / "features.npy", allow_pickle=False)
    features = {image_name(i): row.reshape(-1) for i, row in enumerate(stored)}
    vocabulary = synthetic_vocabulary()
    captions = [(name, vocabulary.encode(text, 100)) for name, text in synthetic_captions(len(features))]
    max_length = max(len(tokens) for _, tokens in captions) - 1
    batches = PrefixBatches(features, captions, len(vocabulary), max_length, rows=CLASSIC_ROWS)
    steps = min(CLASSIC_STEPS, len(batches))
    model = build_model(Config(**SETTINGS), len(vocabulary), SHAPE[0] * SHAPE[1], max_length)
    model.fit(batches, steps_per_epoch=steps, verbose=0)
    return {"peak": peak_memory(), "steps": steps}


SYSTEMS = {"ours": train_ours, "classic": train_classic}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--megabytes", type=float, default=60, help="MB of features in the 1x store [default: 60]")
    parser.add_argument(
        "--cap-gb", type=float, default=8, help="GB of memory that the classic way may need [default: 8]"
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        system, folder, epochs = args.measure
        print(json.dumps(SYSTEMS[system](Path(folder), int(epochs))))
        return

    row_bytes = SHAPE[0] * SHAPE[1] * 2
    images = max(1, round((2 if args.quick else args.megabytes) * 1e6 / row_bytes))
    factors = (1, FACTORS[-1]) if args.quick else FACTORS
    found: dict[str, dict[str, dict]] = {name: {} for name in SYSTEMS}
    table = []
    for factor in factors:
        size = images * factor * row_bytes
        with tempfile.TemporaryDirectory() as folder:
            make_store(Path(folder), random_features(SHAPE), images * factor, SHAPE)
            for system in SYSTEMS:
                if args.quick and system == "classic" and factor > 1:
                    continue
                if system == "classic" and size + 2e9 > args.cap_gb * 1e9:
                    print(f"classic, {factor}x: not run, it would need over {args.cap_gb:g} GB (--cap-gb)")
                    continue
                result = measure_apart(__file__, system, folder, FACTORS[-1] // factor)
                found[system][f"{factor}x"] = {"features": size, "captions": 5 * images * factor, **result}
                growth = result["peak"] / found[system]["1x"]["peak"] - 1
                found[system][f"{factor}x"]["growth"] = growth
                first = f"{result['first_epoch'] / 1e6:,.0f}" if "first_epoch" in result else ""
                peak = f"{result['peak'] / 1e6:,.0f}"
                table.append(
                    [f"{system}, {factor}x", f"{size / 1e6:,.0f}", result["steps"], first, peak, f"{growth:+.1%}"]
                )
    print_table(["", "features MB", "steps", "peak MB, 1 epoch", "peak MB", "against 1x"], table)
    last = found["ours"][f"{FACTORS[-1]}x"]
    passed = last["growth"] <= BAR
    print(f"ours, 16x: {last['growth']:+.1%}, at most {BAR:+.0%} wanted: {verdict(args, passed)}")
    write_results(args, "memory", {"bar": BAR, "pass": passed, "bytes": found})


if __name__ == "__main__":
    run_script(main)
