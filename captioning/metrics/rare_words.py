"""How rare the right words of captions are: a reward for captions that name what few images show."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from captioning.metrics.ngrams import LOW, NGrams, Sentence, counted


class RareWords:
    """The mean rarity of the words of any number of candidates, times 100.

    The rarity of a word is ln(N / images that have it in their references) / ln(N), for N images. It is 0 for a word of
    all images, and 1 for a word of one image. A word that the image's own references lack counts 0, and so does a word
    that the candidate has said before. A longer caption gains nothing, because the mean is over all its words.
    """

    def __init__(self, references: Sequence[Sequence[Sentence]]):
        """``references[i]`` are all references of image ``i``."""
        image = np.repeat(np.arange(len(references)), [len(group) for group in references])
        self._words = NGrams()
        ids, owner, _ = self._words.flatten(list(chain.from_iterable(references)))
        self._said = np.unique(image[owner] << 32 | ids)  # image << 32 | word
        frequency = np.bincount(self._said & LOW)
        self._rarity = 1 - np.log(frequency) / math.log(max(2, len(references)))

    def score(self, images: Sequence[int] | np.ndarray, candidates: Sequence[Sentence]) -> np.ndarray:
        """The score of each candidate, float64 (N,). Candidate ``n`` belongs to image ``images[n]``."""
        ids, owner, lengths = self._words.flatten(candidates)
        sentence, word, _ = counted(owner, ids)
        key = np.asarray(images, np.int64)[sentence] << 32 | word
        right = self._said[np.minimum(np.searchsorted(self._said, key), len(self._said) - 1)] == key
        rarity = self._rarity[np.minimum(word, len(self._rarity) - 1)]
        return 100 * np.bincount(sentence, rarity * right, minlength=len(candidates)) / np.maximum(1, lengths)
