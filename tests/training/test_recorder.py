"""The recorder: which epoch is kept, when training stops, and what a crash leaves."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from toy_run import start

from captioning.storage.runs import Run
from captioning.training import dev_scoring, recorder
from captioning.training.recorder import Recorder
from captioning.training.stages.xe import CrossEntropyStage
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Caption


class FakeModel:
    """As much of a model as Recorder and its stage need; what it saves is the number of epochs it has seen."""

    non_trainable_variables = ()
    optimizer = SimpleNamespace(learning_rate=0.1, variables=())
    stop_training = False
    weights = ()
    seen = 0
    dev_nll = 0.0

    def __init__(self):
        self.searches: list[Config] = []  # that dev was captioned with

    def caption(self, features, config):
        self.searches.append(config)
        return [[Caption("a dog", -1.0, -1.0)]] * 4

    def evaluate(self, batches, verbose, return_dict, callbacks):
        return {"loss": 1.0, "nll": self.dev_nll}

    def save_weights(self, path):
        path.write_text(str(self.seen))


CIDER = [20.0, 40.0, 50.0, 30.0, 60.0, 0.0, 0.0, 0.0, 0.0]


class FakeStage(CrossEntropyStage):
    """A stage that trains a FakeModel, whose batches hold 8 words. It notes which epochs are laid out."""

    def make_model(self, prepared, vocabulary, run, initial):
        self.fake, self.laid_out = FakeModel(), []
        return SimpleNamespace(caption=self.fake.caption, decoder=self.fake, vocabulary=vocabulary)

    def make_batches(self, prepared):
        return SimpleNamespace(words=8, start_epoch=self.laid_out.append)

    def make_trainer(self):
        return self.fake


def fake_recorder(prepared, config: Config, run: Run) -> Recorder:
    made = Recorder(FakeStage(config, prepared, run.vocabulary(), run, None), run)
    made.set_model(made.stage.trainer)
    return made


def record(prepared, monkeypatch, config: Config, run: Run, bleu: list[float], nll: list[float]) -> FakeModel:
    """Let Recorder see epochs with these dev scores, from where ``run`` stands."""
    made = fake_recorder(prepared, config, run)
    model = made.model
    for epoch in range(run.state()["epochs"], len(bleu)):
        monkeypatch.setattr(dev_scoring, "bleu", lambda *_, value=bleu[epoch]: [0, 0, 0, value])
        monkeypatch.setattr(dev_scoring.Cider, "score", lambda *_, value=CIDER[epoch]: np.full(4, value))
        made.on_epoch_begin(epoch)
        assert made.stage.laid_out.pop() == epoch
        model.seen, model.dev_nll = epoch + 1, nll[epoch]
        made.on_epoch_end(epoch, {"loss": 1.0, "nll": 1.0})
        if model.stop_training:
            break
    made.on_train_end()
    return model


@pytest.fixture
def no_curves(monkeypatch):
    """Curves are not drawn, which takes longer than all else here."""
    monkeypatch.setattr(recorder, "draw_curves", lambda run: None)


def kept(run: Run) -> dict[str, str]:
    return {path.name: path.read_text() for path in run.checkpoints.iterdir()}


BLEU, NLL = [10.0, 30.0, 20.0, 30.0, 5.0], [3.0, 2.5, 2.0, 2.75, 2.1]


@pytest.mark.parametrize(("monitor", "best", "score"), [("bleu4", 2, 30.0), ("cider", 5, 60.0), ("loss", 3, -2.0)])
def test_the_best_epoch_on_dev_is_kept(prepared, no_curves, monkeypatch, monitor, best, score):
    config, run = start(prepared, f"best-{monitor}", monitor=monitor, epochs=5)
    record(prepared, monkeypatch, config, run, BLEU, NLL)
    assert run.state() == {"epochs": 5, "best_epoch": best, "best_score": score}
    assert kept(run) == {"last-0005.weights.h5": "5", f"best-{best:04d}.weights.h5": str(best)}
    assert [line["bleu4"] for line in run.history()] == BLEU
    assert [line["cider"] for line in run.history()] == CIDER[:5]
    assert (run.folder / "samples.txt").read_text().count("a dog") == 5 * 3


@pytest.mark.parametrize(("changes", "beam_size", "name"), [({}, 1, "greedy"), ({"dev_beam_size": 5}, 5, "beam 5")])
def test_dev_is_captioned_as_the_settings_say(prepared, monkeypatch, capsys, changes, beam_size, name):
    config, run = start(prepared, f"dev-{beam_size}", min_length=2, **changes)
    model = record(prepared, monkeypatch, config, run, BLEU[:2], NLL[:2])
    assert [(search.beam_size, search.min_length) for search in model.searches] == [(beam_size, 2)] * 2
    assert capsys.readouterr().out.count(f"({name})") == 2
    assert (run.folder / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(("monitor", "patience", "epochs"), [("bleu4", 2, 4), ("loss", 2, 5), ("bleu4", 0, 5)])
def test_patience(prepared, no_curves, monkeypatch, capsys, monitor, patience, epochs):
    config, run = start(prepared, f"patience-{monitor}-{patience}", monitor=monitor, patience=patience, epochs=9)
    model = record(prepared, monkeypatch, config, run, BLEU, NLL)
    assert run.state()["epochs"] == epochs
    assert model.stop_training == bool(patience)
    assert ("stopping" in capsys.readouterr().out) == bool(patience)


@pytest.mark.parametrize(
    ("bleu", "nll", "best"),
    [([0, 0, 0], [3.0, 2.5, 2.75], 2), ([9, 30, 30], [3.0, 2.5, 2.0], 3), ([0, 0, 0], [2.0, 2.0, 2.5], 1)],
    ids=["always-zero", "equal-later", "equal-in-both"],
)
def test_among_equal_epochs_the_one_with_the_lowest_loss_is_kept(
    prepared, no_curves, monkeypatch, capsys, bleu, nll, best
):
    config, run = start(prepared, f"equal-{best}")
    record(prepared, monkeypatch, config, run, bleu[:2], nll)
    record(prepared, monkeypatch, config, run, bleu, nll)
    assert run.state()["best_epoch"] == best
    assert run.checkpoint("best").read_text() == str(best)
    told = "bleu4 was the same in all epochs" in capsys.readouterr().err
    assert told == (len(set(bleu)) == 1)


def test_the_kept_one_of_equals_stays_in_a_run_of_an_earlier_release(prepared, no_curves, monkeypatch):
    """That release kept the first of equals, and the weights of the others are gone."""
    config, run = start(prepared, "equal-earlier")
    record(prepared, monkeypatch, config, run, [7.0, 7.0], [2.0, 3.0])
    run.write_history([line | {"val_nll": 4.0 - line["epoch"]} for line in run.history()])
    record(prepared, monkeypatch, config, run, [7.0, 7.0, 1.0], [2.0, 3.0, 4.0])
    assert run.state()["best_epoch"] == 1
    assert run.checkpoint("best").exists()


def dev_scores(captions: list[list[str]], **settings) -> dev_scoring.CaptionScores:
    records = [SimpleNamespace(file_name=str(i), captions=texts) for i, texts in enumerate(captions)]
    captioner = SimpleNamespace(vocabulary=Vocabulary(["dog"]))
    return dev_scoring.CaptionScores(
        captioner, SimpleNamespace(usable=lambda _: records, store=None), Config(**settings)
    )


USUAL = [["a dog runs fast", "dog"], ["a cat sleeps"]]


@pytest.mark.parametrize(
    ("captions", "settings", "monitor", "reason"),
    [
        (USUAL, {}, "bleu4", ""),
        (USUAL, {}, "cider", ""),
        (USUAL, {"max_caption_length": 3}, "bleu4", "max_caption_length is 3"),
        ([["red dog ."], ["blue, cat!", "a cat"]], {}, "bleu4", "no caption of dev has four words"),
        ([["red dog ."], ["blue, cat!", "a cat"]], {}, "cider", ""),
        ([["a dog runs fast"]], {}, "cider", "all images of dev have the same captions"),
        ([["a dog", "one dog"], ["one dog .", "a dog"]], {}, "cider", "all images of dev have the same captions"),
        ([["a dog"]], {}, "loss", ""),
    ],
)
def test_a_monitor_that_cannot_rank_is_known_before_training(captions, settings, monitor, reason):
    found = dev_scores(captions, **settings).cannot_rank(monitor)
    assert reason in found
    assert bool(reason) == bool(found)


@pytest.mark.parametrize(("images", "told"), [(1, True), (2, False)])
def test_recall_of_one_image_ranks_nothing(images, told):
    scores = object.__new__(dev_scoring.RecallScores)
    scores.records = [None] * images
    assert bool(scores.cannot_rank("recall")) == told


def test_of_several_data_sets_one_that_ranks_is_enough():
    short, usual = dev_scores([["red dog"]]), dev_scores(USUAL)
    assert dev_scoring.JointScores({"a": short, "b": usual}, 1).cannot_rank("bleu4") == ""
    assert "b: BLEU-4" in dev_scoring.JointScores({"a": short, "b": short}, 1).cannot_rank("bleu4")


def test_a_monitor_that_cannot_rank_is_told(prepared, no_curves, capsys):
    config, run = start(prepared, "cannot-rank", max_caption_length=3)
    made = fake_recorder(prepared, config, run)
    made.on_train_begin()
    assert "BLEU-4 counts sequences of four words" in (told := capsys.readouterr().err)
    assert "lowest dev nll is kept" in told


def test_scores_that_differ_in_the_seventh_digit_pick_the_same_epoch_after_a_resume(prepared, no_curves, monkeypatch):
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
    made = fake_recorder(prepared, config, run)
    monkeypatch.setattr(recorder, "time", SimpleNamespace(perf_counter=itertools.count(step=2).__next__))
    made.on_epoch_begin(0)
    logs = {"loss": 1.0, "nll": 1.0, **logs}
    made.on_epoch_end(0, logs)
    assert run.history()[0]["words_per_second"] == words / 2
    assert "words" not in logs, "which TensorBoard would draw"


@pytest.mark.parametrize("where", ["write_history", "write_state", "draw_curves"])
def test_a_crash_while_saving_leaves_a_run_that_goes_on(prepared, no_curves, monkeypatch, where):
    config, run = start(prepared, f"crash-{where}", epochs=3)
    record(prepared, monkeypatch, config, run, BLEU[:1], NLL[:1])

    def crash(*_, **__):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(recorder if where == "draw_curves" else Run, where, crash)
        with pytest.raises(RuntimeError):
            record(prepared, patch, config, run, BLEU[:2], NLL[:2])
    whole = run.state()["epochs"]
    assert whole == (2 if where == "draw_curves" else 1)
    assert run.checkpoint("last").read_text() == run.checkpoint("best").read_text() == str(whole)
    record(prepared, monkeypatch, config, run, BLEU[:3], NLL[:3])
    assert kept(run) == {"last-0003.weights.h5": "3", "best-0002.weights.h5": "2"}
    assert [line["epoch"] for line in run.history()] == [1, 2, 3]
    samples = (run.folder / "samples.txt").read_text().splitlines()
    assert [line for line in samples if line.startswith("epoch")] == ["epoch 1", "epoch 2", "epoch 3"]
