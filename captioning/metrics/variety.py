"""How much several captions of one image differ, and how good the best of them is.

N captions of each image are measured together, so N must be the same wherever figures are compared. Captions that occur
twice count twice.

* Div-n: the different n-grams of an image's captions, divided by all their words (Li et al., 2016,
  https://arxiv.org/abs/1510.03055; for captions Shetty et al., 2017, https://arxiv.org/abs/1703.10476). The
  mean over images.
* mBLEU-4: BLEU-4 of each caption against the others of its image. It is the mean over the N places of a corpus BLEU of
  the captions at that place (Shetty et al., 2017). Low is varied.
* Self-CIDEr: -log_N of the largest singular value as a share of all (Wang and Chan, 2019,
  https://arxiv.org/abs/1903.12020). The squares of these values are the eigenvalues of the CIDEr between
  the captions, here without clipping and length penalty. 0: all are the same; 1: none has an n-gram of another.
* Oracle CIDEr: the mean CIDEr-D of the best caption of each image, as chosen by the references.

Document frequencies of both CIDErs are those of the references of the split. Shares lie between 0 and 1; BLEU and CIDEr
are times 100.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from captioning.metrics.bleu_rouge import bleu
from captioning.metrics.chair import chair, mentions, object_recall
from captioning.metrics.cider import Cider
from captioning.metrics.references import Caption, words

_AT_ONCE = 100_000  # pairs of captions that are compared at once


@dataclass(frozen=True, kw_only=True)
class Variety:
    """What is measured on several captions of each image."""

    captions: int  # of each image
    div1: float
    div2: float
    mbleu4: float
    self_cider: float
    distinct: float  # different captions of an image, as a share of all its captions
    vocabulary: int  # different words in all captions
    mean_length: float  # words per caption
    first_cider: float  # CIDEr-D of the captions that came first
    mean_cider: float  # CIDEr-D of all captions
    oracle_cider: float
    # None if the captions are not English, or if nothing is named.
    chair_s: float | None = None  # see ``chair``
    chair_i: float | None = None
    object_recall: float | None = None  # of all captions of an image together


def measure_variety(
    captions: Sequence[Sequence[Caption]],
    references: Sequence[Sequence[Caption]],
    there: Sequence[Collection[str]] | None = None,
    english: bool = True,
) -> Variety:
    """What the captions of the images are like. ``captions[i]``: those of image i, at least two, as many for each.

    ``references[i]``: all references of image i. ``there[i]``: the classes of objects that are known to be in it beside
    those that references name. ``english``: whether captions are; only then objects are known. Raises ValueError if an
    image has another number of captions.
    """
    said = [[words(caption) for caption in group] for group in captions]
    wanted = [[words(reference) for reference in group] for group in references]
    count = len(said[0])
    if count < 2 or any(len(group) != count for group in said):
        raise ValueError("captions: each image needs the same number of them, at least two")
    every = [caption for group in said for caption in group]
    owner = [i for i in range(len(said)) for _ in range(count)]
    cider = Cider(wanted).score(owner, every).reshape(-1, count)
    found = mentions(every, [wanted[i] for i in owner], there and [there[i] for i in owner]) if english else None
    hallucinated = chair(found) if found else None
    return Variety(
        captions=count,
        div1=div(said, 1),
        div2=div(said, 2),
        mbleu4=mbleu(said)[3],
        self_cider=float(self_cider(said, wanted).mean()),
        distinct=float(np.mean([len(set(map(tuple, group))) / count for group in said])),
        vocabulary=len({word for caption in every for word in caption}),
        mean_length=sum(map(len, every)) / len(every),
        first_cider=float(cider[:, 0].mean()),
        mean_cider=float(cider.mean()),
        oracle_cider=float(cider.max(axis=1).mean()),
        chair_s=hallucinated and hallucinated.sentence,
        chair_i=hallucinated and hallucinated.instance,
        object_recall=object_recall(said, wanted, there) if english else None,
    )


def div(captions: Sequence[Sequence[Caption]], n: int) -> float:
    """Div-n of the captions of each image."""
    shares = []
    for group in captions:
        said = [words(caption) for caption in group]
        ngrams = {ngram for caption in said for ngram in zip(*(caption[i:] for i in range(n)), strict=False)}
        shares.append(len(ngrams) / max(1, sum(map(len, said))))
    return float(np.mean(shares))


def mbleu(captions: Sequence[Sequence[Caption]]) -> list[float]:
    """mBLEU-1 to mBLEU-4 of the captions of each image. There must be as many for each image."""
    said = [[words(caption) for caption in group] for group in captions]
    scores = [
        bleu([group[place] for group in said], [[*group[:place], *group[place + 1 :]] for group in said])
        for place in range(len(said[0]))
    ]
    return np.mean(scores, axis=0).tolist()


def self_cider(captions: Sequence[Sequence[Caption]], references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """Self-CIDEr of the captions of each image, float64 ``(images,)``. There must be as many for each image."""
    said = [[words(caption) for caption in group] for group in captions]
    corpus = [[words(reference) for reference in group] for group in references]
    count, found = len(said[0]), []
    step = max(1, _AT_ONCE // count**2)
    for start in range(0, len(said), step):
        part = said[start : start + step]
        scorer = Cider([[caption] for group in part for caption in group], "cider", corpus)
        # Caption a of an image is scored against caption b of it.
        first = np.repeat(np.arange(len(part)) * count, count**2)
        a, b = (np.tile(each.ravel(), len(part)) for each in np.indices((count, count)))
        every = [caption for group in part for caption in group]
        alike = scorer.score(first + b, [every[i] for i in first + a]).reshape(-1, count, count) / 1000
        values = np.sqrt(np.clip(np.linalg.eigvalsh((alike + alike.transpose(0, 2, 1)) / 2), 0, None))
        total = values.sum(axis=1)
        # Captions without any n-gram that weighs something are all the same.
        share = np.where(total > 0, values[:, -1] / np.where(total > 0, total, 1), 1)
        found.append(-np.log(share) / np.log(count))
    return np.maximum(np.concatenate(found), 0)
