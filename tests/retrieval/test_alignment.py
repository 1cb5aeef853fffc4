"""Aligners: their batches, that training makes images and captions find one another, and the bundle that it leaves."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from captioning.base.errors import UserError
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.features.encoder import build_encoder
from captioning.features.prepared import Prepared
from captioning.features.store import StoreKey, View, extract
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.towers import build_towers
from captioning.storage.runs import Run
from captioning.training.alignment import AlignmentTrainer
from captioning.training.batches import PairBatches
from captioning.training.dev_scoring import RecallScores
from captioning.training.loop import fit
from captioning.training.recorder import Recorder
from captioning.words.vocabulary import END, PAD, START, UNK
from config import Config
from model import Captioner
from preprocessing import fit_vocabulary

V = 11
COLOURS = ["red", "green", "blue"]


def settings(**changes) -> Config:
    return Config(
        **{
            "stage": "align",
            "monitor": "recall",
            "embedding_size": 6,
            "hidden_size": 5,
            "joint_size": 16,
            "dropout": 0.0,
            **changes,
        }
    )


def towers(feature_size: int = 3, **changes):
    keras.utils.set_random_seed(0)
    return build_towers(settings(**changes), V, feature_size)


def numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


# Batches
# ---------------------------------------------------------------------------------------------------------------


def test_batches_pair_captions_with_their_images(make_store):
    from captioning.words.vocabulary import Vocabulary

    names = [f"{i}.jpg" for i in range(5)]
    store, mirrored = make_store(names), make_store(names, folder="mirrored", shape=(2, 3))
    words = Vocabulary(["a", "b", "c", "left"])
    captions = [(name, text) for name in names for text in ("a", "a b c", "left b")]
    batches = PairBatches(store, captions, words, settings(batch_size=4), views=[View(mirrored, True)])
    assert sorted(len(batches[i][0][2]) for i in range(len(batches))) == [3, 4, 4, 4]
    lengths = sorted(batches.lengths[batch].tolist() for batch in batches.batches)
    assert lengths == [[3, 3, 3, 3], [3, 4, 4, 4], [4, 4, 5, 5], [5, 5, 5]]  # of about one length
    seen = []
    for i in range(len(batches)):
        ((features, tokens, images),) = batches[i]
        np.testing.assert_array_equal(features, store.read(images))  # equal, since both stores hold the same here
        for row, image in zip(tokens, images, strict=True):
            assert row[0] == START
            seen.append((names[image], words.decode(row)))
    assert sorted(seen) == sorted(captions)
    first = [batches.batches[i].tolist() for i in range(4)]
    batches.start_epoch(1)
    assert [batches.batches[i].tolist() for i in range(4)] != first
    batches.start_epoch(0)
    assert [batches.batches[i].tolist() for i in range(4)] == first


@pytest.mark.backends
def test_a_tower_that_drops_everything_learns_on():
    made = towers(dropout=0.99)
    trainer = AlignmentTrainer(made, settings(dropout=0.99))
    trainer.compile(optimizer="sgd")
    rng = np.random.default_rng(0)
    batch = (
        rng.random((4, 3, 3), dtype=np.float32),
        rng.integers(4, 9, (4, 5)).astype("int32"),
        np.arange(4, dtype="int32"),
    )
    for _ in range(3):
        trainer.train_on_batch(batch)
    assert all(np.isfinite(numpy(weight)).all() for weight in made.trainable_weights)


def test_word_dropout_is_for_training_only():
    made = towers()
    seen = []

    class Spy(keras.Model):
        def call(self, token_ids, training=None):
            seen.append(numpy(token_ids))
            return ops.ones((token_ids.shape[0], 16))

    made.text = Spy()
    trainer = AlignmentTrainer(made, settings(), word_dropout=0.5)
    tokens = np.tile(np.asarray([START, *range(4, V), END, PAD], "int32"), (20, 1))
    inputs = (np.zeros((20, 1, 3), "float32"), tokens, np.arange(20, dtype="int32"))
    trainer(inputs, training=False)
    trainer(inputs, training=True)
    np.testing.assert_array_equal(seen[0], tokens)
    assert set(seen[1][seen[1] != tokens]) == {UNK}


# Training
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    """36 images to train on and 9 for dev, of two colours in an order that their captions tell."""
    folder = tmp_path_factory.mktemp("prepared")
    images = keras.Input((None, None, 3))
    keras.Model(images, layers.Conv2D(6, 32, strides=32)(images)).save(folder / "encoder.keras")
    records = []
    for i in range(45):
        first, second = COLOURS[i % 3], COLOURS[i // 3 % 3]
        captions = (f"a {first} square beside a {second} one", f"{first} then {second}")
        path = folder / f"{i:02}.jpg"
        path.touch()
        records.append(ImageRecord(i, path.name, path, captions, "train" if i < 36 else "dev"))

    def encode(pixels):
        features = np.zeros((45, 1, 6))
        for i in range(45):
            features[i, 0, i % 3] = features[i, 0, 3 + i // 3 % 3] = 1
        return features + 0.01 * np.random.default_rng(0).random(features.shape)

    key = StoreKey("fake", "0" * 64, "none", 32, 1, "float16", "images")
    names = [record.file_name for record in records]
    store = extract(
        folder / "store", key, names, lambda name: np.zeros((32, 32, 3), "uint8"), encode, (1, 6), batch_size=45
    )
    encoder = build_encoder(run_settings(folder))
    return Prepared(CaptionDataset("toy", tuple(records), ()), encoder, store)


def run_settings(folder: Path, **changes) -> Config:
    return settings(
        encoder=str(folder / "encoder.keras"),
        image_size=32,
        hidden_size=16,
        vocab_threshold=1,
        batch_size=8,
        epochs=5,
        learning_rate=0.05,
        ema_decay=0.5,
        tensorboard=False,
        run_dir=str(folder / "runs"),
        **{"dropout": 0.1, "word_dropout": 0.1, **changes},
    )


def train(prepared: Prepared, name: str, status: int = 0, run: Run | None = None, **changes) -> Run:
    config = run_settings(prepared.store.folder.parent, **changes)
    run = run or Run.create(config, fit_vocabulary(config, prepared.dataset), name)
    assert fit(config, replace(prepared), run.vocabulary(), run) == status
    return run


def recalls(run: Run) -> list[dict[str, float]]:
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "words_per_second")}
        for line in run.history()
    ]


@pytest.fixture(scope="module")
def straight(prepared) -> Run:
    return train(prepared, "straight")


def test_images_and_captions_find_one_another(prepared, straight, capsys):
    best = straight.history()[straight.state()["best_epoch"] - 1]
    assert best["recall"] == max(line["recall"] for line in straight.history())
    assert best["recall"] == pytest.approx(
        sum(best[f"{side}_r{cut}"] for side in ("image_to_text", "text_to_image") for cut in (1, 5, 10))
    )
    # All nine dev images are different, and each is described by both of its captions.
    assert best["text_to_image_r1"] > 60
    assert (straight.folder / "curves.png").stat().st_size > 0
    assert "35.jpg" not in (straight.folder / "samples.txt").read_text()
    assert straight.bundle("aligner").exists()
    assert not (straight.folder / "captioner.zip").exists()


def test_the_bundle_holds_the_best_epoch(prepared, straight):
    aligner = Aligner.load(straight.folder)
    dev = RecallScores(aligner, prepared, straight.config())
    texts = aligner.embed_texts(dev.texts)
    images = aligner.embed_features(dev.features)[: len(dev.records)]
    best = straight.history()[straight.state()["best_epoch"] - 1]
    found = 100 * np.mean((texts @ images.T).argmax(axis=1) == dev.image_of)
    assert found == pytest.approx(best["text_to_image_r1"])
    # Pixels and texts in any number and length give what they give alone.
    assert aligner.embed_texts(["red then blue", "a red square beside a blue one"]).shape == (2, 16)
    np.testing.assert_allclose(aligner.embed_texts(dev.texts[:1]), texts[:1], atol=1e-5)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(aligner.embed_pixels(pixels)[1:], aligner.embed_pixels(pixels[1:]), atol=1e-4)


def test_many_pictures_pass_the_encoder_in_batches(prepared, straight, monkeypatch):
    aligner = Aligner.load(straight.folder)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")
    expected = np.concatenate([aligner.embed_pixels(pixels[i : i + 1]) for i in range(5)])
    sizes, real = [], aligner._encode

    def encode(batch):
        sizes.append(len(batch))
        return real(batch)

    monkeypatch.setattr(aligner, "_encode", encode)
    found = aligner.embed_pixels(pixels, batch_size=2)
    assert sizes == [2, 2, 1]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert aligner.embed_pixels(pixels[:0]).shape == (0, found.shape[1])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(prepared, straight, monkeypatch):
    def interrupt(recorder, batch, logs=None):
        if recorder.stage.batches.epoch == 1 and batch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupt)
        run = train(prepared, "interrupted", status=130)
    assert len(run.history()) == 1
    train(prepared, "", run=run)
    assert recalls(run) == recalls(straight)
    for mine, others in zip(*(Aligner.load(each.folder).towers.get_weights() for each in (run, straight)), strict=True):
        np.testing.assert_array_equal(mine, others)


def test_fingerprints_tell_models_apart(prepared, straight):
    aligner = Aligner.load(straight.folder)
    again = Aligner.load(straight.folder)
    assert aligner.fingerprint == again.fingerprint
    assert Aligner.untrained(aligner.config, aligner.vocabulary, aligner.encoder).fingerprint != aligner.fingerprint


def test_one_kind_of_model_is_not_taken_for_another(prepared, straight, tmp_path):
    with pytest.raises(UserError, match=r"straight: the model is of kind aligner, and one of kind captioner is wanted"):
        Captioner.load(straight.folder)
    with pytest.raises(UserError, match=r"aligner\.zip: the model is of kind aligner"):
        Captioner.load(straight.bundle("aligner"))
    config = Config(encoder=straight.config().encoder, image_size=32, embedding_size=4, hidden_size=4)
    Captioner.untrained(config, straight.vocabulary(), prepared.encoder).save(tmp_path / "captioner.zip")
    with pytest.raises(UserError, match=r"kind captioner, and one of kind aligner is wanted .* train.py --stage align"):
        Aligner.load(tmp_path)
    with pytest.raises(UserError, match=r"absent: there is no such aligner; train one with train.py --stage align"):
        Aligner.load(tmp_path / "absent")
