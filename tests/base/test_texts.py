"""Texts of strangers, made fit to print."""

import json
import os

import pytest

from captioning.base.texts import json_line, printable, printable_lines

ODD = "a\nb\x1b[2Jc\x9bd\u2028e\u202ef\ud800g" + os.fsdecode(b"\xe9")


@pytest.mark.parametrize("plain", ["", "two dogs", "Ünï — 犬 🐕", r"back\slash"])
def test_ordinary_texts_stay(plain):
    assert printable(plain) == printable_lines(plain) == plain
    assert json_line(plain) == json.dumps(plain, ensure_ascii=False)


def test_what_a_terminal_obeys_is_escaped():
    assert printable(ODD) == r"a\nb\x1b[2Jc\x9bd\u2028e\u202ef\ud800g\udce9"
    assert printable_lines("one\n\ttwo\x07") == "one\n\ttwo\\x07"


def test_json_lines_hold_no_such_character_and_read_back_as_they_were():
    line = json_line({"image": ODD})
    assert printable(line) == line
    assert json.loads(line) == {"image": ODD}
