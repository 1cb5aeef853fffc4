"""Scores of captions on plain strings: corpus BLEU under two protocols, and statistics that expose a bad model.

``coco``: words as ``text.tokenize`` gives them (lower case, Penn Treebank splitting, no punctuation), no start or end
token, uniform weights, all references. Every number of this project uses it but one.

``seed``: the loose protocol of the historical Keras captioners, kept for one comparison only. References are the
published captions split at spaces (capitals and the final full stop kept), predictions lower-case words without
punctuation, both wrapped in start and end tokens, and BLEU-3 weighs (.3, .3, .3). The start and end tokens are free
matches; capitals and full stops can never match. Never compare its figures with ``coco`` ones.
"""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from nltk.translate.bleu_score import corpus_bleu

from text import tokenize

PROTOCOLS = ("coco", "seed")

# A caption that ends in one of these was cut short or lost its way ("a man standing on a").
FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "but",
        "of",
        "in",
        "on",
        "at",
        "to",
        "by",
        "for",
        "from",
        "with",
        "without",
        "into",
        "onto",
        "over",
        "under",
        "near",
        "next",
        "behind",
        "through",
        "is",
        "are",
        "was",
        "were",
        "be",
        "being",
        "has",
        "have",
        "his",
        "her",
        "its",
        "their",
        "that",
        "which",
        "who",
        "while",
        "as",
        "this",
        "these",
    ]
)

_WEIGHTS = {
    "coco": ((1.0,), (1 / 2,) * 2, (1 / 3,) * 3, (1 / 4,) * 4),
    "seed": ((1.0,), (1 / 2,) * 2, (0.3,) * 3, (1 / 4,) * 4),
}


def _seed_reference(caption: str) -> list[str]:
    return ["startseq", *caption.split(), "endseq"]


def _seed_prediction(caption: str) -> list[str]:
    return ["startseq", *re.sub(r"[^\w\s]", "", caption.lower()).split(), "endseq"]


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], protocol: str = "coco") -> list[float]:
    """Corpus BLEU-1 to BLEU-4, times 100, without smoothing (Papineni et al., 2002).

    ``references[i]`` are all references of ``predictions[i]``.
    """
    if protocol == "coco":
        wanted = [[tokenize(reference) for reference in group] for group in references]
        found = [tokenize(prediction) for prediction in predictions]
    else:
        wanted = [[_seed_reference(reference) for reference in group] for group in references]
        found = [_seed_prediction(prediction) for prediction in predictions]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK warns of every n-gram order without a match; the score says so too.
        scores = corpus_bleu(wanted, found, weights=list(_WEIGHTS[protocol]))
    # For an order without a match NLTK puts the smallest float in place of zero.
    return [100.0 * score if score > 1e-30 else 0.0 for score in scores]


def statistics(predictions: Sequence[str]) -> dict[str, float]:
    """What a degenerate model cannot hide.

    ``distinct``: share of captions that occur once or first; ``mean_length`` in words; ``vocabulary``: number of
    different words used; ``dangling``: share of captions that end in a function word; ``repeats``: share with a word
    twice in a row; ``most_common``: share of the commonest caption.
    """
    words = [tokenize(prediction) for prediction in predictions]
    count = len(predictions)
    return {
        "captions": count,
        "distinct": len(set(predictions)) / count,
        "mean_length": sum(map(len, words)) / count,
        "vocabulary": len({word for caption in words for word in caption}),
        "dangling": sum(not caption or caption[-1] in FUNCTION_WORDS for caption in words) / count,
        "repeats": sum(any(a == b for a, b in pairwise(caption)) for caption in words) / count,
        "most_common": Counter(predictions).most_common(1)[0][1] / count,
    }
