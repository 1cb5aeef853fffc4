"""Captions as the metrics take them: as text, or as words."""

from collections.abc import Sequence

from captioning.words.tokenizer import tokenize

Caption = str | Sequence[str]


def words(caption: Caption) -> list[str]:
    """The words of a caption. A string is tokenised; a sequence of words is taken as it is."""
    return tokenize(caption) if isinstance(caption, str) else list(caption)
