"""A toy data set and runs on it, for the tests of whole runs."""

from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from captioning.data.records import CaptionDataset, ImageRecord
from captioning.features.encoder import build_encoder
from captioning.features.prepared import Prepared
from captioning.features.store import StoreKey, extract
from captioning.storage.runs import Run
from captioning.training.loop import fit
from captioning.training.recorder import Recorder
from config import Config
from model import Captioner
from preprocessing import fit_vocabulary


def prepare_toy(folder: Path) -> Prepared:
    """20 images to train on and 4 for dev, whose captions follow from their features: 40 captions of 3 to 6 words."""
    images = keras.Input((None, None, 3))
    grid = layers.Conv2D(5, 32, strides=32)(images)
    keras.Model(images, grid).save(folder / "encoder.keras")
    records = []
    for i in range(24):
        animal, verb = ["dog", "cat", "bird"][i % 3], ["runs", "sleeps"][i // 3 % 2]
        captions = (f"a {animal} {verb}", f"a {animal} {verb} in the park")
        path = folder / f"{i}.jpg"
        path.touch()
        records.append(ImageRecord(i, path.name, path, captions, "train" if i < 20 else "dev"))

    def load(name):
        i = int(name.split(".")[0])
        pixels = np.zeros((32, 32, 3), "uint8")
        pixels.flat[:5] = i % 3 == 0, i % 3 == 1, i % 3 == 2, i // 3 % 2, 1
        return pixels

    key = StoreKey("fake", "0" * 64, "none", 32, 1, "float16", "images")
    names = [record.file_name for record in records]
    store = extract(
        folder / "store", key, names, load, lambda pixels: pixels.reshape(24, 1, -1)[:, :, :5], (1, 5), batch_size=24
    )
    encoder = build_encoder(settings(folder / "encoder.keras"))
    return Prepared(CaptionDataset("toy", tuple(records), ()), encoder, store)


def settings(folder, **changes) -> Config:
    return Config(
        encoder=str(folder if str(folder).endswith(".keras") else folder / "encoder.keras"),
        **{
            "image_size": 32,
            "embedding_size": 8,
            "hidden_size": 8,
            "max_caption_length": 8,
            "vocab_threshold": 1,
            "batch_size": 4,
            "epochs": 3,
            "learning_rate": 0.02,
            "label_smoothing": 0.1,
            "warmup_steps": 5,
            "schedule": "cosine",
            "tensorboard": False,
            "run_dir": str(folder / "runs"),
            **changes,
        },
    )


def start(prepared: Prepared, name: str, **changes) -> tuple[Config, Run]:
    config = settings(prepared.store.folder.parent, **changes)
    return config, Run.create(config, fit_vocabulary(config, prepared.dataset), name)


def train(prepared: Prepared, config: Config, run: Run) -> int:
    initial = Captioner.load(Path(config.init)) if config.init else None
    return fit(config, replace(prepared), run.vocabulary(), run, initial)


def results(run: Run) -> list[dict[str, float]]:
    times = ("seconds", "words_per_second", "reward_share")
    return [{name: value for name, value in line.items() if name not in times} for line in run.history()]


def arrays(path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_run(run: Run, expected: Run, epochs: int = 3) -> None:
    assert [line["epoch"] for line in run.history()] == list(range(1, epochs + 1))
    assert results(run) == results(expected)
    assert run.state() == expected.state()
    found, wanted = (arrays(each.checkpoint("last")) for each in (run, expected))
    assert found.keys() == wanted.keys()
    assert any("optimizer" in name for name in found), "the optimiser's state goes with the weights"
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def interrupt_second_epoch(prepared, monkeypatch, config: Config, run: Run) -> None:
    """Train, and press Ctrl-C in the second epoch."""

    def interrupt(recorder, batch, logs=None):
        if len(recorder.history.lines) == 1 and batch == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupt)
        assert train(prepared, config, run) == 130
