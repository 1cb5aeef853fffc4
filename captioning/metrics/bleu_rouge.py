"""Scores by overlap with the references: corpus BLEU under two protocols, sentence BLEU, and ROUGE-L.

``coco``: words as ``text.tokenize`` gives them (lower case, Penn Treebank splitting, no punctuation), no start or end
token, uniform weights, all references. Every number of this project uses it but one.

``seed``: the loose protocol of the historical Keras captioners, kept for one comparison only. References are the
published captions split at spaces (capitals and the final full stop kept), predictions lower-case words without
punctuation, both wrapped in start and end tokens, and BLEU-3 weighs (.3, .3, .3). The start and end tokens are free
matches; capitals and full stops can never match. Never compare its figures with ``coco`` ones.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from captioning.metrics.references import Caption, words

PROTOCOLS = ("coco", "seed")

# Weight of each of the n log precisions in BLEU-n.
_WEIGHTS = {"coco": np.array([1, 1 / 2, 1 / 3, 1 / 4]), "seed": np.array([1, 1 / 2, 0.3, 1 / 4])}
_BETA = 1.2  # weight of recall in ROUGE-L


def bleu(
    predictions: Sequence[Caption], references: Sequence[Sequence[Caption]], protocol: str = "coco"
) -> list[float]:
    """Corpus BLEU-1 to BLEU-4 without smoothing (Papineni et al., 2002). The ``seed`` protocol wants strings."""
    if protocol == "seed":
        predictions = [_seed_prediction(prediction) for prediction in predictions]
        references = [[_seed_reference(reference) for reference in group] for group in references]
    return bleu_score(bleu_counts(predictions, references).sum(axis=0), protocol).tolist()


def sentence_bleu(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """BLEU-1 to BLEU-4 of each caption, float64 (N, 4).

    Smoothed as in pycocoevalcap, by 1e-15 on every count of matches: enough to rank captions without a match in fours.
    """
    return bleu_score(bleu_counts(predictions, references), tiny=1e-15)


def bleu_counts(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """What BLEU sums over a corpus, int64 (N, 10): words, words of the reference closest in length (the shorter of two),
    n-grams that match and n-grams in all, for n from 1 to 4 each."""
    rows = []
    for prediction, group in zip(predictions, references, strict=True):
        found, wanted = words(prediction), [words(reference) for reference in group]
        closest = min((abs(len(reference) - len(found)), len(reference)) for reference in wanted)[1]
        matches = []
        for n in range(1, 5):
            most = Counter()
            for reference in wanted:
                most |= _ngrams(reference, n)
            matches.append((_ngrams(found, n) & most).total())
        rows.append([len(found), closest, *matches, *(max(0, len(found) - n + 1) for n in range(1, 5))])
    return np.array(rows, np.int64).reshape(-1, 10)


def bleu_score(counts: np.ndarray, protocol: str = "coco", tiny: float = 0.0) -> np.ndarray:
    """BLEU-1 to BLEU-4 of (sums of) ``bleu_counts``: (..., 10) -> (..., 4)."""
    with np.errstate(divide="ignore"):  # Without a match the logarithm is -inf and BLEU zero.
        precisions = np.log((counts[..., 2:6] + tiny) / (counts[..., 6:] + 1e-9))
        brevity = np.minimum(0, 1 - (counts[..., 1:2] + 1e-9) / (counts[..., :1] + tiny))
    return 100 * np.exp(np.cumsum(precisions, axis=-1) * _WEIGHTS[protocol] + brevity)


def rouge_l(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> tuple[float, np.ndarray]:
    """ROUGE-L (Lin, 2004): the mean, and the score of each caption, float64 (N,).

    The F-measure of the longest common subsequence, recall weighing 1.2 times; precision and recall are each the best
    over the references.
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
    """Length of the longest common subsequence, one row of the table at a time as the bits of an integer (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    row = everything = (1 << len(a)) - 1
    for word in b:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & everything
    return len(a) - row.bit_count()


def _ngrams(found: Sequence[str], n: int) -> Counter:
    return Counter(zip(*(found[i:] for i in range(n)), strict=False))


def _seed_reference(caption: str) -> list[str]:
    return ["startseq", *caption.split(), "endseq"]


def _seed_prediction(caption: str) -> list[str]:
    return ["startseq", *re.sub(r"[^\w\s]", "", caption.lower()).split(), "endseq"]
