"""Scores by overlap with the references: corpus BLEU, sentence BLEU, and ROUGE-L.

Captions are strings, which our tokeniser splits, or lists of words. ``references[i]`` are all references of
``predictions[i]``. All scores are times 100, and equal to those of pycocoevalcap 1.2 on the same words.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from captioning.metrics.references import Caption, words

_UNIFORM = (1, 1 / 2, 1 / 3, 1 / 4)  # the weight of each of the n log precisions in BLEU-n
_BETA = 1.2  # the weight of recall in ROUGE-L


def bleu(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4 without smoothing (Papineni et al., 2002)."""
    return bleu_score(bleu_counts(predictions, references).sum(axis=0)).tolist()


def sentence_bleu(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """BLEU-1 to BLEU-4 of each caption, float64 (N, 4).

    Smoothed as in pycocoevalcap: 1e-15 is added to every count of matches. That ranks captions even without a matching
    4-gram.
    """
    return bleu_score(bleu_counts(predictions, references), tiny=1e-15)


def bleu_counts(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """What BLEU sums over a corpus, int64 (N, 10).

    Columns: the words of the caption; the words of the reference that is closest in length, the shorter of two; for n
    from 1 to 4 the n-grams that match; for n from 1 to 4 all n-grams.
    """
    rows = []
    for prediction, group in zip(predictions, references, strict=True):
        found, wanted = words(prediction), [words(reference) for reference in group]
        closest = min((abs(len(reference) - len(found)), len(reference)) for reference in wanted)[1]
        matches = []
        for n in range(1, 5):
            most: Counter[tuple[str, ...]] = Counter()
            for reference in wanted:
                most |= _ngrams(reference, n)
            matches.append((_ngrams(found, n) & most).total())
        rows.append([len(found), closest, *matches, *(max(0, len(found) - n + 1) for n in range(1, 5))])
    return np.array(rows, np.int64).reshape(-1, 10)


def bleu_score(counts: np.ndarray, weights: Sequence[float] = _UNIFORM, tiny: float = 0.0) -> np.ndarray:
    """BLEU-1 to BLEU-4 from rows or sums of ``bleu_counts``: (..., 10) -> float64 (..., 4).

    ``weights[n - 1]`` is the weight of each log precision in BLEU-n. ``tiny`` is added to the counts of matches.
    """
    with np.errstate(divide="ignore"):  # Without a match the logarithm is -inf, and BLEU is zero.
        precisions = np.log((counts[..., 2:6] + tiny) / (counts[..., 6:] + 1e-9))
        brevity = np.minimum(0, 1 - (counts[..., 1:2] + 1e-9) / (counts[..., :1] + tiny))
    return 100 * np.exp(np.cumsum(precisions, axis=-1) * np.asarray(weights) + brevity)


def rouge_l(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> tuple[float, np.ndarray]:
    """ROUGE-L (Lin, 2004): the mean, and the score of each caption, float64 (N,).

    It is the F-measure of the longest common subsequence, with a weight of 1.2 on recall. Precision and recall are
    each the best over the references.
    """
    scores = np.array(
        [_rouge_l(words(p), [*map(words, group)]) for p, group in zip(predictions, references, strict=True)]
    )
    return float(scores.mean()), scores


def _rouge_l(found: list[str], wanted: list[list[str]]) -> float:
    common = [_common(found, reference) for reference in wanted]
    if not any(common):
        return 0.0
    precision = max(common) / len(found)
    recall = max(length / max(1, len(reference)) for length, reference in zip(common, wanted, strict=True))
    return 100 * (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence.

    Each row of the table of dynamic programming is the bits of one integer (Hyyrö, 2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    row = everything = (1 << len(a)) - 1
    for word in b:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & everything
    return len(a) - row.bit_count()


def _ngrams(found: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(found[i:] for i in range(n)), strict=False))
