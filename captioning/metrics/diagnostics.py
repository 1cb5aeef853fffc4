"""What a bad model cannot hide."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from captioning.metrics.references import Caption, words

_WORDS = (
    "a an the and or but of in on at to by for from with without into onto over under near next behind through is are "
    "was were be being has have his her its their that which who while as this these"
)
# A caption that ends in one of these was cut short or lost its way ("a man standing on a").
FUNCTION_WORDS = frozenset(_WORDS.split())


def statistics(predictions: Sequence[Caption], training: Iterable[Caption] | None = None) -> dict[str, float]:
    """Counts and shares of captions, compared by their words.

    ``distinct``: different captions over all; ``mean_length`` in words; ``vocabulary``: number of different words used;
    ``dangling``: share of captions that end in a function word; ``repeats``: share with a word twice in a row;
    ``repeated_bigrams``, ``repeated_trigrams``: share with any two (three) words that occur again; ``most_common``:
    share of the commonest caption; ``novel``, if ``training`` captions are given: share of captions not among them.
    """
    captions = [tuple(words(prediction)) for prediction in predictions]
    count = len(captions)
    found = {
        "captions": count,
        "distinct": len(set(captions)) / count,
        "mean_length": sum(map(len, captions)) / count,
        "vocabulary": len({word for caption in captions for word in caption}),
        "dangling": sum(not caption or caption[-1] in FUNCTION_WORDS for caption in captions) / count,
        "repeats": sum(any(a == b for a, b in pairwise(caption)) for caption in captions) / count,
        "repeated_bigrams": sum(_repeats(caption, 2) for caption in captions) / count,
        "repeated_trigrams": sum(_repeats(caption, 3) for caption in captions) / count,
        "most_common": Counter(captions).most_common(1)[0][1] / count,
    }
    if training is not None:
        known = {tuple(words(caption)) for caption in training}
        found["novel"] = sum(caption not in known for caption in captions) / count
    return found


def by_reference_length(
    scores: np.ndarray, predictions: Sequence[Caption], references: Sequence[Sequence[Caption]], groups: int = 4
) -> list[dict[str, float]]:
    """The mean of ``scores`` (N,) in groups of images, from those with the shortest references to the longest.

    Grouped by the references, not the captions, so that the groups are the same for every model and the longer ones
    are the images that people found more to say about.
    """
    wanted = np.array([np.mean([len(words(reference)) for reference in group]) for group in references])
    found = np.array([len(words(prediction)) for prediction in predictions])
    return [
        {
            "images": len(group),
            "reference_length": float(wanted[group].mean()),
            "caption_length": float(found[group].mean()),
            "score": float(scores[group].mean()),
        }
        for group in np.array_split(np.argsort(wanted, kind="stable"), min(groups, len(wanted)))
    ]


def _repeats(caption: Sequence[str], n: int) -> bool:
    ngrams = list(zip(*(caption[i:] for i in range(n)), strict=False))
    return len(set(ngrams)) < len(ngrams)
