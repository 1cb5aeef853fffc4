"""The words of an English caption, as vocabulary, models and scores count them unless told otherwise. No Keras.

The rules are those of the Stanford PTB tokeniser, which the COCO caption evaluation uses. Text becomes lower case, is
split as in the Penn Treebank ("man's" becomes "man" and "'s"), and loses its punctuation. The work is done by NLTK's
Treebank tokeniser, which needs no download. ``splitting.py`` has other ways for other languages.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any
from unicodedata import normalize

import regex

# The tokens that pycocoevalcap's PTBTokenizer removes, and signs that NLTK splits off in another way.
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "(", ")", "[", "]", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"', "#", "*"]
)
_SUFFIXES = ("'s", "n't", "'re", "'ll", "'ve", "'m", "'d")
# Nearly all captions consist of words, commas, hyphens and a full stop. Some have suffixes, names such as U.S., or "&".
# In these the Treebank rules split only suffixes and _CONTRACTIONS. Without the thirty regular expressions of NLTK,
# COCO's 617,000 captions take seconds, not a minute. So NLTK need not be installed to split what a captioner says.
_PLAIN = re.compile(
    r"(?:[a-z0-9 ]++|,(?= )|(?<=[a-z0-9])[-.](?=[a-z0-9])|(?<![^ ])&(?![^ ])"
    r"|(?<=[a-z0-9])'(?=(?:[smdt]|ll|re|ve)(?![a-z0-9'])))*+\.?"
)
_CONTRACTIONS = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)")
_SUFFIX = re.compile(r"(?<=[^' ])('[smd]) ")
_LONG_SUFFIX = re.compile(r"(?<=[^' ])('ll|'re|'ve|n't) ")
# Punctuation that English does not have, such as the danda of Hindi and the full stop of Chinese. What stands inside
# words stays: the apostrophe of Armenian, the signs of Hebrew, and the signs in Arabic numbers.
_FOREIGN = regex.compile(
    r"(?V1)[\p{P}--[\u0000-\u036F\u2000-\u206F\u2E00-\u2E7F\u055A\u05F3\u05F4\u066B\u066C]]|[\u00A1\u00AB\u00BB\u00BF]"
)


def tokenize(caption: str) -> list[str]:
    """The words of a caption, in lower case and without punctuation.

    >>> tokenize("Two dogs run on the man's lawn .")
    ['two', 'dogs', 'run', 'on', 'the', 'man', "'s", 'lawn']
    """
    text = caption.lower()
    if _PLAIN.fullmatch(text) and not _CONTRACTIONS.search(text):
        text = text.removesuffix(".").replace(",", "")
        if "'" in text:  # as NLTK, in two steps, so that "it'd've" becomes the same words
            text = _LONG_SUFFIX.sub(r" \1 ", _SUFFIX.sub(r" \1 ", f"{text} "))
        return text.split()
    if not text.isascii():
        text = _FOREIGN.sub(" ", normalize("NFC", text))
    # The Treebank tokeniser splits off a full stop only at the end of the text. A caption may have several sentences.
    text = re.sub(r"\.+(\s|$)", " . ", text)
    return [token for token in _treebank().tokenize(text) if token not in _PUNCTUATION]


@cache
def _treebank() -> Any:
    from nltk.tokenize import TreebankWordTokenizer  # here, since captioning does without NLTK

    return TreebankWordTokenizer()


def detokenize(words: Sequence[str]) -> str:
    """The words as readable text. ``tokenize`` splits it into the same words again.

    >>> detokenize(['the', 'man', "'s", 'lawn'])
    "the man's lawn"
    """
    text = ""
    for word in words:
        text += word if not text or word in _SUFFIXES else " " + word
    return text
