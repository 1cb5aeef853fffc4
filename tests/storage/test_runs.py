"""Run folders: what is written is what is read, and nothing is overwritten."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from captioning.base.errors import UserError
from captioning.storage.runs import Run
from captioning.words.vocabulary import Vocabulary
from config import Config

WORDS = Vocabulary(["dog", "café"])


def create(folder: Path, name: str = "mine", **settings) -> Run:
    return Run.create(Config(run_dir=str(folder), **settings), WORDS, name)


def test_what_is_written_is_read(tmp_path):
    run = create(tmp_path / "runs", epochs=7, data_dir="données")
    again = Run.open(str(run.folder))
    assert again.folder == tmp_path / "runs" / "mine"
    assert again.config() == Config(run_dir=str(tmp_path / "runs"), epochs=7, data_dir="données")
    assert again.vocabulary().words == WORDS.words


def test_about_says_where_the_run_came_from(tmp_path):
    run = create(tmp_path, seed=5)
    assert run.feature_size() is None
    run.begin(run.config(), 8)
    assert run.feature_size() == 8
    about = json.loads((run.folder / "about.json").read_text())
    assert about["seed"] == 5
    assert {"command", "started", "backend", "devices", "python", "platform", "cores", "git_commit"} <= set(about)
    assert {"keras", "numpy", "nltk", "pillow"} <= set(about["packages"])


def test_about_says_when_the_run_was_resumed(tmp_path, monkeypatch):
    run = create(tmp_path)
    run.begin(run.config(), 8)
    first = json.loads((run.folder / "about.json").read_text())
    for epochs in (2, 3):
        run.write_state(epochs=epochs, best_epoch=1, best_score=0.5)
        monkeypatch.setattr("sys.argv", ["/there/train.py", "--resume", "mine", "--epochs", str(epochs + 1)])
        run.begin(run.config().with_overrides({"epochs": epochs + 1}), 8)
    about = json.loads((run.folder / "about.json").read_text())
    resumed = about.pop("resumed")
    assert about == first
    assert [line["after_epochs"] for line in resumed] == [2, 3]
    assert resumed[1]["command"] == "train.py --resume mine --epochs 4"
    assert run.config().epochs == 4


@pytest.mark.parametrize("text", ["{", "3", "[" * 100_000, '{"resumed": 3}'])
def test_a_damaged_about_is_named(tmp_path, text):
    run = create(tmp_path)
    (run.folder / "about.json").write_text(text)
    with pytest.raises(UserError, match=r"about\.json: damaged .* mend it"):
        run.begin(run.config().with_overrides({"epochs": 99}), 8)
    assert run.config().epochs != 99


def test_an_existing_run_is_not_overwritten(tmp_path):
    run = create(tmp_path)
    before = (run.folder / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"{run.folder}: exists; choose another --name, or go on with --resume"):
        create(tmp_path, epochs=1)
    assert (run.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("killed_at", ["vocabulary.json", "embedding.npz", "config.json"])
def test_a_run_that_was_killed_while_it_was_made_is_made_again(tmp_path, monkeypatch, killed_at):
    whole = create(tmp_path / "whole", embedding="bert-static")
    arrays = {"vectors": np.ones((6, 2), "float32")}

    class Killed(BaseException):
        pass

    def replace(new, path):
        if Path(path).name == killed_at:
            raise Killed
        rename(new, path)

    rename = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # nobody tidies up
        with pytest.raises(Killed):
            Run.create(whole.config(), WORDS, "mine-too", arrays)
    left = tmp_path / "whole" / "mine-too"
    assert left.exists()
    Run.check(whole.config(), "mine-too")
    run = Run.create(whole.config(), WORDS, "mine-too", arrays)
    assert sorted(path.name for path in left.iterdir()) == [
        *("checkpoints", "config.json", "embedding.npz", "vocabulary.json")
    ]
    assert run.vocabulary().words == WORDS.words


def test_a_folder_of_other_files_is_no_run_that_was_begun(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"mine: exists"):
        create(tmp_path)
    (tmp_path / "mine" / "notes.txt").rename(tmp_path / "notes.txt")
    (tmp_path / "mine" / "checkpoints").mkdir()
    (tmp_path / "mine" / "checkpoints" / "last-0001.weights.h5").write_text("weights")
    with pytest.raises(UserError, match=r"mine: exists"):
        create(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"mine: cannot write there .*; choose another --run-dir"):
            create(folder)


def test_what_is_no_run_folder_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=f"{folder}: not a run folder"):
            Run.open(str(folder))


def test_a_broken_config_is_named(tmp_path):
    run = create(tmp_path)
    (run.folder / "config.json").write_text('{"epochs": "three"}')
    with pytest.raises(UserError, match=r"mine/config\.json:\n  epochs: "):
        run.config()


def test_state_and_names_of_checkpoints(tmp_path):
    run = create(tmp_path)
    assert run.state() == {"epochs": 0, "best_epoch": 0, "best_score": None}
    run.write_state(epochs=12, best_epoch=9, best_score=17.25)
    assert Run.open(str(run.folder)).state() == {"epochs": 12, "best_epoch": 9, "best_score": 17.25}
    assert run.checkpoint("last") == run.folder / "checkpoints" / "last-0012.weights.h5"
    assert run.checkpoint("best") == run.folder / "checkpoints" / "best-0009.weights.h5"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"epochs": 3}', "[" * 100_000),
        *(
            f'{{"epochs": {value}, "best_epoch": 1, "best_score": 1}}'
            for value in ('"3"', "null", "-1", "3.0", "9" * 5000)
        ),
        *(f'{{"epochs": 3, "best_epoch": {value}, "best_score": 1}}' for value in ('"3"', "4", "true")),
        *(f'{{"epochs": 3, "best_epoch": 3, "best_score": {value}}}' for value in ('"3"', "null", "NaN", "1e999")),
    ],
)
def test_a_broken_state_is_named(tmp_path, text):
    run = create(tmp_path)
    (run.folder / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"mine/state\.json: "):
        run.state()


@pytest.mark.parametrize("content", [b"\xff", b"", b"[" * 100_000, None])
def test_damaged_files_of_a_run_are_named(tmp_path, content):
    run = create(tmp_path)
    for name, read in (("config.json", run.config), ("vocabulary.json", run.vocabulary)):
        path = run.folder / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=name):
            read()


def lines(count: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "nll": 5 / epoch,
            "val_nll": 5.5 / epoch,
            "bleu4": 1.25 * epoch,
            "cider": 2.5 * epoch,
            "seconds": 3.0,
        }
        for epoch in range(1, count + 1)
    ]


def test_history_round_trip(tmp_path):
    run = create(tmp_path)
    assert run.history() == []
    run.write_history(lines(2))
    run.write_history(lines(3))
    found = run.history()
    assert [list(line) for line in found] == [list(line) for line in lines(3)]
    for line, wanted in zip(found, lines(3), strict=True):
        assert line == pytest.approx(wanted, rel=1e-5)


def test_lines_of_an_earlier_release_may_lack_columns(tmp_path):
    run = create(tmp_path)
    run.write_history(
        [{"epoch": 1, "reward": 5.0, "seconds": 2.0}, {"epoch": 2, "reward": 6.0, "new": 7.0, "seconds": 3}]
    )
    first, second = run.history()
    assert list(first) == list(second) == ["epoch", "reward", "new", "seconds"]
    assert second == {"epoch": 2, "reward": 6, "new": 7, "seconds": 3}
    assert (first["reward"], first["seconds"]) == (5, 2)
    assert math.isnan(first["new"])


@pytest.mark.parametrize("damage", ["three", "2,9", "3,4,5,6,7,8,9", "2,1,1,1,1"])
def test_a_broken_history_is_named(tmp_path, damage):
    run = create(tmp_path)
    run.write_history(lines(3))
    run.write_state(epochs=3, best_epoch=3, best_score=3.75)
    path = run.folder / "history.csv"
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole[:-1], damage]) + "\n")
    with pytest.raises(UserError, match=r"history\.csv: missing or damaged"):
        run.history()


@pytest.mark.parametrize("kept", [2, 0, None])
def test_a_history_that_lacks_epochs_is_named(tmp_path, kept):
    run = create(tmp_path)
    run.write_history(lines(3))
    run.write_state(epochs=3, best_epoch=3, best_score=3.75)
    path = run.folder / "history.csv"
    if kept is None:
        path.unlink()
    else:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: kept + 1]))
    with pytest.raises(UserError, match=rf"history\.csv: .*it has {kept or 0} epochs, state\.json has 3"):
        run.history()


def test_nothing_temporary_is_left(tmp_path):
    run = create(tmp_path)
    run.write_state(epochs=1, best_epoch=1, best_score=0.0)
    run.write_history(lines(1))
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"checkpoints", "config.json", "history.csv", "state.json", "vocabulary.json"}
