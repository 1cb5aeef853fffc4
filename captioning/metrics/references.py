"""What a caption is to the metrics."""

from collections.abc import Sequence

from captioning.words.tokenizer import tokenize

Caption = str | Sequence[str]


def words(caption: Caption) -> list[str]:
    """The words of a caption: a string is tokenised, anything else has been already."""
    return tokenize(caption) if isinstance(caption, str) else list(caption)
