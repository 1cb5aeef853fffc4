"""Words of a caption: one tokenisation for the vocabulary, the models and the ``coco`` protocol.

Like the Stanford PTB tokeniser of the COCO caption evaluation: lower case, Penn Treebank splitting ("man's" becomes
"man" and "'s"), punctuation removed. It is NLTK's Treebank tokeniser, which needs no download.
"""

import re

from nltk.tokenize import TreebankWordTokenizer

# The tokens that pycocoevalcap's PTBTokenizer removes, and the signs that NLTK splits off differently.
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "(", ")", "[", "]", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"', "#", "*"]
)
_SUFFIXES = ("'s", "n't", "'re", "'ll", "'ve", "'m", "'d")
_treebank = TreebankWordTokenizer()
# Nearly all captions are words, commas, hyphens and a full stop, of which the Treebank rules would split these words only.
# Without its thirty regular expressions COCO's 617,000 captions take seconds, not a minute.
_PLAIN = re.compile(r"(?:[a-z0-9 ]++|,(?= )|(?<=[a-z0-9])-(?=[a-z0-9]))*+\.?")
_CONTRACTIONS = frozenset(["cannot", "gimme", "gonna", "gotta", "lemme", "wanna"])


def tokenize(caption: str) -> list[str]:
    """The words of a caption, lower-cased, without punctuation.

    >>> tokenize("Two dogs run on the man's lawn .")
    ['two', 'dogs', 'run', 'on', 'the', 'man', "'s", 'lawn']
    """
    text = caption.lower()
    if _PLAIN.fullmatch(text):
        words = text.removesuffix(".").replace(",", "").split()
        if _CONTRACTIONS.isdisjoint(words):
            return words
    # The Treebank tokeniser splits a full stop only off the end of the text; inside a caption it ends a sentence too.
    text = re.sub(r"\.+(\s|$)", " . ", text)
    return [token for token in _treebank.tokenize(text) if token not in _PUNCTUATION]


def detokenize(words: list[str]) -> str:
    """The words as readable text; ``tokenize`` takes it apart into the same words.

    >>> detokenize(['the', 'man', "'s", 'lawn'])
    "the man's lawn"
    """
    text = ""
    for word in words:
        text += word if not text or word in _SUFFIXES else " " + word
    return text
