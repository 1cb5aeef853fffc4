"""Fonts for the captions in figures: installed ones that have the characters, or the name of one to install. No Keras.

matplotlib's own font has the letters of Europe. For other scripts an installed font stands in for it, character by
character.
"""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category, name

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

# What begins the Unicode name of a character, and the font family and Debian's package with such characters.
_EAST_ASIAN = ("Noto Sans CJK", "fonts-noto-cjk")
_FONTS = dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC"), _EAST_ASIAN)
_told: set[str] = set()  # the fonts whose lack was told


def families(*texts: str) -> list[str]:
    """The font families with which matplotlib can draw ``texts``, as the argument ``fontfamily``. The first is its own.

    The first time that no installed font has a character, a note on stderr names a font to install.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, get_font

    found = list(rcParams["font.family"])
    missing = {letter for letter in set("".join(texts)) if not letter.isascii() and category(letter)[0] not in "CZ"}
    missing = _lacking(get_font(findfont(FontProperties(family=found))), missing)
    for path, family in _candidates() if missing else ():
        try:
            left = _lacking(get_font(path), missing)
        except (OSError, RuntimeError):  # a damaged font
            continue
        if len(left) < len(missing):
            found.append(family)
            missing = left
        if not missing:
            break
    _tell(missing)
    return found


def _lacking(font: "FT2Font", letters: Iterable[str]) -> set[str]:
    """Those of ``letters`` that ``font`` does not have."""
    return {letter for letter in letters if not font.get_char_index(ord(letter))}


@cache
def _candidates() -> list[tuple[str, str]]:
    """The file and family of all upright fonts: first Noto Sans, then those with "Sans" in their name, then others."""
    from matplotlib.font_manager import fontManager, weight_dict

    _add_new_fonts()
    upright = [entry for entry in fontManager.ttflist if entry.style == "normal" and "Last Resort" not in entry.name]
    plain = [entry for entry in upright if 350 <= int(weight_dict.get(str(entry.weight), entry.weight)) <= 500]
    first = {entry.name: entry.fname for entry in reversed(plain)}
    rank = sorted(first, key=lambda family: (not family.startswith("Noto Sans"), "Sans" not in family, family))
    return [(first[family], family) for family in rank]


def _add_new_fonts() -> None:
    """Make known the fonts that were installed after matplotlib last looked."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {Path(entry.fname) for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if Path(path) not in known:
            try:
                fontManager.addfont(path)
            except (OSError, RuntimeError):  # not a font that can be read
                continue


def _tell(missing: Iterable[str]) -> None:
    """Say once for each font to install that figures lack it."""
    wanted: dict[tuple[str, str], str] = {}
    for letter in sorted(missing):
        script = name(letter, "").partition(" ")[0].partition("-")[0]
        font = _FONTS.get(script, (f"Noto Sans {script.title()}", "fonts-noto-core"))
        if category(letter) == "So":
            font = ("Noto Emoji", "fonts-noto")
        wanted[font] = wanted.get(font, "") + letter
    for (family, package), letters in wanted.items():
        if family not in _told:
            _told.add(family)
            print(
                f"note: no installed font has {letters[:5]}, so figures show boxes; install {family} "
                f"(Debian and Ubuntu: apt install {package})",
                file=sys.stderr,
            )


@contextmanager
def quiet_boxes() -> Iterator[None]:
    """While a figure is drawn, matplotlib does not warn of each character that no font has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from (current )?font", UserWarning)
        yield
