"""Sweeps with scripts that take a moment: what is run, what goes on after a stop, and what the table says."""

import json
import os
import re
import sys
import time

import pytest
from quick_scripts import write_scripts

from captioning.base.errors import UserError
from captioning.sweeps import running
from captioning.sweeps.plan import make_sweep
from captioning.sweeps.running import Runner, claim, commands
from tools import sweep as tool


def described(*names: str, seeds=(0,), **base) -> dict:
    rows = [{"name": name, "settings": {"hidden_size": 8 + n}} for n, name in enumerate(names)]
    return {"base": base, "rows": rows, "seeds": [*seeds], "evaluate": {"split": "test"}}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    return write_scripts(tmp_path_factory.mktemp("fake") / "scripts")


@pytest.fixture
def call(scripts, monkeypatch, capsys):
    """Runs the tool as the command line would, with the quick scripts. Gives status, stdout and stderr."""
    monkeypatch.setattr(tool, "SCRIPTS", scripts)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, arguments)])
        return tool.main(), *capsys.readouterr()

    return run


def test_a_sweep_is_run_once_and_makes_a_table(call, tmp_path):
    file, out = tmp_path / "S.json", tmp_path / "out"
    file.write_text(json.dumps(described("plain", "good", seeds=(0, 1))))
    status, listed, _ = call(file, "--output", out, "--dry-run")
    assert status == 0
    assert listed.count("python train.py") == listed.count("python evaluate.py") == 4
    assert not out.exists()
    status, told, _ = call(file, "--output", out)
    assert status == 0
    assert re.search(r"\[4/4\] good, seed 1: 0\.\d minutes; CIDEr 41\.88, BLEU-4 20\.50 \(beam 3\)", told)
    page = (out / "table.md").read_text()
    plain, good = (
        next(line for line in page.splitlines() if line.startswith(f"| {row} |")) for row in ("plain", "good")
    )
    assert plain.startswith("| plain | 2 | 35.50 ± 0.71 |")
    assert good.startswith("| good | 2 | 41.38 ± 0.71 |")
    assert "| +5.88 |" in good
    assert good.endswith("| 20.50 | 12.5% | 50% | 1,200 | 200 | 16 |")
    assert f"--hidden-size 9 --seed 1 --run-dir {out} --name good-seed1\n" in page
    trained = (out / "plain-seed0" / "captioner.zip").stat().st_mtime_ns
    (out / "table.md").unlink()
    status, told, _ = call(file, "--output", out)
    assert told.count("was finished before") == 4
    assert (out / "plain-seed0" / "captioner.zip").stat().st_mtime_ns == trained
    assert (out / "table.md").read_text() == page
    # Scores that are older than their captioner are made again.
    later = time.time() + 10
    os.utime(out / "good-seed0" / "captioner.zip", (later, later))
    status, listed, _ = call(file, "--output", out, "--dry-run")
    assert "python train.py" not in listed
    assert listed.count("python evaluate.py") == 1
    os.utime(out / "good-seed0" / "captioner.zip", (0, 0))
    # Any run folders make the same table without a sweep.
    rows = [f"{row}={out}/{row}-*" for row in ("plain", "good")]
    for folder in out.glob("*-seed?"):
        (folder / "about.json").write_text('{"command": "train.py"}')
    status, told, _ = call("--table", "--split", "test", "--runs", *rows, "--output", tmp_path / "again")
    assert told.splitlines() == page.splitlines()[:4]
    tex = (out / "table.tex").read_text()
    assert r"good & 2 & 41.38 $\pm$ 0.71" in tex
    assert r"12.5\%" in tex


def test_a_failed_run_is_named_and_the_others_go_on(call, tmp_path):
    file, out = tmp_path / "S.json", tmp_path / "out"
    file.write_text(json.dumps(described("bad", "good")))
    status, told, noted = call(file, "--output", out)
    assert status == 1
    assert re.search(r"bad, seed 0: failed: train\.py ended with status 1: error: the loss became nan", told)
    assert "failed: bad-seed0" in told
    assert "bad: not finished with seed 0" in noted
    assert "baseline is not finished" in noted
    assert "| good |" in told
    assert "resumed: False" in (out / "logs" / "bad-seed0-train.log").read_text()


def test_an_interrupted_run_is_told_to_end_and_resumed_later(scripts, tmp_path, monkeypatch, capsys):
    sweep, out = make_sweep(described("long"), "S.json"), tmp_path / "out"
    claim(sweep, out)
    monkeypatch.setattr(running, "_REPORT_EVERY", 0.01)
    runner, wait = Runner(sweep, out, scripts), running._last_line

    def interrupt(log):
        if "batches" in wait(log):
            raise KeyboardInterrupt
        return wait(log)

    monkeypatch.setattr(running, "_last_line", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    run = out / "long-seed0"
    assert (run / "told").exists()
    assert commands(sweep.trainings[0], sweep, out)[0] == ["train.py", "--resume", str(run)]
    monkeypatch.setattr(running, "_last_line", wait)
    assert runner.run() == []
    assert "resumed: True" in (out / "logs" / "long-seed0-train.log").read_text()
    assert commands(sweep.trainings[0], sweep, out) == []


def test_the_last_line_of_a_running_script_is_shown(tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"
    log.write_bytes(b"first\n  50%|##\r epoch 1: 3 of 9 batches \n\n")

    class Process:
        waits = iter([False, True])

        def wait(self, timeout):
            if not next(self.waits):
                raise running.subprocess.TimeoutExpired("x", timeout)
            return 0

    assert running._wait(Process(), log, "[1/2] a, seed 0: train") == 0
    assert capsys.readouterr().err == "[1/2] a, seed 0: train: epoch 1: 3 of 9 batches\n"


def test_the_folder_of_another_sweep_is_refused(tmp_path):
    out = tmp_path / "out"
    claim(make_sweep(described("a", "b"), "S.json"), out)
    claim(make_sweep(described("a", "b", "c", seeds=(0, 1)), "S.json"), out)  # more rows and seeds may come
    with pytest.raises(
        UserError, match=r"belongs to another sweep: there [ab]-seed0 has the options train\.py .*--epochs 3"
    ):
        claim(make_sweep(described("a", "b", epochs=3), "S.json"), out)
    with pytest.raises(UserError, match="belongs to another sweep, which has none of these rows"):
        claim(make_sweep(described("z"), "S.json"), out)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="holds something else than a sweep"):
        claim(make_sweep(described("a"), "S.json"), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a sweep FILE before all options"),
        (["S.json", "--rows", "decoder=m2"], "give a sweep FILE before all options"),
        (["--rows", "decoder=m2"], "--rows: .* give --output"),
        (["S.json", "--runs", "a=b"], "--runs: takes run folders in place of a sweep"),
        (
            ["--table", "--output", "o", "--runs", "a=nowhere*"],
            "--runs: nowhere\\*: no run folder with scores of dev",
        ),
        (["--table", "--output", "o", "--runs", "a"], "--runs: 'a': expected a row"),
        (["S.json", "--dry-run", "--table"], "--table and --dry-run"),
        (["S.json"], "S.json: there is no such sweep file"),
        (["--rows", "decoder=inject,merge", "--output", "nowhere", "--table"], "nowhere: no sweep was run there"),
        (["--rows", "decoder=m2", "--seeds", "x", "--output", "o"], "seeds: expected whole numbers"),
    ],
)
def test_the_command_line_is_checked_first(call, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call(*arguments)
    assert [*tmp_path.iterdir()] == []
