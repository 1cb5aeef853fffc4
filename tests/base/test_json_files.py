"""The reader of JSON: whatever text it gets, it gives the value or one clear error."""

import json

import pytest
from helpers import ROOT

from captioning.base.errors import UserError
from captioning.base.json_files import parse_json, read_json, take

BAD = {
    "not UTF-8": b"\xff{}",
    "nothing": b"",
    "a NUL": b"\0",
    "cut short": b'{"a": [1, 2',
    "100,000 levels": b'{"a":' * 100_000,
    "33 levels": b'{"a":' + b"[" * 32 + b"]" * 32 + b"}",
    "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "above int64": b'{"a": 9223372036854775808}',
    "below int64": b'{"a": -99999999999999999999}',
    "not finite": b'{"a": Infinity}',
    "not a number": b'{"a": NaN}',
    "above float64": b'{"a": 1e400}',
    "a list": b"[1]",
    "a text": b'"words"',
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_bad_text_gives_one_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "some.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"some\.json: damaged \(.+\); delete it"):
        read_json(path, "delete it", dict)


def test_good_text_is_read_as_json_reads_it():
    value = {"a": [9223372036854775807, -1.5e30, 1.234567890123456789012, True, None], "\ud800": {"": "é"}}
    assert parse_json(json.dumps(value), "here", "mend it", dict) == value
    assert parse_json(json.dumps(value, ensure_ascii=True).encode(), "here", "mend it", dict) == value
    assert parse_json("[1, 2]", "here", "mend it", list) == [1, 2]


def test_a_file_is_read_up_to_a_limit(tmp_path):
    (tmp_path / "large.json").write_text("[" + " " * 3_000_000 + "]")
    with pytest.raises(UserError, match="larger than the 1 MiB"):
        read_json(tmp_path / "large.json", "delete it", list, max_bytes=1 << 20)


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", "make it", dict)
    for path in (tmp_path, tmp_path / "a\0b"):
        with pytest.raises(UserError, match=r"damaged \(it cannot be read: .*make it"):
            read_json(path, "make it", dict)


def test_entries_have_the_type_that_is_wanted():
    found = {"n": 3, "x": 2, "flag": True, "word": "w"}
    assert take(found, "n", int, lambda n: n > 0) == 3
    assert isinstance(take(found, "x", float), float)
    for name, kind in (("flag", int), ("word", float), ("n", str), ("missing", int)):
        with pytest.raises(ValueError, match=name):
            take(found, name, kind)
    with pytest.raises(ValueError, match="n may not be 3"):
        take(found, "n", int, lambda n: n > 3)


def test_nobody_reads_json_in_another_way():
    """Those that may: our own list of objects, Keras' format, and lines of captions, which name the line."""
    readers = {"base/json_files.py", "metrics/chair.py", "features/saved_model.py", "data/rows.py"}
    rooms = ROOT / "captioning"
    found = {
        path.relative_to(rooms).as_posix() for path in rooms.rglob("*.py") if "json.load" in path.read_text("utf-8")
    }
    assert found == readers
