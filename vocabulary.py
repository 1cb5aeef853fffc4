"""The words a captioner knows: fitted on training captions only, kept as JSON, ids in descending frequency."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from config import UserError
from text import detokenize, tokenize

PAD, START, END, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")


class Vocabulary:
    """A bijection between words and ids. Ids 0 to 3 are ``<pad> <start> <end> <unk>``; words follow."""

    def __init__(self, words: Sequence[str]):
        """``words`` without the special ones, in id order from 4. Raises UserError when empty or repeated."""
        if not words:
            raise UserError("vocab_threshold: no word of the training captions is that frequent; lower it")
        self.words = [*SPECIALS, *words]
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise UserError("vocabulary: a word occurs twice, or is spelled like a special token")

    @classmethod
    def fit(cls, captions: Iterable[str], threshold: int) -> "Vocabulary":
        """The words that ``captions`` (of the training split) hold at least ``threshold`` times.

        Sorted by falling frequency, then by spelling, so that the same captions in any order give the same ids.
        """
        counts = Counter(word for caption in captions for word in tokenize(caption))
        kept = [word for word, count in counts.items() if count >= threshold and word not in SPECIALS]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str, max_length: int) -> np.ndarray:
        """Ids of ``<start>``, at most ``max_length`` words, ``<end>``: int32 ``(T,)``. Unknown words become ``<unk>``.

        A caption that is cut gets no ``<end>``, so that no model learns to stop in the middle of a sentence.
        """
        ids = [self._ids.get(word, UNK) for word in tokenize(caption)]
        tail = [END] if len(ids) <= max_length else []
        return np.asarray([START, *ids[:max_length], *tail], dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The caption that ``ids`` spell, up to the first ``<end>``; ``<pad>`` and ``<start>`` are left out."""
        words = []
        for token in ids:
            if token == END:
                break
            if token not in (PAD, START):
                words.append(self.words[token])
        return detokenize(words)

    def to_json(self) -> str:
        """``{"words": [...]}``: all words in id order, the four special ones first."""
        return json.dumps({"words": self.words}, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "Vocabulary":
        """Read what ``to_json`` wrote. Raises UserError naming ``source``."""
        try:
            words = json.loads(text)["words"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{source}: not a vocabulary: {error!r}") from None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{source}: not a vocabulary: words must be a list of texts")
        if tuple(words[:4]) != SPECIALS or len(words) == 4:
            raise UserError(f"{source}: a vocabulary is {' '.join(SPECIALS)} and words, this one {words[:5]}")
        if len(set(words)) != len(words):
            raise UserError(f"{source}: not a vocabulary: a word occurs twice")
        return cls(words[4:])
