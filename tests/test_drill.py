"""The drills: short runs find no fault, and faults are found where there are some."""

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys

import pytest
from helpers import ROOT

from captioning.base.errors import UserError
from tools import drill
from tools.drill_kinds import KINDS, Kind
from tools.drill_works import differences, snapshot


def kind(read, writes: bool = False) -> Kind:
    return Kind("made up", lambda folder: (folder / "a.json").write_text('{"a": [1, "b"]}'), read, writes)


def seen(read, tmp_path, trials: int = 12) -> set[str]:
    calls = iter(range(10**6))
    whole_first = kind(lambda folder: next(calls) and read(folder))
    return set(drill.drill(whole_first, range(trials), 0, tmp_path)[0])


def refuse(folder) -> None:
    raise UserError("a.json: damaged; delete it")


def test_what_happens_to_a_reader_is_told_apart(tmp_path):
    assert seen(lambda folder: None, tmp_path) == {"read"}
    assert seen(refuse, tmp_path) == {"refused"}
    assert seen(lambda folder: 1 / 0, tmp_path) == {"traceback"}
    assert seen(lambda folder: (folder / ".rest").touch(), tmp_path) == {"leftover"}
    assert seen(lambda folder: (folder / "a.json").write_text("mine"), tmp_path) == {"changed"}


def test_memory_that_a_reader_took_is_seen(tmp_path, monkeypatch):
    taken = itertools.count(step=1 << 30)
    monkeypatch.setattr(drill, "_peak_memory", lambda: next(taken))
    assert seen(lambda folder: None, tmp_path) == {"memory"}


def test_the_same_seed_gives_the_same_damage():
    text = b'{"a": [1, 2, {"b": "text"}], "c": 3.5}\n' * 3
    first, second = ([drill.damage(text, "x.json", random.Random(f"{i}")) for i in range(300)] for _ in range(2))
    assert first == second
    assert len({part for part in first if part is not None}) > 200
    assert None in first


@pytest.mark.slow
@pytest.mark.parametrize("tried", [kind for kind in KINDS if not kind.keras], ids=lambda kind: kind.name)
def test_damaged_files_are_named_and_nothing_else_happens(tried, tmp_path, recwarn):
    counts, faults = drill.drill(tried, range(20), 7, tmp_path)
    assert not faults
    assert set(counts) <= {"read", "refused"}


def drill_in_peace(*arguments: str) -> subprocess.CompletedProcess:
    """A process of its own, because it forks, and one with TensorFlow at work must not."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@FORKS
@pytest.mark.slow
def test_killed_works_end_as_if_nothing_had_happened():
    done = drill_in_peace("tools/drill.py", "--kills", "8", "--only", "demo scenes", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("8 killed, ")


def test_what_an_export_says_is_compared_and_what_tensorflow_leaves_is_not(tmp_path):
    def laid(digest: str) -> dict[str, str]:
        drill.lay_out(
            tmp_path,
            {
                "onnx/vocabulary.json": b"{}",
                "onnx/export.json": json.dumps({"kind": "onnx", "sha256": {"vocabulary.json": digest}}).encode(),
                "tmp/__autograph_generated_filea1_b2.py": b"",
                "tmp/a1b2_3d4": b"blat",
                "tmp/.keras-image-captioning-parts-x/part": b"much",
            },
        )
        return snapshot(tmp_path)

    whole, wrong = laid(hashlib.sha256(b"{}").hexdigest()), laid("0" * 64)
    assert sorted(whole) == ["onnx/export.json", "onnx/vocabulary.json", "tmp/.keras-image-captioning-parts-x/part"]
    assert differences(wrong, whole) == ["different onnx/export.json"]


# A script that writes two files. With "tidily" it takes up what a killed process left. Otherwise it appends to it.
WRITER = """
import sys
from pathlib import Path
here, tidily = Path(sys.argv[1]), sys.argv[2] == "tidily"
new = here / (".new" if tidily else f".new-{len(list(here.iterdir()))}")
for name in "ab":
    with open(new, "w" if tidily else "a") as file:
        file.write(name)
    if tidily or not (here / name).exists():
        new.rename(here / name)
"""
DRILL = """
import sys
from tools import drill_kills
from tools.drill_works import Work
drill_kills.WORKS = drill_kills.WRITERS = (Work("mine", (sys.argv[1], "HERE", sys.argv[2])),)
sys.exit(drill_kills.report(getattr(drill_kills, sys.argv[3]), 6, 0, ""))
"""


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize(("how", "found"), [("tidily", ""), ("untidily", "leftover .new-")])
def test_what_a_kill_leaves_is_seen(tmp_path, how, found):
    (tmp_path / "writer.py").write_text(WRITER)
    done = drill_in_peace("-c", DRILL, str(tmp_path / "writer.py"), how, "kill")
    assert done.returncode == bool(found), done.stdout + done.stderr
    assert found in done.stdout
    assert (", 0 faults" in done.stdout) == (not found)


# A script that writes 200 kB. With "told" a full disk is one message and status 2. Otherwise it is a traceback.
FILLER = """
import sys
from pathlib import Path
try:
    (Path(sys.argv[1]) / "a").write_bytes(bytes(200_000))
except OSError as error:
    if sys.argv[2] != "told":
        raise
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize(("how", "found"), [("told", ""), ("raised", "failed with status 70")])
def test_what_a_full_disk_does_is_seen(tmp_path, how, found):
    (tmp_path / "filler.py").write_text(FILLER)
    done = drill_in_peace("-c", DRILL, str(tmp_path / "filler.py"), how, "fill")
    if "needs the right to mount" in done.stderr:
        pytest.skip("needs the right to mount a file system")
    assert done.returncode == bool(found), done.stdout + done.stderr
    assert " full" in done.stdout
    assert found in done.stdout
