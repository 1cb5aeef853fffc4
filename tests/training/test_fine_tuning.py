import os
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image

from captioning.base.errors import UserError
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.features.encoder import build_encoder, let_learn
from captioning.storage.runs import Run
from captioning.training.batches import CaptionBatches
from captioning.training.cross_entropy import CaptionTrainer
from captioning.training.fine_tuning import PixelTrainer
from captioning.training.loop import fit
from captioning.training.optimizers import make_tuning_optimizer
from captioning.training.recorder import Recorder
from captioning.training.stages.base import stage_named
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner
from preprocessing import fit_vocabulary, prepare

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An encoder of two convolutions around a batch normalisation."""
    folder = tmp_path_factory.mktemp("fine-tuning")
    keras.utils.set_random_seed(0)
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 16, strides=16, name="first")(layers.Rescaling(1 / 255)(images))
    x = layers.BatchNormalization(name="norm")(x)
    keras.Model(images, layers.Conv2D(5, 2, strides=2, activation="relu", name="second")(x)).save(
        folder / "encoder.keras"
    )
    return folder


def settings(folder: Path, **changes) -> Config:
    return Config(
        **{
            "encoder": str(folder / "encoder.keras"),
            "image_size": 32,
            "embedding_size": 8,
            "hidden_size": 8,
            "vocab_threshold": 1,
            "batch_size": 8,
            "epochs": 2,
            "learning_rate": 0.02,
            "feature_dir": str(folder / "features"),
            "run_dir": str(folder / "runs"),
            "tensorboard": False,
            "monitor": "loss",
            **changes,
        },
    )


@pytest.fixture(scope="module")
def dataset(folder) -> CaptionDataset:
    """30 images to train on and 6 for dev: left half of one colour, right half of another."""
    records, names = [], list(COLOURS)
    for i in range(36):
        left, right = names[i % 3], names[(i % 3 + 1 + i // 3 % 2) % 3]
        pixels = np.zeros((32, 32, 3), "uint8")
        pixels[:, :16], pixels[:, 16:] = COLOURS[left], COLOURS[right]
        path = folder / f"{i}.png"
        Image.fromarray(pixels).save(path)
        captions = (f"{left} beside {right}", f"{left} on the left")
        records.append(ImageRecord(i, path.name, path, captions, "train" if i < 30 else "dev"))
    return CaptionDataset("toy", tuple(records), ())


@pytest.fixture(scope="module")
def first_run(folder, dataset) -> Run:
    return train(settings(folder), dataset, "xe")


def train(config: Config, dataset: CaptionDataset, name: str, status: int = 0, run: Run | None = None) -> Run:
    initial = Captioner.load(Path(config.init)) if config.init else None
    prepared = prepare(config, dataset, initial and initial.encoder, looks=stage_named(config.stage).looks(config))
    run = run or Run.create(config, fit_vocabulary(config, dataset), name)
    assert fit(config, prepared, run.vocabulary(), run, initial) == status
    return run


def tuning(folder: Path, first_run: Run, **changes) -> Config:
    return settings(
        folder,
        stage="finetune",
        init=str(first_run.folder),
        encoder_learning_rate=0.01,
        ema_decay=0.5,
        mirror=True,
        tuned_layers=1,
        **changes,
    )


def kernels(captioner: Captioner) -> dict[str, np.ndarray]:
    return {variable.path: ops.convert_to_numpy(variable) for variable in captioner.encoder.variables}


@pytest.mark.slow
@pytest.mark.backends
def test_the_encoder_learns_and_the_bundle_holds_it(folder, dataset, first_run):
    run = train(tuning(folder, first_run), dataset, "tuned")
    before, after = Captioner.load(first_run.folder), Captioner.load(run.folder)
    old, new = kernels(before), kernels(after)
    assert {name for name in old if not np.array_equal(old[name], new[name])} == {"second/kernel", "second/bias"}
    assert run.history()[-1]["val_nll"] < first_run.history()[-1]["val_nll"]
    # The dev scores are those of the bundle's own encoder.
    store = prepare(run.config(), dataset, after.encoder).store
    pairs = [(record.file_name, text) for record in dataset.split("dev") for text in record.captions]
    trainer = CaptionTrainer(after.decoder)
    trainer.compile()
    found = trainer.evaluate(
        CaptionBatches(store, pairs, run.vocabulary(), run.config(), shuffle=False), verbose=0, return_dict=True
    )
    best = run.history()[run.state()["best_epoch"] - 1]
    assert found["nll"] == pytest.approx(best["val_nll"], rel=1e-4)
    assert not list(run.folder.glob(".dev-*")), "the features of dev are gone"


@pytest.mark.parametrize(
    "precision", [pytest.param("bfloat16", marks=pytest.mark.slow), pytest.param("float16", marks=pytest.mark.weekly)]
)
def test_the_encoder_learns_beside_a_decoder_in_reduced_precision(folder, dataset, first_run, precision):
    try:
        run = train(tuning(folder, first_run, precision=precision, epochs=1), dataset, precision)
        assert keras.config.dtype_policy().name == f"mixed_{precision}"
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert np.isfinite(run.history()[0]["val_nll"])
    before, after = kernels(Captioner.load(first_run.folder)), kernels(Captioner.load(run.folder))
    assert np.any(after["second/kernel"] != before["second/kernel"])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(folder, dataset, first_run, monkeypatch):
    config = tuning(folder, first_run)
    expected = train(config, dataset, "straight")

    def interrupt(recorder, batch, logs=None):
        if recorder.stage.batches.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupt)
        run = train(config, dataset, "interrupted", status=130)
    killed = run.folder / ".dev-of-a-killed-process"
    killed.mkdir()
    os.utime(killed, (time.time() - 10,) * 2)
    train(config, dataset, "", run=run)
    assert not [path.name for path in run.folder.iterdir() if path.name.startswith(".")]
    for mine, others in zip(run.history(), expected.history(), strict=True):
        assert mine["val_nll"] == pytest.approx(others["val_nll"], rel=1e-5)
    mine, others = kernels(Captioner.load(run.folder)), kernels(Captioner.load(expected.folder))
    for name in others:
        np.testing.assert_allclose(mine[name], others[name], rtol=1e-4, atol=1e-6)


def test_the_layers_nearest_the_output_learn(folder):
    encoder = build_encoder(settings(folder))
    assert {variable.path.split("/")[-2] for variable in let_learn(encoder, 1)} == {"second"}
    assert {variable.path.split("/")[-2] for variable in let_learn(encoder, 2)} == {"first", "second"}
    assert {variable.path.split("/")[-2] for variable in let_learn(encoder, 0)} == {"first", "second"}
    with pytest.raises(UserError, match=r"tuned_layers: 3 .* has 2 layers"):
        let_learn(encoder, 3)


def test_all_kinds_of_kernels_learn_and_those_of_models_within(folder):
    inner = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.SeparableConv2D(4, 3, name="apart"), layers.BatchNormalization()]
    )
    images = keras.Input((32, 32, 3))
    x = inner(layers.Normalization(mean=0.0, variance=1.0)(images))
    keras.Model(images, layers.Dense(4, name="dense")(x)).save(folder / "nested.keras")
    encoder = build_encoder(settings(folder, encoder=str(folder / "nested.keras")))
    paths = {
        name: {variable.path.split("/")[-2] for variable in let_learn(encoder, n)}
        for name, n in (("all", 0), ("last", 1))
    }
    assert paths == {"all": {"apart", "dense"}, "last": {"dense"}}
    assert len(let_learn(encoder, 2)) == 5


@pytest.mark.backends
def test_encoder_and_decoder_learn_at_rates_of_their_own(folder):
    config = settings(folder, optimizer="sgd", learning_rate=0.5, clip_norm=0).with_overrides(
        {"stage": "finetune", "init": "run", "encoder_learning_rate": 0.25}
    )
    slow, fast = keras.Variable(1.0), keras.Variable(1.0)
    optimizer = make_tuning_optimizer(config, 10, [slow])
    optimizer.build([fast, slow])
    optimizer.apply([ops.convert_to_tensor(1.0), ops.convert_to_tensor(1.0)])
    assert (float(ops.convert_to_numpy(fast)), float(ops.convert_to_numpy(slow))) == (0.5, 0.75)


def test_a_picture_counts_for_each_of_its_captions_and_the_encoder_drops_nothing(folder):
    images = keras.Input((None, None, 3))
    keras.Model(images, layers.Dropout(0.5)(layers.Conv2D(5, 16, strides=16)(images))).save(folder / "dropping.keras")
    config = settings(folder, encoder=str(folder / "dropping.keras"), dropout=0)
    captioner = Captioner.untrained(config, Vocabulary.fit(["a b c"], 1), build_encoder(config))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    tokens, image = np.asarray([[1, 4], [1, 5], [1, 6]], "int32"), np.asarray([1, 0, 1], "int32")
    tuner = PixelTrainer(captioner.encoder, captioner.decoder)
    logits = ops.convert_to_numpy(tuner((pixels, tokens, image), training=True)["logits"])  # of all words in turn
    features = ops.convert_to_numpy(captioner.encoder(pixels.astype("float32")))[image]
    expected = ops.convert_to_numpy(captioner.decoder(features, tokens))
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
