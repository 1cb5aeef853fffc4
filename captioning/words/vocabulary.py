"""The words a captioner knows: fitted on training captions only, kept as JSON, ids in descending frequency.

Or the WordPieces that its words are made of (Wu et al., 2016, https://arxiv.org/abs/1609.08144, section 4.1): "snow" is one,
"snowboarder" may be "snow", "##board" and "##er". Few words are unknown then, and captions come out as words again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from captioning.base.errors import UserError
from captioning.words.tokenizer import detokenize, tokenize

PAD, START, END, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")


class Vocabulary:
    """A bijection between words, or WordPieces, and ids. Ids 0 to 3 are ``<pad> <start> <end> <unk>``; words follow."""

    def __init__(self, words: Sequence[str], wordpieces: bool = False):
        """``words`` without the special ones, in id order from 4. Raises UserError when empty or repeated."""
        if not words:
            raise UserError("vocab_threshold: no word of the training captions is that frequent; lower it")
        self.words = [*SPECIALS, *words]
        self.wordpieces = wordpieces
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise UserError("vocabulary: a word occurs twice, or is spelled like a special token")

    @classmethod
    def fit(cls, captions: Iterable[str], threshold: int, wordpieces: Sequence[str] = ()) -> "Vocabulary":
        """The words that ``captions`` (of the training split) hold at least ``threshold`` times, or of given ``wordpieces``
        those that their words are made of.

        Sorted by falling frequency, then by spelling, so that the same captions in any order give the same ids.
        """
        counts = Counter(word for caption in captions for word in tokenize(caption))
        if wordpieces:
            every, words = cls(wordpieces, wordpieces=True), counts
            counts = Counter()
            for word, count in words.items():
                for i in every._split(word):
                    counts[every.words[i]] += count
        kept = [word for word, count in counts.items() if count >= threshold and word not in SPECIALS]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)), bool(wordpieces))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str, max_length: int) -> np.ndarray:
        """Ids of ``<start>``, at most ``max_length`` of its words, ``<end>``: int32 ``(T,)``. Unknown words become ``<unk>``.

        A caption that is cut gets no ``<end>``, so that no model learns to stop in the middle of a sentence.
        """
        ids = [i for word in tokenize(caption) for i in self._split(word)]
        tail = [END] if len(ids) <= max_length else []
        return np.asarray([START, *ids[:max_length], *tail], dtype=np.int32)

    def lengths(self, caption: str) -> list[int]:
        """How many ids ``encode`` gives to each word of ``caption``: one, unless they are WordPieces."""
        return [len(self._split(word)) for word in tokenize(caption)]

    def knows(self, word: str) -> bool:
        return UNK not in self._split(word)

    def _split(self, word: str) -> list[int]:
        """The id of a word, or those of its WordPieces, each the longest that fits."""
        if not self.wordpieces:
            return [self._ids.get(word, UNK)]
        ids, start = [], 0
        while start < len(word):
            prefix = "##" * (start > 0)
            stops = range(len(word), start, -1)
            stop = next((stop for stop in stops if prefix + word[start:stop] in self._ids), None)
            if stop is None:
                return [UNK]
            ids.append(self._ids[prefix + word[start:stop]])
            start = stop
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The caption that ``ids`` spell, up to the first ``<end>``; ``<pad>`` and ``<start>`` are left out."""
        return detokenize(self.spell(ids))

    def spell(self, ids: Iterable[int]) -> list[str]:
        """The words of that caption, WordPieces put together."""
        words: list[str] = []
        for token in ids:
            if token == END:
                break
            if token in (PAD, START):
                continue
            word = self.words[token]
            if self.wordpieces and word.startswith("##") and words:
                words[-1] += word[2:]
            else:
                words.append(word.removeprefix("##") if self.wordpieces else word)
        return words

    def to_json(self) -> str:
        """``{"words": [...]}``: all words in id order, the four special ones first; of WordPieces with "wordpieces": true."""
        about = {"words": self.words} | ({"wordpieces": True} if self.wordpieces else {})
        return json.dumps(about, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "Vocabulary":
        """Read what ``to_json`` wrote. Raises UserError naming ``source``."""
        try:
            found = json.loads(text)
            words, wordpieces = found["words"], bool(found.get("wordpieces"))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{source}: not a vocabulary: {error!r}") from None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{source}: not a vocabulary: words must be a list of texts")
        if tuple(words[:4]) != SPECIALS or len(words) == 4:
            raise UserError(f"{source}: a vocabulary is {' '.join(SPECIALS)} and words, this one {words[:5]}")
        if len(set(words)) != len(words):
            raise UserError(f"{source}: not a vocabulary: a word occurs twice")
        return cls(words[4:], wordpieces)
