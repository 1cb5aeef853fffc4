"""Scores by consensus with the references: CIDEr-D and CIDEr (Vedantam et al., 2015), fast enough to be a reward.

A caption is a vector of n-gram counts. The fewer images have an n-gram in their references, the more it weighs. The
score is 10 times the cosine with a reference, averaged over the references and over n = 1 to 4. CIDEr-D clips each
count to the count in the reference. It also multiplies by exp(-d^2 / 72), where d is the difference in length.

Papers that report "CIDEr" ran the class ``Cider`` of pycocoevalcap, and that class computes CIDEr-D. So ``cider_d`` is
the number to compare with papers. ``cider`` is the plain measure of the paper, without its stemming.

All scores are times 100.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from captioning.metrics.ngrams import LOW, NGrams, Sentence, counted
from captioning.metrics.references import Caption, words

VARIANTS = ("cider_d", "cider")
_SIGMA = 6.0


class _Postings(NamedTuple):
    """The n-grams of all references for one n: a row per reference and distinct n-gram, sorted by ``key``."""

    key: np.ndarray  # int64: image << 32 | number of the n-gram
    weight: np.ndarray  # float64: count times inverse document frequency
    reference: np.ndarray  # int64: its number among the references of all images
    norm: np.ndarray  # float64: one for each reference, not for each row


class Cider:
    """CIDEr-D or CIDEr of any number of candidates against fixed references.

    ``references[i]`` are all references of image ``i``: sequences of words, of ids, or of anything hashable. Document
    frequencies are counted over the images of ``corpus``. By default the corpus is the references, as in the published
    evaluation. All work on the references is done once, when the object is made.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sentence]],
        variant: str = "cider_d",
        corpus: Sequence[Sequence[Sentence]] | None = None,
    ):
        """Raises ValueError for an unknown variant, and for an image without references."""
        if variant not in VARIANTS:
            raise ValueError(f"variant: {variant!r} is not one of {', '.join(VARIANTS)}")
        if not all(len(group) for group in references):
            raise ValueError("references: each image needs at least one")
        self.variant = variant
        self._grams = NGrams()
        self._idf: list[np.ndarray] = []  # for each n the weight of each n-gram, then the weight of unknown ones
        self._postings: list[_Postings] = []
        self._sizes = np.array([len(group) for group in references], np.int64)
        count = int(self._sizes.sum())
        reference_image = np.repeat(np.arange(len(references)), self._sizes)

        documents = references if corpus is None else [*corpus, *references]
        corpus_size = len(references if corpus is None else corpus)
        document = np.repeat(np.arange(len(documents)), [len(group) for group in documents])
        first = len(document) - count  # the first sentence that is a reference
        ids, owner, lengths = self._grams.flatten(list(chain.from_iterable(documents)))
        self._lengths = lengths[first:]
        for n, sentence, gram in self._grams.orders(ids, owner, learn=True):
            seen = np.unique(document[sentence] << 32 | gram)  # the different n-grams of each document
            frequency = np.bincount(seen[seen >> 32 < corpus_size] & LOW, minlength=self._grams.count(n))
            self._idf.append(math.log(corpus_size) - np.log(np.maximum(1, frequency)))
            own = sentence >= first
            reference, gram, weight, norm = self._vectors(n, sentence[own] - first, gram[own], count)
            key = reference_image[reference] << 32 | gram
            order = np.argsort(key)
            self._postings.append(_Postings(key[order], weight[order], reference[order], norm))

    def score(self, images: Sequence[int] | np.ndarray, candidates: Sequence[Sentence]) -> np.ndarray:
        """The score of each candidate against the references of its image, float64 (N,).

        Candidate ``n`` is scored against the references of image ``images[n]``.
        """
        image = np.asarray(images, np.int64)
        ids, owner, lengths = self._grams.flatten(candidates)
        total = np.zeros(len(candidates))
        for n, sentence, gram in self._grams.orders(ids, owner):
            candidate, gram, weight, norm = self._vectors(n, sentence, gram, len(candidates))
            postings = self._postings[n]
            key = image[candidate] << 32 | gram
            low, high = np.searchsorted(postings.key, key), np.searchsorted(postings.key, key, side="right")
            # One row for each n-gram of a candidate and each reference of its image that has the n-gram too.
            hits = high - low
            row = np.repeat(np.arange(len(key)), hits)
            entry = np.arange(len(row)) + np.repeat(high - np.cumsum(hits), hits)
            candidate, weight = candidate[row], weight[row]
            reference, wanted = postings.reference[entry], postings.weight[entry]
            if self.variant == "cider_d":
                delta = lengths[candidate] - self._lengths[reference]
                weight = np.minimum(weight, wanted) * np.exp(-(delta**2) / (2 * _SIGMA**2))
            cosine = weight * wanted / (norm[candidate] * postings.norm[reference])
            total += np.bincount(candidate, cosine, minlength=len(candidates))
        return 1000 * total / (len(self._postings) * self._sizes[image])

    def _vectors(self, n: int, sentence: np.ndarray, gram: np.ndarray, sentences: int) -> tuple[np.ndarray, ...]:
        """Sentence, n-gram and weight of each distinct n-gram of a sentence, and the norm of each sentence."""
        sentence, gram, count = counted(sentence, gram)
        weight = count * self._idf[n][np.minimum(gram, len(self._idf[n]) - 1)]
        norm = np.sqrt(np.bincount(sentence, weight**2, minlength=sentences))
        norm[norm == 0] = 1  # all weights are zero then, and so is the product that this divides
        return sentence, gram, weight, norm


def cider_d(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> tuple[float, np.ndarray]:
    """CIDEr-D, which papers call CIDEr: the mean, and the score of each caption, float64 (N,).

    Document frequencies come from ``references``, so a caption's score depends on the other images of the split.
    """
    return _mean(predictions, references, "cider_d")


def cider(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> tuple[float, np.ndarray]:
    """CIDEr without clipping and length penalty: the mean, and the score of each caption, float64 (N,)."""
    return _mean(predictions, references, "cider")


def _mean(
    predictions: Sequence[Caption], references: Sequence[Sequence[Caption]], variant: str
) -> tuple[float, np.ndarray]:
    scorer = Cider([[words(reference) for reference in group] for group in references], variant)
    scores = scorer.score(range(len(predictions)), [words(prediction) for prediction in predictions])
    return float(scores.mean()), scores
