"""The drill of damaged files: a short run finds no fault, and faults are found where there are some."""

import random

import pytest

from captioning.base.errors import UserError
from tools import drill
from tools.drill_kinds import KINDS, Kind


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
