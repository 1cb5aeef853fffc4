"""Training: what the loss counts, what the optimiser does, which epoch is kept, and that a resumed run is the same run."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
from helpers import fake_arrays
from keras import layers, ops

from captioning.base.errors import UserError
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.decoders.build import build_decoder
from captioning.features.encoder import build_encoder
from captioning.features.prepared import Prepared
from captioning.features.store import StoreKey, View, extract
from captioning.storage.runs import Run
from captioning.training import loop as training
from captioning.training.cross_entropy import CaptionTrainer
from captioning.training.loop import Recorder, WarmUp, fit, make_optimizer
from captioning.training.self_critical import SelfCritic
from captioning.words.vocabulary import END, PAD, START, UNK
from config import Config
from model import Caption, Captioner
from preprocessing import fit_vocabulary

V = 11


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    """20 images to train on and 4 for dev, whose captions follow from their features: 40 captions of 3 to 6 words."""
    folder = tmp_path_factory.mktemp("prepared")
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


@pytest.fixture(scope="module")
def straight(prepared) -> Run:
    """A run of three epochs, undisturbed."""
    config, run = start(prepared, "straight")
    assert train(prepared, config, run) == 0
    return run


def test_training_lets_go_of_the_images_that_its_batches_hold(prepared):
    config, run = start(prepared, "released", epochs=1)
    given = replace(prepared)
    assert fit(config, given, run.vocabulary(), run) == 0
    assert {record.split for record in given.dataset.records} == {"dev"}


@pytest.mark.parametrize(
    ("stage", "batches"),
    [
        ("xe", "CaptionBatches"),
        ("transformer", "GroupedBatches"),
        ("scst", "ReferenceBatches"),
        ("align", "PairBatches"),
    ],
)
def test_each_stage_with_a_frozen_encoder_trains_on_all_views(prepared, straight, monkeypatch, stage, batches):
    class Met(Exception):
        pass

    def meet(*_, views):
        raise Met(views)

    monkeypatch.setattr(training, batches, meet)
    own = {
        "xe": {"stage": "xe"},
        "transformer": {"stage": "xe", "decoder": "transformer", "feature_grid": 0, "heads": 2},
        "scst": {"stage": "scst", "init": str(straight.folder)},
        "align": {"stage": "align", "monitor": "recall", "label_smoothing": 0.0},
    }[stage]
    config, run = start(prepared, f"views-{stage}", **own)
    views = [View(prepared.store, True)]
    with pytest.raises(Met) as met:
        train(replace(prepared, views=views), config, run)
    assert met.value.args == (views,)


def test_a_decoder_that_works_by_image_trains_on_whole_images(prepared, monkeypatch):
    config, run = start(
        prepared, "grouped", decoder="transformer", feature_grid=0, heads=2, layers=1, batch_size=4, epochs=1
    )
    shapes = set()

    class Spy(training.GroupedBatches):
        def __getitem__(self, index):
            (features, inputs, image), targets = super().__getitem__(index)
            shapes.add((len(features), len(inputs), len(image), len(targets)))
            return (features, inputs, image), targets

    monkeypatch.setattr(training, "GroupedBatches", Spy)
    assert train(prepared, config, run) == 0
    assert shapes == {(2, 4, 4, 4)}
    assert math.isfinite(run.history()[0]["val_nll"])


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


# The loss ------------------------------------------------------------------------------------------------------------


def words(rows: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets ``(rows, length)`` of different lengths, padded, and logits ``(rows, length, V)``."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, V, (rows, length)).astype("int32")
    for row in range(rows):
        targets[row, 1 + (row + seed) % length :] = PAD
    return targets, rng.normal(0, 2, (rows, length, V)).astype("float32")


def numpy_losses(targets: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of each word, and the mean over the vocabulary of -log p beside it."""
    logits = logits.astype("float64")
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    real = targets != PAD
    return -np.take_along_axis(log_p, targets[..., None], -1)[..., 0][real], -log_p.mean(-1)[real]


def decoder(**changes):
    keras.utils.set_random_seed(0)
    config = Config(embedding_size=6, hidden_size=5, dropout=0.0, decoder="merge").with_overrides(changes)
    return build_decoder(config, V, 2, 3)


def loss(trainer: CaptionTrainer, targets, logits, **kwargs) -> float:
    value = trainer.compute_loss(y=ops.convert_to_tensor(targets), y_pred=ops.convert_to_tensor(logits), **kwargs)
    return float(ops.convert_to_numpy(value))


def test_loss_is_the_mean_over_words():
    targets, logits = words(5, 7)
    assert loss(CaptionTrainer(decoder()), targets, logits) == pytest.approx(numpy_losses(targets, logits)[0].mean())


def test_padding_counts_for_nothing():
    targets, logits = words(5, 7)
    wider = np.pad(targets, ((0, 0), (0, 4)), constant_values=PAD)
    wider_logits = np.concatenate([logits, np.random.default_rng(1).normal(0, 9, (5, 4, V)).astype("float32")], axis=1)
    trainer = CaptionTrainer(decoder(), label_smoothing=0.2)
    assert loss(trainer, wider, wider_logits) == pytest.approx(loss(trainer, targets, logits), rel=1e-6)


def test_padding_moves_no_weight():
    features = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    tokens = np.pad(words(5, 7)[0], ((0, 0), (0, 1)))
    trained = []
    for padding in (0, 4):
        trainer = CaptionTrainer(decoder())
        trainer.compile(optimizer=keras.optimizers.SGD(1.0))
        padded = np.pad(tokens, ((0, 0), (0, padding)))
        trainer.train_on_batch((features, padded[:, :-1]), padded[:, 1:])
        trained.append(trainer.decoder.get_weights())
    for plain, padded in zip(*trained, strict=True):
        np.testing.assert_allclose(padded, plain, atol=1e-6)


def test_nll_is_exact_over_batches_of_different_size():
    trainer = CaptionTrainer(decoder(), label_smoothing=0.3)
    every = []
    for seed, (rows, length) in enumerate([(5, 7), (2, 3), (9, 1)]):
        targets, logits = words(rows, length, seed)
        loss(trainer, targets, logits)
        every.append(numpy_losses(targets, logits)[0])
    assert float(trainer.nll.result()) == pytest.approx(np.concatenate(every).mean(), rel=1e-5)


def test_label_smoothing_is_for_training_only():
    targets, logits = words(5, 7)
    trainer = CaptionTrainer(decoder(), label_smoothing=0.2)
    nll, uniform = (part.mean() for part in numpy_losses(targets, logits))
    assert loss(trainer, targets, logits) == pytest.approx(0.8 * nll + 0.2 * uniform)
    assert loss(trainer, targets, logits, training=False) == pytest.approx(nll)


def test_half_precision_logits_are_summed_in_full():
    targets, logits = words(40, 30)
    half = logits.astype("float16")
    expected = numpy_losses(targets, half.astype("float32"))[0].mean()
    assert loss(CaptionTrainer(decoder()), targets, half) == pytest.approx(expected, rel=1e-5)


# The optimiser -------------------------------------------------------------------------------------------------------


def rates(schedule: WarmUp, steps) -> list[float]:
    return [float(ops.convert_to_numpy(schedule(step))) for step in steps]


def test_warm_up_then_constant():
    schedule = WarmUp(2.0, total_steps=10, warmup_steps=4, cosine=False)
    assert rates(schedule, [0, 1, 2, 3, 4, 9, 50]) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0])
    assert rates(WarmUp(2.0, 10, 0, False), [0, 1, 9]) == pytest.approx([2.0] * 3)


def test_warm_up_then_cosine():
    schedule = WarmUp(2.0, total_steps=12, warmup_steps=4, cosine=True)
    expected = [2.0 * (0.01 + 0.99 * (1 + math.cos(math.pi * done / 8)) / 2) for done in range(9)]
    assert rates(schedule, range(4, 13)) == pytest.approx(expected, rel=1e-5)
    assert rates(schedule, [0, 3, 4, 8, 12, 40]) == pytest.approx([0.5, 2.0, 2.0, 1.01, 0.02, 0.02], rel=1e-5)
    twin = WarmUp.from_config(schedule.get_config())
    assert rates(twin, range(13)) == rates(schedule, range(13))


def test_make_optimizer():
    adam = make_optimizer(Config(clip_norm=3.0, learning_rate=0.25), 10)
    assert isinstance(adam, keras.optimizers.Adam)
    assert adam.global_clipnorm == 3.0
    assert float(ops.convert_to_numpy(adam.learning_rate)) == 0.25
    sgd = make_optimizer(Config(optimizer="sgd", clip_norm=0), 10)
    assert isinstance(sgd, keras.optimizers.SGD)
    assert sgd.global_clipnorm is None
    adamw = make_optimizer(Config(optimizer="adamw", weight_decay=0.1), 10)
    model = decoder()
    adamw.build(model.trainable_variables)
    decayed = {variable.path for variable in model.trainable_variables if adamw._use_weight_decay(variable)}
    assert decayed == {variable.path for variable in model.trainable_variables if "bias" not in variable.path}
    assert 0 < len(decayed) < len(model.trainable_variables)
    # Keras' own class for this backend, also with our moving average: PyTorch's updates all weights in one go.
    averaging = make_optimizer(Config(optimizer="adamw", ema_decay=0.9), 10)
    assert isinstance(averaging, type(keras.optimizers.AdamW()))


def test_the_moving_average_soon_forgets_the_first_weights():
    sgd = make_optimizer(Config(optimizer="sgd", learning_rate=1.0, clip_norm=0, ema_decay=0.3), 10)
    weight = keras.Variable(100.0)
    sgd.build([weight])
    expected = None
    for t in range(8):
        sgd.apply([ops.convert_to_tensor(10.0)])
        now, decay = 100.0 - 10 * (t + 1), min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * now if t else now
    assert ops.convert_to_numpy(weight) == 20
    keras_average = sgd._model_variables_moving_average[0]
    assert float(ops.convert_to_numpy(keras_average)) == pytest.approx(expected, rel=1e-5)


def test_word_dropout_replaces_words_in_training_only():
    seen = []

    class Spy(keras.Model):
        def call(self, features, token_ids, training=None, rows=None):
            seen.append(ops.convert_to_numpy(token_ids))
            return ops.zeros((*token_ids.shape, V))

    trainer = CaptionTrainer(Spy(), word_dropout=0.5)
    tokens = np.tile(np.asarray([START, *range(4, V), END, PAD], "int32"), (50, 1))
    trainer((np.zeros((50, 1, 1)), tokens), training=False)
    trainer((np.zeros((50, 1, 1)), tokens), training=True)
    np.testing.assert_array_equal(seen[0], tokens)
    changed = seen[1] != tokens
    assert (seen[1][changed] == UNK).all()
    assert not changed[:, [0, -1]].any()
    assert 0.4 < changed[:, 1:-2].mean() < 0.6


def test_attention_penalty_asks_for_even_shares():
    """Two real words over two regions: each region should get one look."""
    trainer = CaptionTrainer(decoder(), attention_penalty=3.0)
    trainer.compile(optimizer="sgd")
    targets = np.asarray([[4, END, PAD]], "int32")
    logits = np.zeros((1, 3, V), "float32")

    def penalty(*weights):
        weights = np.asarray([weights], "float32")
        with_it = trainer.compute_loss(y=targets, y_pred=(logits, weights), training=True)
        without = trainer.compute_loss(y=targets, y_pred=(logits, weights), training=False)
        return float(with_it) - float(without)

    assert penalty([0.5, 0.5], [0.5, 0.5], [0, 1]) == pytest.approx(0)
    assert penalty([1, 0], [0, 1], [0, 1]) == pytest.approx(0)
    assert penalty([1, 0], [1, 0], [0, 1]) == pytest.approx(3.0)
    # A row of padding alone is no caption.
    targets = np.asarray([[4, END, PAD], [PAD] * 3], "int32")
    logits = np.zeros((2, 3, V), "float32")
    weights = np.asarray([[[1, 0], [1, 0], [0, 1]], [[1, 0]] * 3], "float32")
    losses = [
        trainer.compute_loss(y=targets, y_pred=(logits, weights), training=training) for training in (True, False)
    ]
    assert float(losses[0]) - float(losses[1]) == pytest.approx(3.0)


@pytest.mark.parametrize("name", ["attention", "adaptive", "transformer"])
def test_rows_that_only_fill_a_batch_up_change_nothing(name):
    sizes = {"layers": 1, "heads": 2} if name == "transformer" else {}
    learner = decoder(decoder=name, feature_grid=0, hidden_size=6, **sizes)
    trainer = CaptionTrainer(learner, 0.1, attention_penalty=0.5 if name != "adaptive" else 0.0)
    trainer.compile(optimizer="sgd")
    features = np.random.default_rng(0).normal(size=(2, 2, 3)).astype("float32")
    tokens = np.asarray([[1, 4, 5, END], [1, 5, END, PAD], [1, 4, END, PAD]], "int32")
    rows = np.asarray([0, 0, 1], "int32")

    def losses(tokens, rows):
        trainer.reset_metrics()
        inputs = [ops.convert_to_tensor(part) for part in (features, tokens[:, :-1], rows)]
        loss = trainer.compute_loss(y=tokens[:, 1:], y_pred=trainer(inputs, training=True), training=True)
        return float(loss), float(trainer.nll.result())

    filled = losses(np.pad(tokens, ((0, 2), (0, 0)), constant_values=PAD), np.pad(rows, (0, 2)))
    assert filled == pytest.approx(losses(tokens, rows), rel=1e-5)


# Which epoch is kept -------------------------------------------------------------------------------------------------


class FakeModel:
    """As much of a model as Recorder needs; its weights are the number of epochs it has seen."""

    non_trainable_variables = ()
    optimizer = SimpleNamespace(learning_rate=0.1)
    stop_training = False
    weights = 0
    dev_nll = 0.0

    def __init__(self):
        self.searches: list[Config] = []  # that dev was captioned with

    def caption(self, features, config):
        self.searches.append(config)
        return [[Caption("a dog", -1.0, -1.0)]] * 4

    def evaluate(self, batches, verbose, return_dict):
        return {"loss": 1.0, "nll": self.dev_nll}

    def save_weights(self, path):
        path.write_text(str(self.weights))


CIDER = [20.0, 40.0, 50.0, 30.0, 60.0, 0.0, 0.0, 0.0, 0.0]


def fake_recorder(prepared, config: Config, run: Run, start_epoch) -> Recorder:
    """A Recorder of a FakeModel, whose batches hold 8 words."""
    model = FakeModel()
    captioner = SimpleNamespace(caption=model.caption, decoder=model, vocabulary=run.vocabulary())
    recorder = Recorder(config, prepared, captioner, run, SimpleNamespace(words=8, start_epoch=start_epoch))
    recorder.set_model(model)
    return recorder


def record(prepared, monkeypatch, config: Config, run: Run, bleu: list[float], nll: list[float]) -> FakeModel:
    """Let Recorder see epochs with these dev scores, from where ``run`` stands."""
    laid_out = []
    recorder = fake_recorder(prepared, config, run, laid_out.append)
    model = recorder.model
    for epoch in range(run.state()["epochs"], len(bleu)):
        monkeypatch.setattr(training.metrics, "bleu", lambda *_, value=bleu[epoch]: [0, 0, 0, value])
        monkeypatch.setattr(training.metrics.Cider, "score", lambda *_, value=CIDER[epoch]: np.full(4, value))
        recorder.on_epoch_begin(epoch)
        assert laid_out.pop() == epoch
        model.weights, model.dev_nll = epoch + 1, nll[epoch]
        recorder.on_epoch_end(epoch, {"loss": 1.0, "nll": 1.0})
        if model.stop_training:
            break
    return model


def kept(run: Run) -> dict[str, str]:
    return {path.name: path.read_text() for path in run.checkpoints.iterdir()}


BLEU, NLL = [10.0, 30.0, 20.0, 30.0, 5.0], [3.0, 2.5, 2.0, 2.25, 2.1]


@pytest.mark.parametrize(("monitor", "best", "score"), [("bleu4", 2, 30.0), ("cider", 5, 60.0), ("loss", 3, -2.0)])
def test_the_best_epoch_on_dev_is_kept(prepared, monkeypatch, monitor, best, score):
    config, run = start(prepared, f"best-{monitor}", monitor=monitor, epochs=5)
    record(prepared, monkeypatch, config, run, BLEU, NLL)
    assert run.state() == {"epochs": 5, "best_epoch": best, "best_score": score}
    assert kept(run) == {"last-0005.weights.h5": "5", f"best-{best:04d}.weights.h5": str(best)}
    assert [line["bleu4"] for line in run.history()] == BLEU
    assert [line["cider"] for line in run.history()] == CIDER[:5]
    assert (run.folder / "curves.png").stat().st_size > 1000
    assert (run.folder / "samples.txt").read_text().count("a dog") == 5 * 3


@pytest.mark.parametrize(("changes", "beam_size", "name"), [({}, 1, "greedy"), ({"dev_beam_size": 5}, 5, "beam 5")])
def test_dev_is_captioned_as_the_settings_say(prepared, monkeypatch, capsys, changes, beam_size, name):
    config, run = start(prepared, f"dev-{beam_size}", min_length=2, **changes)
    model = record(prepared, monkeypatch, config, run, BLEU[:2], NLL[:2])
    assert [(search.beam_size, search.min_length) for search in model.searches] == [(beam_size, 2)] * 2
    assert capsys.readouterr().out.count(f"({name})") == 2


@pytest.mark.parametrize(("monitor", "patience", "epochs"), [("bleu4", 2, 4), ("loss", 2, 5), ("bleu4", 0, 5)])
def test_patience(prepared, monkeypatch, capsys, monitor, patience, epochs):
    config, run = start(prepared, f"patience-{monitor}-{patience}", monitor=monitor, patience=patience, epochs=9)
    model = record(prepared, monkeypatch, config, run, BLEU, NLL)
    assert run.state()["epochs"] == epochs
    assert model.stop_training == bool(patience)
    assert ("stopping" in capsys.readouterr().out) == bool(patience)


def test_scores_that_differ_in_the_seventh_digit_pick_the_same_epoch_after_a_resume(prepared, monkeypatch):
    """history.csv holds six digits; what a resumed run reads there must rank as it did when it was in memory."""
    bleu = [12.34567841, 12.34567849, 1.0]
    states = []
    for name, stops in (("digits-straight", [3]), ("digits-resumed", [1, 2, 3])):
        config, run = start(prepared, name)
        for stop in stops:
            record(prepared, monkeypatch, config, run, bleu[:stop], [1.0] * stop)
        states.append((run.state()["best_epoch"], sorted(kept(run).values())))
    assert states[0] == states[1]


@pytest.mark.parametrize(("logs", "words"), [({}, 8), ({"words": 800}, 800)])
def test_words_per_second_are_those_of_the_batches_or_of_the_epoch_itself(prepared, monkeypatch, logs, words):
    config, run = start(prepared, f"words-{words}")
    recorder = fake_recorder(prepared, config, run, lambda epoch: None)
    monkeypatch.setattr(training.time, "perf_counter", itertools.count(step=2).__next__)
    recorder.on_epoch_begin(0)
    logs = {"loss": 1.0, "nll": 1.0, **logs}
    recorder.on_epoch_end(0, logs)
    assert run.history()[0]["words_per_second"] == words / 2
    assert "words" not in logs, "which TensorBoard would draw"


@pytest.mark.parametrize("where", ["write_history", "write_state", "draw_curves"])
def test_a_crash_while_saving_leaves_a_run_that_goes_on(prepared, monkeypatch, where):
    config, run = start(prepared, f"crash-{where}", epochs=3)
    record(prepared, monkeypatch, config, run, BLEU[:1], NLL[:1])

    def crash(*_, **__):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Run, where, crash)
        with pytest.raises(RuntimeError):
            record(prepared, patch, config, run, BLEU[:2], NLL[:2])
    whole = run.state()["epochs"]
    assert whole == (2 if where == "draw_curves" else 1)
    assert run.checkpoint("last").read_text() == run.checkpoint("best").read_text() == str(whole)
    record(prepared, monkeypatch, config, run, BLEU[:3], NLL[:3])
    assert kept(run) == {"last-0003.weights.h5": "3", "best-0002.weights.h5": "2"}
    assert [line["epoch"] for line in run.history()] == [1, 2, 3]


# Whole runs ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(prepared, straight):
    assert {path.name for path in straight.folder.iterdir()} == {
        *("config.json", "vocabulary.json", "about.json", "history.csv", "curves.png", "samples.txt"),
        *("state.json", "checkpoints", "captioner.zip"),
    }
    assert straight.state()["epochs"] == 3
    lines = straight.history()
    assert lines[-1]["nll"] < lines[0]["nll"]
    # The training loss is smoothed, the dev loss is not.
    assert any(line["loss"] != pytest.approx(line["nll"], rel=1e-3) for line in lines)
    # 10 batches an epoch: 25 steps of cosine after 5 of warm-up.
    expected = [0.02 * (0.01 + 0.99 * (1 + math.cos(math.pi * done / 25)) / 2) for done in (5, 15, 25)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-3)
    captioner = Captioner.load(straight.bundle)
    best = arrays(straight.checkpoint("best"))
    weights = [ops.convert_to_numpy(weight) for weight in captioner.decoder.trainable_variables]
    assert all(any(np.array_equal(weight, array) for array in best.values()) for weight in weights)


def interrupt_second_epoch(prepared, monkeypatch, config: Config, run: Run) -> None:
    def interrupt(recorder, batch, logs=None):
        if len(recorder.lines) == 1 and batch == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupt)
        assert train(prepared, config, run) == 130


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(prepared, straight, monkeypatch, capsys):
    config, run = start(prepared, "interrupted")
    interrupt_second_epoch(prepared, monkeypatch, config, run)
    printed = capsys.readouterr().out
    assert "1 whole epochs are saved" in printed
    assert f"--resume {run.folder}" in printed
    assert run.state()["epochs"] == len(run.history()) == 1
    assert run.bundle.exists(), "what is there can be used"
    assert train(prepared, config, run) == 0
    assert_same_run(run, straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        {"decoder": "attention"},
        # Whose batches hold whole images, and whose optimiser is one around another.
        {"decoder": "transformer", "heads": 2, "layers": 1, "precision": "float16"},
    ],
    ids=["attention", "transformer-float16"],
)
def test_so_does_one_with_every_part_of_the_recipe(prepared, monkeypatch, request, kind):
    recipe = {
        **kind,
        "feature_grid": 0,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "word_dropout": 0.2,
        "attention_penalty": 0.5,
        "ema_decay": 0.8,
        "accumulate": 2,
        "monitor": "cider",
        "epochs": 2,
    }
    if "precision" in kind:
        request.addfinalizer(lambda: keras.mixed_precision.set_dtype_policy("float32"))
    name = request.node.callspec.id
    config, expected = start(prepared, f"{name}-straight", **recipe)
    assert train(prepared, config, expected) == 0
    config, run = start(prepared, f"{name}-interrupted", **recipe)
    interrupt_second_epoch(prepared, monkeypatch, config, run)
    assert train(prepared, config, run) == 0
    assert_same_run(run, expected, epochs=2)
    kept, last = arrays(run.checkpoint("best")), arrays(run.checkpoint("last"))
    kept_bias, raw_bias = kept["output_bias"] if "output_bias" in kept else kept["vars/0"], last["decoder/vars/0"]
    assert kept_bias.shape == raw_bias.shape
    assert not np.allclose(kept_bias, raw_bias), "the moving average is kept, training goes on from the weights"


@pytest.mark.slow
def test_a_self_critical_run_starts_from_another_and_resumes_exactly(prepared, straight, monkeypatch):
    changes = {"stage": "scst", "init": str(straight.folder), "xe_share": 0.5, "ema_decay": 0.5, "monitor": "cider"}
    changes["epochs"] = 2
    config, expected = start(prepared, "scst-straight", **changes)
    assert train(prepared, config, expected) == 0
    config, run = start(prepared, "scst-interrupted", **changes)
    real = SelfCritic.epoch

    def interrupt(critic, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return real(critic, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(SelfCritic, "epoch", interrupt)
        assert train(prepared, config, run) == 130
    assert train(prepared, config, run) == 0
    assert_same_run(run, expected, epochs=2)
    # It goes on from where the other run was.
    assert expected.history()[0]["val_nll"] < straight.history()[0]["val_nll"]
    assert all(line["reward"] > 0 for line in expected.history())


@pytest.mark.slow
def test_a_run_keeps_its_pretrained_embedding_once(prepared, monkeypatch):
    """In a file of its own, from which it resumes, and which a self-critical run takes over."""
    changes = {"embedding": "bert-prefix", "word_dropout": 0.2, "ema_decay": 0.5, "epochs": 2}
    runs = []
    for name in ("straight", "interrupted"):
        config = settings(prepared.store.folder.parent, **changes)
        words = fit_vocabulary(config, prepared.dataset)
        runs.append(Run.create(config, words, f"bert-{name}", fake_arrays("bert-prefix", len(words))))
    assert train(prepared, config, runs[0]) == 0
    interrupt_second_epoch(prepared, monkeypatch, config, runs[1])
    assert train(prepared, config, runs[1]) == 0
    assert_same_run(runs[1], runs[0], epochs=2)
    assert (runs[0].folder / "embedding.npz").exists()
    sizes = [array.shape for array in arrays(runs[0].checkpoint("last")).values()]
    assert runs[0].pretrained()["vectors"].shape not in sizes

    changes = {"stage": "scst", "init": str(runs[0].folder), "word_dropout": 0, "learning_rate": 1e-9, "epochs": 1}
    scst = config.with_overrides(changes)
    run = Run.create(scst, words, "bert-scst", runs[0].pretrained())
    assert train(prepared, scst, run) == 0
    best = next(line for line in runs[0].history() if line["epoch"] == runs[0].state()["best_epoch"])
    assert run.history()[0]["val_nll"] == pytest.approx(best["val_nll"], rel=1e-4)


def test_an_interrupt_before_the_first_epoch_is_whole(prepared, monkeypatch, capsys):
    config, run = start(prepared, "at-once")

    def interrupt(recorder, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "on_epoch_begin", interrupt)
    assert train(prepared, config, run) == 130
    assert "0 whole epochs are saved" in capsys.readouterr().out
    assert not run.bundle.exists()


@pytest.mark.parametrize("stage", ["xe", "scst"])
def test_a_loss_that_is_no_number_ends_the_run(prepared, straight, monkeypatch, stage):
    """Whole epochs are kept, and nothing of the broken one."""
    init = {"init": str(straight.folder)} if stage == "scst" else {}
    config, run = start(prepared, f"diverged-{stage}", epochs=1, stage=stage, **init)
    assert train(prepared, config, run) == 0
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != "about.json"}
    monkeypatch.setattr(training, "make_optimizer", lambda *_: keras.optimizers.SGD(math.nan))
    seen, check = [], Recorder._check
    monkeypatch.setattr(Recorder, "_check", lambda recorder, loss: seen.append(loss) or check(recorder, loss))
    with pytest.raises(UserError, match=r"in epoch 2 the loss became nan; .* kept: 1\. .*learning_rate"):
        train(prepared, config.with_overrides({"epochs": 2}), run)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"config.json"}
    assert len(seen) == {"xe": 2, "scst": 1}[stage]  # after the second batch, whose loss the first has broken


def test_weights_that_the_last_batch_broke_are_not_saved(prepared, monkeypatch):
    config, run = start(prepared, "broken-at-last", epochs=1)
    monkeypatch.setattr(Recorder, "_score_dev", lambda recorder: ({"val_loss": math.nan}, []))
    with pytest.raises(UserError, match=r"in epoch 1 the loss became nan"):
        train(prepared, config, run)
    assert run.state()["epochs"] == 0
    assert not list(run.checkpoints.iterdir())


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_is_named(prepared, which, damage):
    config, run = start(prepared, f"{damage}-{which}", epochs=1)
    assert train(prepared, config, run) == 0
    path, about = run.checkpoint(which), (run.folder / "about.json").read_bytes()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
        run.bundle.unlink()
    else:
        path.unlink()
    epochs = 2 if which == "last" else 1
    with pytest.raises(UserError, match=rf"{which}-0001\.weights\.h5: (damaged|missing).*start"):
        train(prepared, config.with_overrides({"epochs": epochs}), run)
    assert (run.folder / "about.json").read_bytes() == about


def test_a_finished_run_wants_more_epochs(prepared, straight):
    config = settings(prepared.store.folder.parent)
    with pytest.raises(UserError, match=r"epochs: .*has its 3 epochs already"):
        train(prepared, config, straight)


def test_a_run_cut_off_before_its_bundle_gets_it_on_resume(prepared):
    config, run = start(prepared, "cut-off", epochs=1)
    assert train(prepared, config, run) == 0
    run.bundle.unlink()
    history = run.history()
    assert train(prepared, config, run) == 0
    assert Captioner.load(run.bundle).config == config
    assert run.history() == history


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision(prepared, precision):
    config, run = start(prepared, precision, precision=precision, epochs=1)
    try:
        assert train(prepared, config, run) == 0
        assert keras.config.dtype_policy().name == f"mixed_{precision}"
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert math.isfinite(run.history()[0]["val_nll"])
    captioner = Captioner.load(run.bundle)
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in captioner.decoder.trainable_weights} == {
        "float32"
    }


def test_tensorboard_only_where_it_is_wanted(prepared, monkeypatch, capsys):
    config, run = start(prepared, "tensorboard")
    assert training._tensorboard(config, run) == []
    wanted = config.with_overrides({"tensorboard": True})
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    assert training._tensorboard(wanted, run) == []
    assert "history.csv" in capsys.readouterr().err
