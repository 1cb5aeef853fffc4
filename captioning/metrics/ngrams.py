"""Numbers for words and n-grams, with which many sentences are compared at once.

Legend: N sentences, T words of all of them, G n-grams of all of them.
"""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

LOW = (1 << 32) - 1  # two numbers below 2^32 share an int64: high << 32 | low

Sentence = Sequence[Hashable]


class NGrams:
    """Numbers the n-grams of sentences, for n from 1 to 4. Sentences are of words, of ids, or of anything hashable."""

    def __init__(self):
        self._words: dict[Hashable, int] = {}
        self._known: list[np.ndarray] = []  # for each n the sorted keys of the n-grams, and the largest int64

    def count(self, n: int) -> int:
        """How many numbers there are for the n-grams that were learned, where ``n`` counts from 0."""
        return len(self._known[n])

    def flatten(self, sentences: Sequence[Sentence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All sentences in one row, int64: each word's number (T,) and sentence (T,), each sentence's length (N,)."""
        known = self._words
        ids = np.array([known.setdefault(word, len(known)) for sentence in sentences for word in sentence], np.int64)
        lengths = np.array([len(sentence) for sentence in sentences], np.int64)
        return ids, np.repeat(np.arange(len(sentences)), lengths), lengths

    def orders(
        self, ids: np.ndarray, owner: np.ndarray, learn: bool = False
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each n from 1 to 4: n - 1, and for every n-gram its sentence and its number, int64 (G,) each.

        ``ids`` and ``owner`` are what ``flatten`` gives. With ``learn`` these n-grams are the known ones from now on.
        The key of an n-gram joins the number of its first n - 1 words with its last word. Its number is the place of
        the key among the known keys. Unknown n-grams get numbers above those.
        """
        start, gram = np.arange(len(ids)), np.zeros(len(ids), np.int64)
        ids, owner = np.append(ids, [0] * 3), np.append(owner, [-1] * 3)
        for n in range(4):
            inside = owner[start] == owner[start + n]
            start = start[inside]
            key = gram[inside] << 32 | ids[start + n]
            if learn:
                self._known.append(np.append(np.unique(key), np.iinfo(np.int64).max))
            known = self._known[n]
            gram = np.searchsorted(known, key)
            new = known[gram] != key
            gram[new] = len(known) + np.unique(key[new], return_inverse=True)[1]
            yield n, owner[start], gram


def counted(sentence: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different n-grams of each sentence: its number, that of the n-gram, and how often it stands there.

    ``sentence`` and ``gram`` are int64 (G,), as ``NGrams.orders`` gives them.
    """
    pair, count = np.unique(sentence << 32 | gram, return_counts=True)
    return pair >> 32, pair & LOW, count
