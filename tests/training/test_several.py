"""Training on several data sets: dev is scored on each, their mean counts, and a resumed run is the same run."""

import math
import re
from dataclasses import replace

import pytest
from toy_run import assert_same_run, interrupt_second_epoch, results, settings, train

from captioning.base.errors import UserError
from captioning.data.mixture import MixedDataset
from captioning.data.records import CaptionDataset
from captioning.features.prepared import Prepared
from captioning.storage.runs import Run, by_data_set
from captioning.training.dev_scoring import DevScores, JointScores
from captioning.training.self_critical import SelfCritic
from preprocessing import fit_vocabulary

WEIGHTS = {"dataset": ("coco", "flickr8k"), "data_weight": (0.5, 1.5)}


def mixture(prepared: Prepared, *dev: bool) -> Prepared:
    """Copies of the toy data set as several, each with its dev split or without, as ``dev`` says."""
    parts = {}
    for name, with_dev in zip(("first", "second"), dev, strict=True):
        records = [
            replace(r, split=r.split if with_dev or r.split == "train" else "") for r in prepared.dataset.records
        ]
        parts[name] = replace(prepared, dataset=CaptionDataset(name, tuple(records), ()))
    return Prepared.joined(MixedDataset({name: part.dataset for name, part in parts.items()}), parts)


def begin(prepared: Prepared, name: str, **changes):
    config = settings(prepared.store.folder, **WEIGHTS, **changes)
    return config, Run.create(config, fit_vocabulary(config, prepared.dataset), name)


@pytest.fixture(scope="module")
def both(prepared) -> Prepared:
    return mixture(prepared, True, True)


@pytest.fixture(scope="module")
def mixed(both) -> Run:
    """An undisturbed run on both."""
    config, run = begin(both, "mixed", sample_captions=1)
    assert train(both, config, run) == 0
    return run


@pytest.mark.slow
def test_each_data_set_is_scored_and_the_mean_stands_beside(mixed):
    header = (mixed.folder / "history.csv").read_text().splitlines()[0].split(",")
    scores = ["val_loss", "val_nll", "bleu4", "cider"]
    each = [f"{score}/{name}" for name in ("first", "second") for score in scores]
    assert header == ["epoch", "loss", "nll", *scores, *each, "learning_rate", "words_per_second", "seconds"]
    for line in mixed.history():
        parts = by_data_set(line)
        assert list(parts) == ["first", "second"]
        for score in scores:
            assert line[score] == pytest.approx((parts["first"][score] + parts["second"][score]) / 2, rel=1e-4)
        assert parts["first"] == parts["second"], "their pictures are the same"
    samples = (mixed.folder / "samples.txt").read_text().splitlines()[:3]
    assert [line.split(": ")[0].strip() for line in samples] == ["epoch 1", "first/20.jpg", "second/20.jpg"]


def test_one_data_set_has_the_columns_of_before(straight):
    header = (straight.folder / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,loss,nll,val_loss,val_nll,bleu4,cider,learning_rate,words_per_second,seconds"


@pytest.mark.weekly
def test_a_resumed_run_draws_the_same_halves(both, mixed, monkeypatch, capsys):
    config, run = begin(both, "mixed-resumed", sample_captions=1)
    interrupt_second_epoch(both, monkeypatch, config, run)
    assert train(both, config, run) == 0
    assert_same_run(run, mixed)
    printed = capsys.readouterr().out
    assert "80 captions in 20 batches" in printed, "half of the 40 captions of the one, and 60 of the other"
    assert re.search(r"epoch 3/3: nll .*, together: dev nll .*\n    first: dev nll .*\n    second: dev nll", printed)


@pytest.mark.weekly
@pytest.mark.parametrize("stage", ["scst", "align"])
def test_other_stages_resume_exactly_too(both, mixed, monkeypatch, stage):
    changes = {
        "scst": {"init": str(mixed.folder), "xe_share": 0.5, "label_smoothing": 0.0},
        "align": {"monitor": "recall", "label_smoothing": 0.0, "joint_size": 8},
    }[stage] | {"stage": stage, "epochs": 2}
    config, expected = begin(both, f"mixed-{stage}-straight", **changes)
    assert train(both, config, expected) == 0
    config, run = begin(both, f"mixed-{stage}-resumed", **changes)
    if stage == "scst":
        with monkeypatch.context() as patch:
            real = SelfCritic.epoch
            patch.setattr(SelfCritic, "epoch", lambda critic, epoch: real(critic, epoch) if epoch == 0 else stop())
            assert train(both, config, run) == 130
    else:
        interrupt_second_epoch(both, monkeypatch, config, run)
    assert train(both, config, run) == 0
    # Drawn captions have several widths. TensorFlow may trace another graph for those that a resumed run meets first.
    assert results(run) == results(expected)
    assert list(by_data_set(run.history()[0])) == ["first", "second"]


def stop():
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_data_set_without_dev_is_not_scored(prepared, tmp_path):
    config, run = begin(mixture(prepared, False, True), "mixed-one-dev", epochs=1)
    assert train(mixture(prepared, False, True), config, run) == 0
    [line] = run.history()
    assert list(by_data_set(line)) == ["second"]
    assert line["val_nll"] == line["val_nll/second"]
    config, run = begin(mixture(prepared, False, False), "no-dev", epochs=1)
    with pytest.raises(UserError, match="none of the data sets has images in split 'dev'"):
        train(mixture(prepared, False, False), config, run)


class Fixed(DevScores):
    """Dev scores that were found before."""

    def __init__(self, cider: float, *texts: str):
        self.found = {"val_loss": cider / 10, "cider": cider}, list(texts)

    def __call__(self, trainer):
        return self.found

    def cannot_rank(self, monitor):
        return ""

    @property
    def names(self):
        return ["0.jpg", "1.jpg", "2.jpg"][: len(self.found[1])]


def test_means_are_over_data_sets_and_a_broken_one_shows():
    dev = JointScores({"a": Fixed(10, "x", "y", "z"), "b": Fixed(40, "u")}, shown=2)
    scores, texts = dev(None)
    assert scores == {
        "val_loss": 2.5,
        "cider": 25,
        "val_loss/a": 1,
        "cider/a": 10,
        "val_loss/b": 4,
        "cider/b": 40,
    }
    assert list(zip(dev.sample_names(2), texts, strict=True)) == [("a/0.jpg", "x"), ("a/1.jpg", "y"), ("b/0.jpg", "u")]
    assert math.isnan(JointScores({"a": Fixed(1), "b": Fixed(math.nan)}, 1)(None)[0]["val_loss"])
