"""Settings in JSON text: wrong types are refused by name, and those of earlier releases are understood."""

import json

import pytest

from captioning.base.errors import UserError
from captioning.command_line.reading import read_settings
from captioning.command_line.resolving import preset
from config import Config


def test_every_bad_setting_is_named_at_once():
    with pytest.raises(UserError) as caught:
        read_settings('{"epochs": 0, "dropout": 1.0, "decoder": "gru"}', "some.json")
    message = str(caught.value)
    assert message.startswith("bad settings in some.json:")
    for problem in ("epochs: ", "got 0", "dropout: ", "got 1.0", "decoder: ", "'merge', 'inject', "):
        assert problem in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "3"),
        ("epochs", 3.5),
        ("learning_rate", "0.1"),
        ("tensorboard", "yes"),
        ("tensorboard", 1),
        ("data_dir", 3),
        ("download_urls", "https://example.org"),
        ("download_urls", [1]),
        ("seed", None),
        ("seed", True),
    ],
)
def test_a_file_must_have_the_right_types(name, value):
    with pytest.raises(UserError, match=f"x.json:\n  {name}: "):
        read_settings(json.dumps({name: value}), "x.json")


def test_a_file_may_write_whole_numbers_for_shares():
    assert read_settings('{"dropout": 0, "clip_norm": 1}', "x.json").clip_norm == 1.0


def test_json_round_trip():
    changed = Config(
        dataset="folder", captions_file="c.csv", download_urls=("https://a",), download_checksums=(), dropout=0.1
    )
    for settings in (Config(), changed, preset("demo")):
        assert read_settings(settings.to_json(), "x.json") == settings


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"epochs": }'])
def test_a_file_that_is_no_json_object_is_named(text):
    with pytest.raises(UserError, match=r"^x\.json: "):
        read_settings(text, "x.json")


@pytest.mark.parametrize(("mixed", "precision"), [(False, "float32"), (True, "float16")])
@pytest.mark.parametrize(("stage", "share"), [("xe", Config().xe_share), ("scst", 0.2)])
def test_settings_of_an_earlier_release_are_read(mixed, precision, stage, share):
    old = {"mixed_precision": mixed, "xe_share": 0.2, "stage": stage, "init": "runs/a" if stage == "scst" else ""}
    read = read_settings(json.dumps(old), "old.json")
    assert (read.precision, read.xe_share) == (precision, share)


@pytest.mark.parametrize("stage", ["xe", "scst", "finetune"])
def test_what_fine_tuning_had_for_defaults_is_kept_where_it_was_read(stage):
    old = {"tuned_layers": 29, "encoder_learning_rate": 1e-5, "stage": stage, "init": "" if stage == "xe" else "runs/a"}
    read = read_settings(json.dumps(old), "old.json")
    expected = (29, 1e-5) if stage == "finetune" else (Config().tuned_layers, Config().encoder_learning_rate)
    assert (read.tuned_layers, read.encoder_learning_rate) == expected


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_what_was_called_distinct_weight_is_read(weight):
    old = {"distinct_weight": weight, "similar_images": 7, "stage": "scst", "init": "runs/a"}
    read = read_settings(json.dumps(old), "old.json")
    assert (read.similar_weight, read.similar_images) == (weight, 7 if weight else Config().similar_images)
    assert read.weights() == {"cider": 1.0} | ({"similar": -weight} if weight else {})


def test_other_settings_of_an_earlier_release_are_refused_as_ever():
    with pytest.raises(UserError, match="xe_share: it is read only with stage=scst"):
        read_settings(json.dumps({"mixed_precision": False, "xe_share": 0.5}), "old.json")
    with pytest.raises(UserError, match="mixed_precision: there is no such setting"):
        read_settings(json.dumps({"mixed_precision": True, "precision": "float32"}), "both.json")
