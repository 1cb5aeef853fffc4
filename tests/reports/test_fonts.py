"""Fonts for captions of other scripts: an installed one is found, a missing one is named once, without warnings."""

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from captioning.reports import figures, fonts


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A font named "Two Signs" that was installed after matplotlib last looked. It has 红 and 色."""
    pen = TTGlyphPen(None)
    for place in ((0, 0), (0, 700), (500, 700)):
        (pen.lineTo if pen.points else pen.moveTo)(place)
    pen.closePath()
    glyph = pen.glyph()
    built = FontBuilder(1000, isTTF=True)
    built.setupGlyphOrder([".notdef", "red", "colour"])
    built.setupCharacterMap({ord("红"): "red", ord("色"): "colour"})
    built.setupGlyf(dict.fromkeys((".notdef", "red", "colour"), glyph))
    built.setupHorizontalMetrics(dict.fromkeys((".notdef", "red", "colour"), (600, 0)))
    built.setupHorizontalHeader(ascent=800, descent=-200)
    built.setupNameTable({"familyName": "Two Signs", "styleName": "Regular"})
    built.setupOS2(usWeightClass=400)
    built.setupPost()
    built.save(tmp_path / "two.ttf")
    before = list(font_manager.fontManager.ttflist)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "two.ttf")])
    _forget(monkeypatch)
    yield "Two Signs"
    font_manager.fontManager.ttflist[:] = before
    fonts._candidates.cache_clear()


def _forget(monkeypatch):
    fonts._candidates.cache_clear()
    monkeypatch.setattr(fonts, "_told", set())


def test_a_font_with_the_characters_is_found(installed, tmp_path, capsys):
    assert fonts.families("a dog, café", "собака")[1:] == []
    assert fonts.families("a 红色 dog")[1:] == [installed]
    figure = figures.captioned(Image.new("RGB", (40, 20)), ["红色"])
    assert figure.texts[0].get_fontfamily()[-1] == installed
    assert figures.save(figure, tmp_path, "a.jpg").is_file()
    assert capsys.readouterr().err == ""


def test_a_missing_font_is_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_candidates", list)
    monkeypatch.setattr(fonts, "_told", set())
    picture = Image.new("RGB", (40, 20))
    for number in range(2):  # warnings are errors in the tests
        figures.save(figures.captioned(picture, ["一只狗", "नीला है।"]), tmp_path, f"{number}.jpg")
        figures.save(figures.ranked("一只狗", [picture], ["狗.jpg"]), tmp_path, f"ranked{number}.jpg")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "install Noto Sans CJK (Debian and Ubuntu: apt install fonts-noto-cjk)" in told[1]
    assert "install Noto Sans Devanagari (Debian and Ubuntu: apt install fonts-noto-core)" in told[0]


def test_wide_characters_take_two_columns():
    assert figures._wrapped("一只狗" * 10, 48) == "一只狗" * 8 + "\n" + "一只狗" * 2
    assert figures._wrapped("a dog " * 10, 24) == "\n".join(["a dog a dog a dog a dog"] * 2 + ["a dog a dog"])
