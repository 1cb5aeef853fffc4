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
    assert [curve.label for curve in panels(rewarded, "greedy")[1].curves][2] == "reward, drawn training captions"


def test_an_aligner_has_losses_and_recalls():
    sides = {f"{side}_r{k}": k for side in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    losses, recalls = panels([{"epoch": 1, "loss": 2.0, "val_loss": 3.0, "recall": 32.0, **sides}], "greedy")
    assert (losses.title, recalls.title, recalls.unit) == ("Loss", "Retrieval on dev", "recall, %")
    assert {(curve.label, *curve.values) for curve in recalls.curves} == {
        (f"{side}, R@{k}", k) for side in ("image to text", "text to image") for k in (1, 5, 10)
    }


@pytest.mark.parametrize("apart", [{}, {"cider/a": 3.0, "val_nll/a": 2.0}])
@pytest.mark.parametrize(("stage", "column"), [("xe", "nll"), ("align", "loss")])
def test_curves_are_drawn(tmp_path, stage, column, apart):
    run = Run(tmp_path)
    config = Config(stage=stage, monitor="recall") if stage == "align" else Config()
    (tmp_path / "config.json").write_text(config.to_json())
    run.write_state(epochs=2, best_epoch=1, best_score=1.0)
    run.write_history([{"epoch": e, column: 4.0 - e, f"val_{column}": 4.5 - e, **apart} for e in (1, 2)])
    draw_curves(run)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_several_data_sets_have_a_panel_of_their_own():
    """The usual panels show the means, which are told apart from the data sets by their names."""
    line = {"nll": 3.0, "val_nll": 3.5, "bleu4": 10.0, "cider": 30.0}
    apart = {f"{score}/{name}": value for name, value in (("a", 1.0), ("b", 2.0)) for score in ("val_nll", "cider")}
    losses, scores, each = panels([{"epoch": 1, **line, **apart}], "greedy")
    assert [curve.label for curve in losses.curves] == ["training (with dropout)", "dev, together", "dev, a", "dev, b"]
    assert scores.title == "Dev captions, together (greedy), coco protocol"
    assert [curve.label for curve in scores.curves] == ["BLEU-4", "CIDEr-D"]
    assert each.title == "CIDEr-D of dev captions (greedy)"
    assert [(curve.label, curve.values) for curve in each.curves] == [
        ("dev, together", [30.0]),
        ("dev, a", [1.0]),
        ("dev, b", [2.0]),
    ]
    assert len({(curve.colour, curve.style) for curve in each.curves}) == 3


def test_an_aligner_of_several_data_sets_has_the_sum_of_recalls_of_each():
    line = {"epoch": 1, "loss": 2.0, "val_loss": 3.0, "recall": 32.0, "recall/a": 30.0, "val_loss/a": 3.0}
    each = panels([line], "greedy")[2]
    assert (each.title, [curve.label for curve in each.curves]) == (
        "Sum of all recalls on dev",
        ["dev, together", "dev, a"],
    )
