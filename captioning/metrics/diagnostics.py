"""Statistics of captions that show a bad model: it says the same of every image, repeats itself, or breaks off."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from captioning.metrics.chair import chair, mentions, object_recall
from captioning.metrics.references import Caption, words

_WORDS = (
    "a an the and or but of in on at to by for from with without into onto over under near next behind through is are "
    "was were be being has have his her its their that which who while as this these"
)
# A caption that ends in one of these was cut short or lost its way ("a man standing on a").
FUNCTION_WORDS = frozenset(_WORDS.split())


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Counts and shares of captions, compared by their words. Shares lie between 0 and 1."""

    captions: int  # how many there are
    distinct: float  # different captions, as a share of all
    mean_length: float  # words per caption
    vocabulary: int  # different words in use
    dangling: float | None = None  # share of captions that end in a function word; None if they are not English
    repeats: float  # share with a word twice in a row
    repeated_bigrams: float  # share in which some two words occur again
    repeated_trigrams: float  # share in which some three words occur again
    most_common: float  # share of the commonest caption
    novel: float | None = None  # share of captions that no training caption equals; None without training captions
    # Objects that are not there (``chair``); None without references, if they are not English, and in old files.
    chair_s: float | None = None  # share of captions with such an object
    chair_i: float | None = None  # share of all mentions of objects; None also when no caption names an object
    object_recall: float | None = None  # of all objects that are there, the share that captions name
    outlined: bool | None = None  # whether objects that COCO outlines are there too; None: only those of references


@dataclass(frozen=True)
class LengthGroup:
    """Images whose references are about equally long. Lengths are means, in words."""

    images: int
    reference_length: float
    caption_length: float
    score: float


def diagnose(
    predictions: Sequence[Caption],
    training: Iterable[Caption] | None = None,
    references: Sequence[Sequence[Caption]] | None = None,
    english: bool = True,
    outlined: Sequence[Collection[str]] | None = None,
) -> Diagnostics:
    """The statistics of ``predictions``.

    ``training``: the captions that a novel caption is not among. ``references[i]``: all references of the image of
    ``predictions[i]``. ``english``: whether they are; only then function words and objects are known. ``outlined[i]``:
    the classes of the objects that are known to be in that image beside those that references name.
    """
    captions = [tuple(words(prediction)) for prediction in predictions]
    count = len(captions)
    hallucinated = recalled = None
    if references is not None and english:
        hallucinated = chair(mentions(captions, references, outlined))
        recalled = object_recall([[caption] for caption in captions], references, outlined)
    known = None if training is None else {tuple(words(caption)) for caption in training}
    return Diagnostics(
        captions=count,
        distinct=len(set(captions)) / count,
        mean_length=sum(map(len, captions)) / count,
        vocabulary=len({word for caption in captions for word in caption}),
        dangling=sum(not caption or caption[-1] in FUNCTION_WORDS for caption in captions) / count if english else None,
        repeats=sum(any(a == b for a, b in pairwise(caption)) for caption in captions) / count,
        repeated_bigrams=sum(_repeats(caption, 2) for caption in captions) / count,
        repeated_trigrams=sum(_repeats(caption, 3) for caption in captions) / count,
        most_common=Counter(captions).most_common(1)[0][1] / count,
        novel=None if known is None else sum(caption not in known for caption in captions) / count,
        chair_s=hallucinated and hallucinated.sentence,
        chair_i=hallucinated and hallucinated.instance,
        object_recall=recalled,
        outlined=True if outlined is not None and english else None,
    )


def is_english(captions: Iterable[Sequence[str]]) -> bool:
    """Whether ``captions``, given by their words, are English: at least a fifth of the words are its function words."""
    words_of_all = [word for caption in captions for word in caption]
    return 5 * sum(word in FUNCTION_WORDS for word in words_of_all) >= len(words_of_all)


def by_reference_length(
    scores: np.ndarray, predictions: Sequence[Caption], references: Sequence[Sequence[Caption]], groups: int = 4
) -> list[LengthGroup]:
    """The mean of ``scores``, float64 (N,), in groups of images, from the shortest references to the longest.

    The groups follow the references, not the captions, so they are the same for every model. Long references belong to
    images that people found more to say about.
    """
    wanted = np.array([np.mean([len(words(reference)) for reference in group]) for group in references])
    found = np.array([len(words(prediction)) for prediction in predictions])
    return [
        LengthGroup(
            images=len(group),
            reference_length=float(wanted[group].mean()),
            caption_length=float(found[group].mean()),
            score=float(scores[group].mean()),
        )
        for group in np.array_split(np.argsort(wanted, kind="stable"), min(groups, len(wanted)))
    ]


def _repeats(caption: Sequence[str], n: int) -> bool:
    ngrams = list(zip(*(caption[i:] for i in range(n)), strict=False))
    return len(set(ngrams)) < len(ngrams)
