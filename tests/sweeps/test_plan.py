"""What a sweep file may say, the commands it gives, and what is refused before any work."""

import json
import os
from typing import get_args

import pytest
from helpers import ROOT

from captioning.base.errors import UserError
from captioning.sweeps.plan import folder_name, grid, make_sweep, read_sweep, to_options
from config import OneVectorDecoders, RegionDecoders

ROWS = [{"name": "small", "settings": {"hidden_size": 64}}, {"name": "large", "settings": {"hidden_size": 512}}]


def swept(**changes):
    return make_sweep({"rows": ROWS} | changes, "S.json")


def test_each_row_is_trained_with_each_seed_and_overrides_the_base():
    sweep = swept(base={"preset": "demo", "hidden_size": 32, "epochs": 3}, seeds=[0, 4], evaluate={"split": "test"})
    assert [training.name for training in sweep.trainings] == [
        "small-seed0",
        "small-seed4",
        "large-seed0",
        "large-seed4",
    ]
    first, last = sweep.trainings[0], sweep.trainings[-1]
    assert first.train == ("--preset", "demo", "--hidden-size", "64", "--epochs", "3", "--seed", "0")
    assert last.train[-1] == "4"
    assert last.evaluate == ("--split", "test")
    assert (first.config.hidden_size, first.config.decoder, last.config.hidden_size) == (64, "merge", 512)
    assert (sweep.baseline, sweep.split) == ("small", "test")


def test_settings_are_typed_as_people_would_type_them():
    typed = {"mirror": False, "dataset": ["folder", "flickr8k"], "captions_file": None, "include": ["a dog", "cat"]}
    assert to_options(typed | {"preset": "demo", "prefix": "-a"}) == [
        *("--preset", "demo", "--no-mirror", "--dataset", "folder", "flickr8k", "--captions-file", "none"),
        *("--include", "a dog,cat", "--prefix=-a"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "rows: expected a list"),
        ({"rows": [ROWS[0], {"name": "Small"}]}, "row 2: 'Small' is the name of another row"),
        ({"rows": [ROWS[0], {"name": "again", "settings": {"hidden_size": "64"}}]}, "same settings as row 'small'"),
        ({"rows": [{"name": "?"}]}, "row 1: needs a name"),
        ({"rows": [{"name": "a", "set": {}}]}, "row 1: set: unknown"),
        ({"rows": [{"name": "a", "settings": {"hiden_size": 8}}]}, "row 'a': hiden_size: .*did you mean hidden_size"),
        ({"rows": [{"name": "a", "settings": {"seed": 3}}]}, "row 'a': seed: cannot be set here"),
        ({"rows": [{"name": "a", "settings": {"mirror": "yes"}}]}, "row 'a': mirror: expected true or false"),
        ({"rows": [{"name": "a", "settings": {"epochs": {}}}]}, "row 'a': epochs: expected a text, a number"),
        ({"rows": [{"name": "a", "settings": {"epochs": 0}}]}, "row 'a': epochs: "),
        ({"rows": [{"name": "a", "settings": {"heads": 4}}]}, "row 'a': heads: it is read only with"),
        ({"base": {"preset": "none"}}, "row 'small': preset: there is no 'none'"),
        ({"base": {"stage": "align"}}, "align"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": ["a"]}, "seeds: expected whole numbers"),
        ({"baseline": "middle"}, "baseline: there is no row 'middle'; name one of small, large"),
        ({"row": []}, "row: unknown; a sweep has base, rows"),
        ({"evaluate": {"split": "tset"}}, "evaluate: split: there is no 'tset'"),
        ({"evaluate": {"decoder": "merge"}}, "evaluate: decoder: training has fixed it"),
        ({"evaluate": {"beam_sizes": [3, 0]}}, "beam_sizes"),
        ({"evaluate": {"views": 2}}, "views: may be 1 or 4"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(changes, message):
    with pytest.raises(UserError, match=rf"(?s)S\.json: .*{message}"):
        swept(**changes)


def test_a_row_chooses_no_backend_for_the_others(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    swept(rows=[{"name": "jax", "settings": {"backend": "jax"}}, ROWS[0]])
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_the_command_line_changes_the_settings_of_a_file(tmp_path):
    path = tmp_path / "S.json"
    path.write_text(json.dumps({"base": {"epochs": 3, "preset": "demo"}, "rows": ROWS, "seeds": [5]}))
    training = read_sweep(path, {"base": {"epochs": "1"}, "seeds": [2]}).trainings[0]
    assert (training.config.epochs, training.config.dataset, training.seed) == (1, "demo", 2)
    path.write_text("{")
    with pytest.raises(UserError, match=r"S\.json: damaged"):
        read_sweep(path)
    with pytest.raises(UserError, match="there is no such sweep file"):
        read_sweep(tmp_path / "T.json")


def test_a_grid_has_a_row_for_each_combination():
    assert [row["name"] for row in grid(["decoder=merge,m2"])] == ["merge", "m2"]
    rows = grid(["decoder=merge,m2", "mirror=true,false"])
    assert rows[1] == {"name": "decoder merge, mirror false", "settings": {"decoder": "merge", "mirror": False}}
    assert len(rows) == 4
    with pytest.raises(UserError, match="--rows: 'decoder='"):
        grid(["decoder="])


def test_folders_have_plain_names():
    assert folder_name("m2, 3 layers / x") == "m2-3-layers-x"


def test_the_sweep_of_decoders_has_each_decoder():
    sweep = read_sweep(ROOT / "sweeps" / "everyday-decoders.json")
    assert sorted(sweep.rows) == sorted(get_args(OneVectorDecoders) + get_args(RegionDecoders))
    assert {training.config.encoder for training in sweep.trainings} == {"efficientnet_lite2"}
    assert [training.seed for training in sweep.of_row("m2")] == [0, 1]
