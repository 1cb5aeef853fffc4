"""Whole runs: what they leave, and that a resumed run is the same run."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import ROOT, fake_arrays
from keras import ops
from toy_run import arrays, assert_same_run, interrupt_second_epoch, settings, start, train

from captioning.base.errors import Terminated, UserError
from captioning.retrieval.aligner import Aligner
from captioning.storage.runs import Run
from captioning.training import loop
from captioning.training.dev_scoring import CaptionScores
from captioning.training.optimizers import make_optimizer
from captioning.training.recorder import Recorder
from captioning.training.self_critical import SelfCritic
from captioning.training.stages.base import Stage
from captioning.training.stages.scst import SelfCriticalStage, refuse_strange_words
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner
from preprocessing import fit_vocabulary


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
    captioner = Captioner.load(straight.bundle("captioner"))
    best = arrays(straight.checkpoint("best"))
    weights = [ops.convert_to_numpy(weight) for weight in captioner.decoder.trainable_variables]
    assert all(any(np.array_equal(weight, array) for array in best.values()) for weight in weights)


def test_two_processes_do_not_train_one_run(prepared):
    config, run = start(prepared, "twice")
    hold = "import sys; from pathlib import Path; from captioning.base.files import alone_with\n"
    hold += "with alone_with(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holding = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen([sys.executable, "-c", hold, run.folder], **holding) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            UserError, match="twice: another process is training this run; wait for its end, or stop it"
        ):
            train(prepared, config, run)
        other.stdin.close()


@pytest.mark.slow
def test_a_training_that_is_told_to_end_leaves_its_bundle(prepared, straight, monkeypatch, capsys):
    config, run = start(prepared, "told")

    def tell(recorder, epoch, logs=None):
        if epoch == 1:
            raise Terminated

    (run.folder / ".bundle-old").mkdir()
    os.utime(run.folder / ".bundle-old", (1e9, 1e9))
    monkeypatch.setattr(Recorder, "on_epoch_begin", tell)
    monkeypatch.setattr(Recorder, "on_train_batch_end", lambda *_, **__: None)
    monkeypatch.setattr(Recorder, "began", time.perf_counter(), raising=False)
    assert train(prepared, config, run) == 143
    assert (
        f"terminated; 1 whole epochs are saved. Go on with: python train.py --resume {run.folder}"
        in capsys.readouterr().out
    )
    assert run.bundle("captioner").exists()
    assert not (run.folder / ".bundle-old").exists(), "what a killed process left"


@pytest.mark.slow
@pytest.mark.backends
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(prepared, straight, monkeypatch, capsys):
    config, run = start(prepared, "interrupted")
    interrupt_second_epoch(prepared, monkeypatch, config, run)
    printed = capsys.readouterr().out
    assert "1 whole epochs are saved" in printed
    assert f"--resume {run.folder}" in printed
    assert run.state()["epochs"] == len(run.history()) == 1
    assert run.bundle("captioner").exists(), "what is there can be used"
    assert train(prepared, config, run) == 0
    assert_same_run(run, straight)


@pytest.mark.weekly
@pytest.mark.backends
def test_so_does_one_with_every_part_of_the_recipe(prepared, monkeypatch, request):
    recipe = {
        "decoder": "transformer",  # its batches hold whole images
        "heads": 2,
        "layers": 1,
        "feature_grid": 0,
        "precision": "float16",  # its optimiser is one around another
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "word_dropout": 0.2,
        "attention_penalty": 0.5,
        "ema_decay": 0.8,
        "accumulate": 2,
        "monitor": "cider",
        "epochs": 2,
    }
    request.addfinalizer(lambda: keras.mixed_precision.set_dtype_policy("float32"))
    config, expected = start(prepared, "recipe-straight", **recipe)
    assert train(prepared, config, expected) == 0
    config, run = start(prepared, "recipe-interrupted", **recipe)
    interrupt_second_epoch(prepared, monkeypatch, config, run)
    assert train(prepared, config, run) == 0
    assert_same_run(run, expected, epochs=2)
    kept, last = arrays(run.checkpoint("best")), arrays(run.checkpoint("last"))
    assert {array.dtype for name, array in kept.items() if "vars" in name} == {np.dtype("float32")}
    kept_bias, raw_bias = kept["output_bias"] if "output_bias" in kept else kept["vars/0"], last["decoder/vars/0"]
    assert kept_bias.shape == raw_bias.shape
    assert not np.allclose(kept_bias, raw_bias), "the moving average is kept, training goes on from the weights"


def toy_aligner(prepared, folder: Path, encoder: keras.Model | None = None, **changes) -> Path:
    """An untrained aligner for the toy data."""
    sizes = {"embedding_size": 6, "hidden_size": 5, "joint_size": 16, "image_size": 32, "max_caption_length": 8}
    align = {"stage": "align", "monitor": "recall", "encoder": str(prepared.store.folder.parent / "encoder.keras")}
    config = Config(**(align | sizes | changes))
    words = fit_vocabulary(config.with_overrides({"vocab_threshold": 1}), prepared.dataset)
    folder.mkdir(exist_ok=True)
    Aligner.untrained(config, words, encoder or prepared.encoder).save(folder / "aligner.zip")
    return folder / "aligner.zip"


@pytest.mark.slow
@pytest.mark.backends
def test_a_self_critical_run_starts_from_another_and_resumes_exactly(prepared, straight, monkeypatch, tmp_path):
    """With every term of the reward. Its aligner may have moved meanwhile, but must be the same."""
    changes = {"stage": "scst", "init": str(straight.folder), "xe_share": 0.5, "ema_decay": 0.5, "monitor": "cider"}
    changes |= {"bleu_weight": 0.5, "rarity_weight": 0.5, "retrieval_weight": 0.3, "similar_weight": 0.2, "epochs": 2}
    changes["retrieval_aligner"] = str(toy_aligner(prepared, tmp_path / "a"))
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
    other = toy_aligner(prepared, tmp_path / "b", joint_size=8)
    with pytest.raises(
        UserError, match=r"retrieval_aligner: .*b.aligner\.zip holds another aligner than .* began with"
    ):
        train(prepared, config.with_overrides({"retrieval_aligner": str(other)}), run)
    shutil.copy(changes["retrieval_aligner"], tmp_path / "moved.zip")
    assert train(prepared, config.with_overrides({"retrieval_aligner": str(tmp_path / "moved.zip")}), run) == 0
    assert_same_run(run, expected, epochs=2)
    # It goes on from where the other run was.
    assert expected.history()[0]["val_nll"] < straight.history()[0]["val_nll"]
    weights = config.weights()
    assert weights == {"cider": 1.0, "bleu": 0.5, "rarity": 0.5, "retrieval": 0.3, "similar": -0.2}
    for line in expected.history():
        assert line["reward"] == pytest.approx(sum(w * line[f"reward_{term}"] for term, w in weights.items()), rel=1e-4)
        assert line["reward_cider"] > 0 < line["reward_bleu"]


@pytest.mark.slow
def test_an_aligner_that_does_not_suit_the_captioner_is_refused(prepared, straight, tmp_path):
    changes = {"stage": "scst", "init": str(straight.folder), "retrieval_weight": 1.0, "monitor": "cider"}
    config = settings(prepared.store.folder.parent, **changes, retrieval_aligner=str(tmp_path / "none.zip"))
    cases = {}
    cases[tmp_path / "none.zip"] = r"retrieval_aligner: .*none\.zip: there is no such aligner"
    cases[straight.bundle("captioner")] = "retrieval_aligner: .*captioner"
    cases[toy_aligner(prepared, tmp_path / "large", image_size=64)] = (
        "has image_size=64, and the captioner of init has 32"
    )
    other = prepared.encoder.__class__.from_config(prepared.encoder.get_config())
    cases[toy_aligner(prepared, tmp_path / "other", other)] = "was trained with another encoder"
    initial = Captioner.load(straight.folder)
    for path, message in cases.items():
        named = config.with_overrides({"retrieval_aligner": str(path)})
        with pytest.raises(UserError, match=message):
            SelfCriticalStage.check(named, initial)
    foreign = Aligner.load(toy_aligner(prepared, tmp_path / "foreign"))
    foreign.vocabulary = Vocabulary(["un", "chien"])
    with pytest.raises(UserError, match=r"aligner\.zip does not know 100\.0% of the words"):
        refuse_strange_words(foreign, ["a dog runs"], config.with_overrides({"retrieval_aligner": "aligner.zip"}))
    SelfCriticalStage.check(
        config.with_overrides({"retrieval_aligner": str(tmp_path / "foreign/aligner.zip")}), initial
    )


@pytest.mark.weekly
def test_a_run_keeps_its_pretrained_embedding_once(prepared, monkeypatch):
    """In a file of its own, from which it resumes, and which a self-critical run takes over."""
    changes = {"embedding": "bert-static", "word_dropout": 0.2, "ema_decay": 0.5, "epochs": 2}
    runs = []
    for name in ("straight", "interrupted"):
        config = settings(prepared.store.folder.parent, **changes)
        words = fit_vocabulary(config, prepared.dataset)
        runs.append(Run.create(config, words, f"bert-{name}", fake_arrays("bert-static", len(words))))
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
    assert not run.bundle("captioner").exists()


@pytest.mark.parametrize("stage", ["xe", pytest.param("scst", marks=pytest.mark.weekly)])
def test_a_loss_that_is_no_number_ends_the_run(prepared, straight, one_epoch, tmp_path, monkeypatch, stage):
    """Whole epochs are kept, and nothing of the broken one."""
    if stage == "xe":
        config, run = one_epoch[0], Run(shutil.copytree(one_epoch[1].folder, tmp_path / "run"))
    else:
        config, run = start(prepared, "diverged", epochs=1, stage=stage, init=str(straight.folder))
        assert train(prepared, config, run) == 0
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != "about.json"}
    broken = make_optimizer(config, 1, peak=math.nan)
    monkeypatch.setattr(Stage, "make_optimizer", lambda stage: broken)
    seen, check = [], Recorder._check
    monkeypatch.setattr(Recorder, "_check", lambda recorder, loss: seen.append(loss) or check(recorder, loss))
    with pytest.raises(UserError, match=r"in epoch 2 the loss became nan; .* kept: 1\. .*learning_rate"):
        train(prepared, config.with_overrides({"epochs": 2}), run)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"config.json"}
    assert len(seen) == {"xe": 2, "scst": 1}[stage]  # after the second batch, whose loss the first has broken


def test_weights_that_the_last_batch_broke_are_not_saved(prepared, monkeypatch):
    config, run = start(prepared, "broken-at-last", epochs=1)
    monkeypatch.setattr(CaptionScores, "__call__", lambda dev, trainer: ({"val_loss": math.nan}, []))
    with pytest.raises(UserError, match=r"in epoch 1 the loss became nan"):
        train(prepared, config, run)
    assert run.state()["epochs"] == 0
    assert not list(run.checkpoints.iterdir())


@pytest.fixture(scope="module")
def one_epoch(prepared) -> tuple[Config, Run]:
    """A run of one epoch, of which tests damage copies."""
    config, run = start(prepared, "one-epoch", epochs=1)
    assert train(prepared, config, run) == 0
    return config, run


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_is_named(prepared, one_epoch, tmp_path, which, damage):
    config, run = one_epoch[0], Run(shutil.copytree(one_epoch[1].folder, tmp_path / "run"))
    path, about = run.checkpoint(which), (run.folder / "about.json").read_bytes()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
        run.bundle("captioner").unlink()
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


def test_a_run_cut_off_before_its_bundle_gets_it_on_resume(prepared, one_epoch, tmp_path):
    config, run = one_epoch[0], Run(shutil.copytree(one_epoch[1].folder, tmp_path / "run"))
    run.bundle("captioner").unlink()
    (run.folder / "curves.png").unlink()
    (run.checkpoints / "best-0000.weights.h5").write_text("an earlier best epoch, still to be removed")
    history = run.history()
    assert train(prepared, config, run) == 0
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best-0001.weights.h5", "last-0001.weights.h5"]
    assert (run.folder / "curves.png").exists()
    assert Captioner.load(run.bundle("captioner")).config == config
    assert run.history() == history


@pytest.mark.slow
def test_reduced_precision(prepared):
    config, run = start(prepared, "bfloat16", precision="bfloat16", epochs=1)
    try:
        assert train(prepared, config, run) == 0
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert math.isfinite(run.history()[0]["val_nll"])
    captioner = Captioner.load(run.bundle("captioner"))
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in captioner.decoder.trainable_weights} == {
        "float32"
    }


def test_tensorboard_only_where_it_is_wanted(monkeypatch, capsys):
    assert loop._tensorboard(False, Path("run")) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert loop._tensorboard(True, Path("run")) == []
    assert "history.csv" in capsys.readouterr().err
