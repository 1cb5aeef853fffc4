"""The curves of a run: which columns of its history are drawn, and how they are called."""

import pytest

from captioning.reports.curves import draw_curves, panels
from captioning.storage.runs import Run
from config import Config


def test_a_captioner_has_likelihoods_and_scores():
    history = [{"epoch": e, "nll": 4.0 - e, "val_nll": 4.5 - e, "bleu4": 10.0 * e, "seconds": 9.0} for e in (1, 2)]
    losses, scores = panels(history, "beam 5")
    assert losses.title == "Negative log-likelihood"
    assert [(curve.label, curve.values) for curve in losses.curves] == [
        ("training (with dropout)", [3, 2]),
        ("dev", [3.5, 2.5]),
    ]
    assert scores.title == "Dev captions (beam 5), coco protocol"
    assert [curve.label for curve in scores.curves] == ["BLEU-4"]
    rewarded = [line | {"cider": 50.0, "reward": 60.0} for line in history]
    assert [curve.label for curve in panels(rewarded, "greedy")[1].curves][2] == "CIDEr-D, drawn training captions"


def test_an_aligner_has_losses_and_recalls():
    sides = {f"{side}_r{k}": k for side in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    losses, recalls = panels([{"epoch": 1, "loss": 2.0, "val_loss": 3.0, "recall": 32.0, **sides}], "greedy")
    assert (losses.title, recalls.title, recalls.unit) == ("Loss", "Retrieval on dev", "recall, %")
    assert {(curve.label, *curve.values) for curve in recalls.curves} == {
        (f"{side}, R@{k}", k) for side in ("image to text", "text to image") for k in (1, 5, 10)
    }


@pytest.mark.parametrize(("stage", "column"), [("xe", "nll"), ("align", "loss")])
def test_curves_are_drawn(tmp_path, stage, column):
    run = Run(tmp_path)
    config = Config(stage=stage, monitor="recall") if stage == "align" else Config()
    (tmp_path / "config.json").write_text(config.to_json())
    run.write_state(epochs=2, best_epoch=1, best_score=1.0)
    run.write_history([{"epoch": e, column: 4.0 - e, f"val_{column}": 4.5 - e} for e in (1, 2)])
    draw_curves(run)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
