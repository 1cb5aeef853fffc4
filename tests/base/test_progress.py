"""Progress is told in lines where nobody looks, and not at all with --quiet."""

import os

import pytest

from captioning.base import progress
from captioning.base.progress import Progress, track
from captioning.base.script import quiet
from captioning.command_line.options import make_parser


@pytest.fixture
def clock(monkeypatch):
    """A clock that ``clock.now`` sets, in seconds."""
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock_.now)
    clock_ = type("Clock", (), {"now": 0.0})()
    return clock_


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_a_minute_and_one_at_the_end(clock, capsys):
    with Progress("features", 1000, "images", done=400) as bar:
        for clock.now in (10, 59, 61, 100, 122, 130):
            bar.update(100)
    assert lines(capsys) == [
        "features: 700 of 1,000 images, 4.9 a second, 01:01 left",
        "features: 900 of 1,000 images, 4.1 a second, 00:24 left",
        "features: 1,000 of 1,000 images, 4.6 a second, 00:00 left",
    ]


def test_downloads_of_known_and_unknown_size(clock, capsys):
    for size in (50_000_000, None):
        with Progress("a.zip", size, "B", done=10_000_000) as bar:
            clock.now += 61
            bar.update(20_000_000)
    assert lines(capsys) == [
        "a.zip: 30.0 of 50.0 MB, 0.3 a second, 01:01 left",
        "a.zip: 30.0 MB, 0.3 a second",
    ]


def test_items_pass_through(capsys):
    assert list(track(range(3), "check")) == [0, 1, 2]
    (line,) = lines(capsys)
    assert line.startswith("check: 3 of 3 pictures, ")


def test_quiet_shows_nothing(clock, capsys):
    assert make_parser("").parse_args(["--quiet"])
    try:
        with Progress("features", 2, "images") as bar:
            clock.now = 100
            bar.update(2)
        assert lines(capsys) == []
        assert quiet()
    finally:
        os.environ.pop("CAPTIONING_QUIET", None)
