"""Short trainings on one device and on four, for the tests that compare them. A script, because JAX sets up devices once.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/spread_runs.py FOLDER JOBS

FOLDER gets the data and the runs. JOBS are names of decoders or stages. Prints JSON: for each job the lines of
history.csv of the run on one device, and of the run on four.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = {
    "image_size": 32,
    "feature_grid": 0,
    "embedding_size": 8,
    "hidden_size": 8,
    "max_caption_length": 4,
    "vocab_threshold": 1,
    "batch_size": 6,
    "extract_batch_size": 5,
    "decode_batch_size": 3,
    "epochs": 2,
    "learning_rate": 0.02,
    "tensorboard": False,
}
# What the stages have on top. No batch is one that four devices share evenly. The last one of xe has a single image.
STAGES = {
    "xe": {
        "decoder": "attention",
        "attention_size": 4,
        "batch_size": 8,
        "attention_penalty": 0.5,
        "ema_decay": 0.9,
        "label_smoothing": 0.1,
        "word_dropout": 0.2,
        "accumulate": 2,
        "epochs": 3,
    },
    "finetune": {"decoder": "merge", "batch_size": 3, "mirror": True},
    "scst": {"decoder": "merge", "batch_size": 3, "samples": 2, "xe_share": 0.5, "baseline": "greedy"},
    "concepts": {"decoder": "merge"},
    "align": {"joint_size": 8, "monitor": "recall"},
}
# The sizes that only some decoders have. The others take their defaults.
LAYERS = {"heads": 2, "layers": 1}
DECODERS = {"transformer": LAYERS, "aoa": LAYERS, "m2": {**LAYERS, "memory_slots": 3}}


def make_data(folder: Path) -> None:
    """Twelve pictures and an encoder in ``folder``. Nine of the pictures are to train on."""
    from helpers import save_encoder

    save_encoder(folder / "encoder.keras")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "pictures" / f"{i:02}.png")


def dataset(folder: Path):
    from captioning.data.records import CaptionDataset, ImageRecord

    records = []
    for i in range(12):
        noun, verb = ["dog", "cat", "bird"][i % 3], ["runs", "sleeps"][i // 3 % 2]
        path = folder / "pictures" / f"{i:02}.png"
        captions = (f"a {noun} {verb}", f"the {noun} {verb} here")
        records.append(ImageRecord(i, path.name, path, captions, "train" if i < 9 else "dev"))
    return CaptionDataset("pictures", tuple(records), ())


def train(folder: Path, name: str, **changes) -> list[dict[str, float]]:
    """Train the run ``name``, or go on with it. Gives the lines of its history."""
    from captioning.storage.runs import Run
    from captioning.training.loop import fit
    from config import Config
    from model import Captioner
    from preprocessing import fit_vocabulary, prepare

    places = {"encoder": str(folder / "encoder.keras"), "run_dir": str(folder), "feature_dir": str(folder / "features")}
    config = Config(**SMALL | places | changes)
    data = dataset(folder)
    initial = Captioner.load(Path(config.init)) if config.init else None
    prepared = prepare(config, data, initial and initial.encoder)
    run = Run(folder / name)
    if not run.folder.exists():
        run = Run.create(config, fit_vocabulary(config, data), name)
    assert fit(config, prepared, run.vocabulary(), run, initial) == 0
    return run.history()


def train_decoder(folder: Path, decoder: str, devices: int) -> list[dict[str, float]]:
    use(devices)
    # Adam would take the same step from twice the gradient.
    own = {"optimizer": "sgd", "learning_rate": 0.5, **DECODERS.get(decoder, {})}
    return train(folder, f"{decoder}-{devices}", decoder=decoder, **own)


def train_stage(folder: Path, stage: str, devices: int) -> list[dict[str, float]]:
    name, settings = f"{stage}-{devices}", {"stage": stage, **STAGES[stage]}
    if stage in ("finetune", "scst", "concepts"):
        settings["init"] = str(folder / "merge-1")
    use(devices)
    if stage != "xe" or devices == 1:
        return train(folder, name, **settings)
    train(folder, name, **settings | {"epochs": 1})
    use(1)
    train(folder, name, **settings | {"epochs": 2})
    use(3)
    return train(folder, name, **settings | {"epochs": 3})


def use(devices: int) -> None:
    """Share batches among so many devices from here on."""
    from captioning.base.devices import device_count, use_devices

    use_devices(str(devices))
    assert device_count() == devices


def main(folder: Path, jobs: Sequence[str]) -> dict[str, list[list[dict[str, float]]]]:
    from captioning.training.dev_scoring import CaptionScores

    make_data(folder)
    score, found = CaptionScores.__call__, {}
    for job in jobs:
        # Dev is scored where it matters, since compiling that takes as long as compiling a step of training.
        CaptionScores.__call__ = score if job == "xe" else unscored
        run = train_stage if job in STAGES else train_decoder
        found[job] = [run(folder, job, devices) for devices in (1, 4)]
    return found


def unscored(*_) -> tuple[dict[str, float], list[str]]:
    return dict.fromkeys(("val_loss", "val_nll", "bleu4", "cider"), 0.0), []


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "jax"
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    sys.stdout, printed = sys.stderr, sys.stdout
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])), file=printed)
