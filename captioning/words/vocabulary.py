"""The words that a captioner knows, and their ids. No Keras.

The words come from the training captions only, most frequent first, and are kept as JSON. Instead of words they may be
WordPieces, parts of words (Wu et al., 2016, https://arxiv.org/abs/1609.08144, section 4.1). "snow" is one piece;
"snowboarder" may be "snow", "##board" and "##er". With WordPieces few words are unknown. Captions come out as whole
words again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioning.base.errors import UserError
from captioning.base.json_files import parse_json, take
from captioning.words.splitting import SPLITTINGS, TREEBANK, Splitting

# The ids of the special words, which are the same in every vocabulary. No other file defines them.
PAD = 0  # fills rows up to one length
START = 1  # stands before the first word
END = 2  # stands after the last word
UNK = 3  # stands for a word that the vocabulary does not know
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")  # their spelling, by id


@dataclass(frozen=True)
class Coverage:
    """How much of some captions a vocabulary knows.

    ``words``: how many words they have. ``unknown``: which are unknown. ``lengths``: how many captions have so many
    ids.
    """

    words: int
    unknown: Counter[str]
    lengths: Counter[int]

    @property
    def unknown_share(self) -> float:
        """The share of the words that are unknown."""
        return self.unknown.total() / max(1, self.words)

    def longer_share(self, length: int) -> float:
        """The share of the captions that have more than ``length`` ids, which training cuts."""
        return sum(n for ids, n in self.lengths.items() if ids > length) / max(1, self.lengths.total())


def _frequent(captions: Iterable[str], threshold: int, wordpieces: Sequence[str], splitting: Splitting) -> list[str]:
    """The words of a vocabulary, most frequent first (see ``Vocabulary.fit``)."""
    counts = Counter(word for caption in captions for word in splitting.split(caption))
    if wordpieces:
        every, words = Vocabulary(wordpieces, wordpieces=True), counts
        counts = Counter()
        for word, count in words.items():
            for i in every._split(word):
                counts[every.words[i]] += count
    kept = [word for word, count in counts.items() if count >= threshold and word not in SPECIALS]
    return sorted(kept, key=lambda word: (-counts[word], word))


class Vocabulary:
    """Words, or WordPieces, and their ids: the special words have 0 to 3, the others follow."""

    def __init__(self, words: Sequence[str], wordpieces: bool = False, splitting: Splitting = TREEBANK):
        """``words``: all but the special ones, in the order of their ids. ``wordpieces``: they are parts of words.

        ``splitting``: how captions are split into words.
        Raises UserError if there are no words, or if a word occurs twice.
        """
        if not words:
            raise UserError("vocab_threshold: no word occurs this often in the training captions; choose a lower one")
        self.words = [*SPECIALS, *words]
        self.wordpieces, self.splitting = wordpieces, splitting
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise UserError("vocabulary: a word occurs twice, or is spelled like a special word; make it anew")

    @classmethod
    def fit(
        cls,
        captions: Iterable[str],
        threshold: int,
        wordpieces: Sequence[str] = (),
        splitting: Splitting = TREEBANK,
    ) -> "Vocabulary":
        """The words that occur at least ``threshold`` times in ``captions``, those of the training split.

        With ``wordpieces``, all pieces of a BERT, the vocabulary holds those pieces that the words consist of. Then
        pieces are counted. The order is by falling frequency, then by spelling. So the order of the captions changes no
        id.
        """
        return cls(_frequent(captions, threshold, wordpieces, splitting), bool(wordpieces), splitting)

    def extended(self, captions: Iterable[str], threshold: int, wordpieces: Sequence[str] = ()) -> "Vocabulary":
        """These words and, behind them, the new ones that ``fit`` would take. The ids of these words stay.

        ``wordpieces``: all pieces of the BERT, if these words are WordPieces.
        """
        frequent = _frequent(captions, threshold, wordpieces, self.splitting)
        return self.with_words([word for word in frequent if word not in self._ids])

    def with_words(self, new: Sequence[str]) -> "Vocabulary":
        """These words and, behind them, the ``new`` ones, which are not among them. The ids of these words stay."""
        return Vocabulary([*self.words[len(SPECIALS) :], *new], self.wordpieces, self.splitting)

    def __len__(self) -> int:
        """How many words there are, special ones included."""
        return len(self.words)

    def split(self, caption: str) -> list[str]:
        """The words of ``caption``, as this vocabulary splits captions."""
        return self.splitting.split(caption)

    def encode(self, caption: str, max_length: int) -> np.ndarray:
        """The ids of ``<start>``, of at most ``max_length`` words of ``caption``, and of ``<end>``: int32 ``(T,)``.

        Unknown words become ``<unk>``. A longer caption is cut and gets no ``<end>``. So no model learns to stop in the
        middle of a sentence.
        """
        ids = [i for word in self.split(caption) for i in self._split(word)]
        tail = [END] if len(ids) <= max_length else []
        return np.asarray([START, *ids[:max_length], *tail], dtype=np.int32)

    def lengths(self, caption: str) -> list[int]:
        """How many ids ``encode`` gives to each word of ``caption``: one, or with WordPieces one per piece."""
        return [len(self._split(word)) for word in self.split(caption)]

    def coverage(self, captions: Iterable[str]) -> "Coverage":
        """How many words ``captions`` have, and which of them are unknown."""
        counts, lengths = Counter[str](), Counter[int]()
        for caption in captions:
            words = self.split(caption)
            counts.update(words)
            lengths[sum(len(self._split(word)) for word in words) if self.wordpieces else len(words)] += 1
        unknown = Counter({word: n for word, n in counts.items() if not self.knows(word)})
        return Coverage(counts.total(), unknown, lengths)

    def knows(self, word: str) -> bool:
        """Whether ``word`` has an id, or with WordPieces consists of pieces that have one."""
        return UNK not in self._split(word)

    def _split(self, word: str) -> list[int]:
        """The id of a word, or the ids of its WordPieces: from left to right, each the longest that fits."""
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
        """The caption with these ids, as text, up to the first ``<end>``. ``<pad>`` and ``<start>`` are left out."""
        return self.splitting.join(self.spell(ids))

    def spell(self, ids: Iterable[int]) -> list[str]:
        """The words of that caption. WordPieces are put together."""
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
        """The vocabulary as JSON text: an object with these entries.

        "words"       list of all words in the order of their ids, the four special ones first
        "wordpieces"  true if the words are WordPieces; otherwise the entry is missing
        "splitting"   how captions are split into words (``splitting.py``); with treebank the entry is missing
        """
        about: dict[str, Any] = {"words": self.words} | ({"wordpieces": True} if self.wordpieces else {})
        about |= {} if self.splitting is TREEBANK else {"splitting": self.splitting.name}
        return json.dumps(about, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "Vocabulary":
        """The vocabulary that ``to_json`` wrote. Raises UserError, naming ``source``, if ``text`` is no vocabulary."""
        advice = "copy the file again, or train anew"
        try:
            found = parse_json(text, source, advice, dict)
            words = take(found, "words", list)
            if problem := _problem(words):
                raise ValueError(problem)
        except ValueError as error:
            raise UserError(f"{source}: not a vocabulary: {error}; {advice}") from None
        name = str(found.get("splitting", TREEBANK.name))
        if name not in SPLITTINGS:
            raise UserError(f"{source}: splits captions by {name!r}, which this release does not know; use a newer one")
        return cls(words[len(SPECIALS) :], bool(found.get("wordpieces")), SPLITTINGS[name])


def _problem(words: object) -> str:
    """Why ``words`` are not all words of a vocabulary; empty if they are."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return "words must be a list of texts"
    if tuple(words[: len(SPECIALS)]) != SPECIALS or len(words) == len(SPECIALS):
        return f"it must hold {' '.join(SPECIALS)} and then words, and this one begins with {words[:5]}"
    if len(set(words)) != len(words):
        return "a word occurs twice"
    return ""
