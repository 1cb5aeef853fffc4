"""Texts in the cells of a CSV file that people open in spreadsheet programs. No Keras.

Such a program takes a cell that begins with = + - or @ for a formula, and a formula can start programs. An apostrophe
before it makes it a text (https://owasp.org/www-community/attacks/CSV_Injection). ``text_of`` takes it away again.
"""

import re

# What begins a formula: also behind a tab or a line end, and in the wide forms of East Asian keyboards.
_FORMULA = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
# A lone surrogate stands for a byte of a file name that is not UTF-8, and UTF-8 cannot hold it.
_ESCAPED = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")
_SURROGATE = re.compile("[\ud800-\udfff]")


def cell(text: str) -> str:
    """``text`` for a cell: no formula, and in characters that UTF-8 holds. Texts that differ give cells that differ."""
    text = _ESCAPED.sub(lambda found: r"\u005cu" + found[1], text)
    text = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return f"'{text}" if re.match(rf"'*{_FORMULA}", text) else text


def text_of(cell: str) -> str:
    """The text that ``cell`` has made a cell of."""
    text = cell[1:] if re.match(rf"'+{_FORMULA}", cell) else cell
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
