"""BLEU-4 of single captions, smoothed and fast enough to be a reward.

Papineni et al. (2002), https://aclanthology.org/P02-1040. A single caption often has no matching 4-gram, and its BLEU-4
would be 0. So one is added to the matches and to all n-grams, for n from 2 to 4 (Lin and Och, 2004, "ORANGE",
https://aclanthology.org/C04-1072). NLTK calls that ``method2``. As there, a caption of fewer than n words counts as one
n-gram that does not match.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from captioning.metrics.ngrams import NGrams, Sentence, counted


class SentenceBleu:
    """Smoothed BLEU-4 of any number of candidates against fixed references, times 100.

    ``references[i]`` are all references of image ``i``. All work on them is done once, when the object is made.
    """

    def __init__(self, references: Sequence[Sequence[Sentence]]):
        """Raises ValueError for an image without references."""
        if not all(len(group) for group in references):
            raise ValueError("references: each image needs at least one")
        sizes = np.array([len(group) for group in references], np.int64)
        image = np.repeat(np.arange(len(references)), sizes)
        self._grams = NGrams()
        ids, owner, lengths = self._grams.flatten(list(chain.from_iterable(references)))
        # For each image the lengths of its references from short to long, then very large numbers.
        place = np.arange(len(image)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._lengths = np.full((len(references), sizes.max()), 1 << 40)
        self._lengths[image, place] = lengths
        self._lengths.sort(axis=1)
        # For each n the sorted keys image << 32 | n-gram, and the largest count of the n-gram in a reference.
        self._most: list[tuple[np.ndarray, np.ndarray]] = []
        for _, sentence, gram in self._grams.orders(ids, owner, learn=True):
            sentence, gram, count = counted(sentence, gram)
            key = image[sentence] << 32 | gram
            order = np.argsort(key, kind="stable")
            keys, first = np.unique(key[order], return_index=True)
            most = np.maximum.reduceat(count[order], first) if len(keys) else count
            self._most.append((np.append(keys, np.iinfo(np.int64).max), np.append(most, 0)))

    def score(self, images: Sequence[int] | np.ndarray, candidates: Sequence[Sentence]) -> np.ndarray:
        """The score of each candidate against the references of its image, float64 (N,).

        Candidate ``n`` is scored against the references of image ``images[n]``. One without a right word scores 0.
        """
        image = np.asarray(images, np.int64)
        ids, owner, lengths = self._grams.flatten(candidates)
        logarithms = np.zeros(len(candidates))
        with np.errstate(divide="ignore"):  # without a right word the logarithm is -inf, and the score is 0
            for n, sentence, gram in self._grams.orders(ids, owner):
                keys, most = self._most[n]
                sentence, gram, count = counted(sentence, gram)
                key = image[sentence] << 32 | gram
                place = np.searchsorted(keys, key)
                right = np.minimum(count, np.where(keys[place] == key, most[place], 0))
                matches = np.bincount(sentence, right, minlength=len(candidates))
                every = np.maximum(1, lengths - n)
                logarithms += np.log((matches + (n > 0)) / (every + (n > 0)))
            own = self._lengths[image]
            closest = own[np.arange(len(image)), np.abs(own - lengths[:, None]).argmin(axis=1)]
            brevity = np.minimum(0, 1 - closest / np.maximum(lengths, 1e-9))
        return 100 * np.exp(logarithms / 4 + brevity)
