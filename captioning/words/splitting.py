"""The ways to split captions into words and to join words into captions again. No Keras.

treebank     as the COCO evaluation splits English (``tokenizer.py``). All published figures are of this way
unicode      by the word boundaries of Unicode (UAX #29, https://www.unicode.org/reports/tr29/), for any script
characters   the characters that a reader sees (grapheme clusters of UAX #29), and the spaces between words

All three bring text into Unicode's normal form C and lower case, and leave punctuation out. The boundaries come from
the library regex. Unicode needs no dictionary, so it splits Chinese into characters, and Thai into syllable parts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from unicodedata import normalize

import regex

from captioning.words.tokenizer import detokenize, tokenize

# The scripts that are written without spaces between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Line_Break=SA}ー"
_unspaced = regex.compile(f"[{_UNSPACED}]")
_katakana = regex.compile(r"[\p{Katakana}ー]")
# So many characters of these scripts in a row are hardly one word.
_run = regex.compile(r"[\p{Han}\p{Hiragana}]{8}|[\p{Line_Break=SA}]{20}")

_boundary = regex.compile(r"(?V1w)\b")
_character = regex.compile(r"\X")
# A word has a character that is no punctuation, space, control character or mark for layout.
_spoken = regex.compile(r"[^\p{P}\p{Z}\p{Cc}\p{Cf}\p{Cs}\p{Sk}]")
# Marks that nobody sees: soft hyphen, marks of direction, byte order mark. Joiners stay, because they change letters.
_INVISIBLE = dict.fromkeys([0xAD, 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF])
_TRANSLATED = _INVISIBLE | {0x2019: "'"}  # typographic apostrophes are apostrophes


@dataclass(frozen=True)
class Splitting:
    """One way to split captions: its name, caption to words, and words to caption.

    ``split`` finds the same words in what ``join`` makes of words that ``split`` gave.
    """

    name: str
    split: Callable[[str], list[str]]
    join: Callable[[Sequence[str]], str]


def _split_unicode(caption: str) -> list[str]:
    """The words between Unicode's word boundaries, in lower case.

    >>> _split_unicode("लाल गेंद, the man's ball。一只狗")
    ['लाल', 'गेंद', 'the', "man's", 'ball', '一', '只', '狗']
    """
    text = normalize("NFC", normalize("NFC", caption.translate(_TRANSLATED)).lower())
    return [part.strip() for part in _boundary.split(text) if _spoken.search(part)]


def _join_unicode(words: Sequence[str]) -> str:
    """The words with spaces between them, but for scripts that are written without.

    >>> _join_unicode(["一", "只", "dog", "the", "man's"])
    "一只dog the man's"
    """
    text = ""
    for before, word in zip(["", *words], words, strict=False):
        text += word if not text or _touch(before, word) else " " + word
    return text


def _touch(before: str, word: str) -> bool:
    """Whether no space stands between two words. Two words in Katakana would become one."""
    if _katakana.search(before) and _katakana.search(word):
        return False
    return bool(_unspaced.search(before) or _unspaced.search(word))


def _split_characters(caption: str) -> list[str]:
    """The characters of the words, and one space where words have a space between them.

    >>> _split_characters("A dog, 红色。")
    ['a', ' ', 'd', 'o', 'g', '红', '色']
    """
    return _character.findall(_join_unicode(_split_unicode(caption)))


def _join_characters(characters: Sequence[str]) -> str:
    return " ".join("".join(characters).split())


TREEBANK = Splitting("treebank", tokenize, detokenize)
UNICODE = Splitting("unicode", _split_unicode, _join_unicode)
CHARACTERS = Splitting("characters", _split_characters, _join_characters)
# By the names that the setting ``words`` has.
SPLITTINGS = {each.name: each for each in (TREEBANK, UNICODE, CHARACTERS)}


def is_unspaced(text: str) -> bool:
    """Whether some of ``text`` is in a script that is written without spaces between words."""
    return not text.isascii() and bool(_unspaced.search(text))


def share_in_one_piece(captions: Iterable[str]) -> float:
    """The share of the captions that have a sentence without spaces, which treebank takes for a single word."""
    found = [not caption.isascii() and bool(_run.search(caption)) for caption in captions]
    return sum(found) / max(1, len(found))
