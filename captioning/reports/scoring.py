"""All scores of the captions of a split, whoever made them. No Keras."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from captioning.data import scenes
from captioning.data.mixture import MixedDataset, captions_of
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.metrics import java
from captioning.metrics.diagnostics import Diagnostics, by_reference_length, diagnose, is_english
from captioning.metrics.protocols import seed_bleu
from captioning.metrics.references import Caption
from captioning.metrics.significance import (
    Intervals,
    corpus_scores,
    image_statistics,
    intervals,
    mean_intervals,
    share_interval,
)
from captioning.metrics.variety import Variety, measure_variety
from captioning.reports.rows import OUR_TREEBANK, CocoScores, Scores, SeedScores
from captioning.words.splitting import TREEBANK, Splitting
from config import DataSettings

Words = list[str]
Outlined = Sequence[Collection[str]] | None
T = TypeVar("T")


def score(
    captions: Sequence[str],
    records: Sequence[ImageRecord],
    protocol: str,
    data: DataSettings,
    training: Sequence[Caption] = (),
    tools: Collection[str] = (),
    splitting: Splitting = TREEBANK,
    outlined: Outlined = None,
) -> tuple[Scores, np.ndarray]:
    """All scores of N ``captions``, one for each record, and the CIDEr-D of each caption, float64 ``(N,)``.

    ``training``: all training captions, if there are any. A caption that is not among them is novel. ``tools``: the
    Java programs to use, from ``java.TOOLS``. The ``seed`` protocol uses none of their scores. ``splitting``: how
    captions and references are split into words; the Java programs know ``TREEBANK`` only. ``outlined``: for each
    record the classes of the objects that COCO outlines, if they are known.
    """
    found, references = _words(captions, records, tools, splitting)
    images = image_statistics(found, references)
    diagnostics = _diagnose(found, training, references, splitting, outlined)
    demo, shuffled_demo = _demo_shares(captions, records, data)
    if protocol == "seed":
        wanted = [record.captions for record in records]
        seed = SeedScores(
            bleu=_bleu(seed_bleu(captions, wanted)),
            shuffled_bleu=_bleu(seed_bleu(shuffled(captions), wanted)),
            diagnostics=diagnostics,
            demo=demo,
            shuffled_demo=shuffled_demo,
        )
        return seed, images[:, -1]
    corpus = corpus_scores(images)
    control = corpus_scores(image_statistics(shuffled(found), references))
    coco = CocoScores(
        bleu=_bleu(corpus.bleu),
        rouge_l=corpus.rouge_l,
        cider_d=corpus.cider_d,
        meteor=java.meteor(found, references)[0] if "meteor" in tools else None,
        spice=java.spice(found, references)[0] if "spice" in tools else None,
        tokenizer="stanford" if "tokenizer" in tools else OUR_TREEBANK if splitting is TREEBANK else splitting.name,
        intervals=_with_chair(intervals(images), diagnostics),
        shuffled_bleu=_bleu(control.bleu),
        shuffled_cider_d=control.cider_d,
        cider_d_by_reference_length=tuple(by_reference_length(images[:, -1], found, references)),
        diagnostics=diagnostics,
        demo=demo,
        shuffled_demo=shuffled_demo,
    )
    return coco, images[:, -1]


def together(
    parts: Sequence[tuple[Sequence[str], Sequence[ImageRecord], Scores]],
    training: Sequence[Caption] = (),
    tools: Collection[str] = (),
    splitting: Splitting = TREEBANK,
    outlined: Outlined = None,
) -> Scores:
    """The scores of several data sets together. Each part holds the captions, the records and the scores of one.

    Scores are means over the data sets, whatever their sizes. Intervals are about these means. ``diagnostics`` and
    ``cider_d_by_reference_length`` count the captions of all data sets. The other arguments: see ``score``. Here
    ``outlined`` is for the records of all parts, one part after the other.
    """
    spoken = [_words(captions, records, tools, splitting) for captions, records, _ in parts]
    found = [caption for captions, _ in spoken for caption in captions]
    references = [own for _, of_part in spoken for own in of_part]
    diagnostics = _diagnose(found, training, references, splitting, outlined)
    scores = [part for _, _, part in parts]
    seed = [part for part in scores if isinstance(part, SeedScores)]
    if seed:
        return SeedScores(
            bleu=_mean_bleu([part.bleu for part in seed]),
            shuffled_bleu=_mean_bleu([part.shuffled_bleu for part in seed]),
            diagnostics=diagnostics,
        )
    coco = [part for part in scores if isinstance(part, CocoScores)]
    corpora = [image_statistics(*part) for part in spoken]
    cider = np.concatenate([corpus[:, -1] for corpus in corpora])
    return CocoScores(
        bleu=_mean_bleu([part.bleu for part in coco]),
        rouge_l=_mean([part.rouge_l for part in coco]),
        cider_d=_mean([part.cider_d for part in coco]),
        meteor=_mean([part.meteor for part in coco if part.meteor is not None]) if "meteor" in tools else None,
        spice=_mean([part.spice for part in coco if part.spice is not None]) if "spice" in tools else None,
        tokenizer=coco[0].tokenizer,
        intervals=_with_chair(mean_intervals(corpora), diagnostics),
        shuffled_bleu=_mean_bleu([part.shuffled_bleu for part in coco]),
        shuffled_cider_d=_mean([part.shuffled_cider_d for part in coco]),
        cider_d_by_reference_length=tuple(by_reference_length(cider, found, references)),
        diagnostics=diagnostics,
    )


def training_captions(dataset: CaptionDataset | MixedDataset, splitting: Splitting = TREEBANK) -> list[Words]:
    """The words of all training captions. Empty if the data set has no training split."""
    # There are many captions and few words, so each word is kept once.
    return [list(map(sys.intern, splitting.split(caption))) for caption in captions_of(dataset, "train")]


def shuffled(captions: Sequence[T]) -> list[T]:
    """The control: each image gets the caption of the next image. The last image gets the first caption."""
    return [*captions[1:], *captions[:1]]


def _words(
    captions: Sequence[str], records: Sequence[ImageRecord], tools: Collection[str], splitting: Splitting
) -> tuple[list[Words], list[list[Words]]]:
    """The words of the captions and of the references. ``tools`` may ask for Stanford's tokeniser."""
    texts = [text for record in records for text in record.captions]
    if "tokenizer" in tools:
        split, found = java.tokenize(texts), java.tokenize(captions)
    else:
        split, found = [*map(splitting.split, texts)], [*map(splitting.split, captions)]
    following = iter(split)
    return found, [[next(following) for _ in record.captions] for record in records]


def variety(
    captions: Sequence[Sequence[str]],
    records: Sequence[ImageRecord],
    splitting: Splitting = TREEBANK,
    outlined: Outlined = None,
) -> Variety:
    """How varied several captions of each record are, and how good the best of them is. The other arguments: ``score``.

    A record with too few captions counts its last one again.
    """
    count = max(map(len, captions))
    filled = [[*group, *[group[-1]] * (count - len(group))] for group in captions]
    references = [[splitting.split(text) for text in record.captions] for record in records]
    said = [[splitting.split(text) for text in group] for group in filled]
    return measure_variety(said, references, outlined, _is_english(references, splitting))


def _diagnose(
    found: list[Words],
    training: Sequence[Caption],
    references: list[list[Words]],
    splitting: Splitting,
    outlined: Outlined,
) -> Diagnostics:
    """The diagnostics of captions and references, given by their words."""
    return diagnose(found, training or None, references, _is_english(references, splitting), outlined)


def _with_chair(found: Intervals, diagnostics: Diagnostics) -> Intervals:
    """The intervals with that of CHAIRs, if CHAIR is known."""
    if diagnostics.chair_s is None:
        return found
    return replace(found, chair_s=share_interval(diagnostics.chair_s, diagnostics.captions))


def _is_english(references: Sequence[Sequence[Words]], splitting: Splitting) -> bool:
    return splitting is TREEBANK or is_english(words for group in references for words in group)


def _demo_shares(
    captions: Sequence[str], records: Sequence[ImageRecord], data: DataSettings
) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """How often the captions of demo scenes get each part right, and the same for the control. None for other data."""
    if data.dataset != "demo":
        return None, None
    described = scenes.load_scenes(Path(data.data_dir))
    names = [record.file_name for record in records]
    shares, control = (
        scenes.score(dict(zip(names, texts, strict=True)), described, data.demo_language)
        for texts in (captions, shuffled(captions))
    )
    return shares, control


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_bleu(values: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    return _bleu([_mean(of_length) for of_length in zip(*values, strict=True)])


def _bleu(values: Sequence[float]) -> tuple[float, float, float, float]:
    one, two, three, four = values
    return one, two, three, four
