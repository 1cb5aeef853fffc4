"""Stages: each value of the setting has its file, and all keep to the seam."""

import ast
import re
from dataclasses import replace
from typing import get_args

import pytest
from helpers import ROOT
from toy_run import start, train

from captioning.features.store import View
from captioning.training import image_batches
from captioning.training.stages.base import Stage, stage_named
from config import Config

STAGES = get_args(Config.model_fields["stage"].annotation)


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_is_in_the_file_of_its_name_and_says_what_it_keeps(name):
    stage = stage_named(name)
    assert issubclass(stage, Stage)
    assert not stage.__abstractmethods__
    assert stage.__module__ == f"captioning.training.stages.{name}"
    assert next(iter(stage.best_weights)) == "best"
    assert {"loss", "val_loss"} <= set(stage.columns)


def test_no_code_of_training_compares_the_name_of_a_stage():
    """Whatever differs between stages is said by their objects."""
    for path in (ROOT / "captioning" / "training").rglob("*.py"):
        compared = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare | ast.Match)]
        assert not [ast.unparse(node) for node in compared if "config.stage" in ast.unparse(node)], path


@pytest.mark.parametrize(("name", "subject"), [("xe", "merge"), ("finetune", "merge"), ("align", "align")])
def test_a_run_without_a_name_is_named_after_data_decoder_or_stage_and_time(name, subject):
    config = Config(dataset="demo", data_dir="d", decoder="merge")
    config = config.model_copy(update={"stage": name})
    assert re.fullmatch(rf"demo-{subject}-2\d{{7}}-\d{{6}}", stage_named(name).run_name(config))


@pytest.mark.backends
@pytest.mark.parametrize(
    ("stage", "place"),
    [
        ("xe", "image_batches.CaptionBatches"),
        ("transformer", "image_batches.GroupedBatches"),
        ("scst", "stages.scst.ReferenceBatches"),
        ("align", "stages.align.PairBatches"),
    ],
)
def test_each_stage_with_a_frozen_encoder_trains_on_all_views_with_its_weights(
    prepared, straight, monkeypatch, stage, place
):
    class Met(Exception):
        pass

    def meet(*_, views, weights):
        raise Met(views, weights)

    monkeypatch.setattr(f"captioning.training.{place}", meet)
    own = {
        "xe": {"stage": "xe"},
        "transformer": {"stage": "xe", "decoder": "transformer", "feature_grid": 0, "heads": 2},
        "scst": {"stage": "scst", "init": str(straight.folder)},
        "align": {"stage": "align", "monitor": "recall", "label_smoothing": 0.0},
    }[stage]
    config, run = start(prepared, f"views-{stage}", data_weight=0.5, **own)
    views = [View(prepared.store, True)]
    with pytest.raises(Met) as met:
        train(replace(prepared, views=views), config, run)
    assert met.value.args == (views, [0.5])


def test_a_decoder_that_works_by_image_trains_on_whole_images(prepared, monkeypatch):
    config, run = start(prepared, "grouped", decoder="transformer", feature_grid=0, heads=2, layers=1, batch_size=4)
    shapes = set()

    class Met(Exception):
        pass

    class Spy(image_batches.GroupedBatches):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for index in range(len(self)):
                (features, inputs), targets = self[index]
                shapes.add((len(features), *inputs.shape[:2], *targets.shape[:2]))
            raise Met

    monkeypatch.setattr(image_batches, "GroupedBatches", Spy)
    with pytest.raises(Met):
        train(prepared, config, run)
    assert shapes == {(2, 2, 2, 2, 2)}
