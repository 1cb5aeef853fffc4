"""Captions of a split with their scores: of each data set, and of several together. No Keras."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from captioning.metrics.judging import Sure
from captioning.reports.parts import Part
from captioning.reports.rows import ScoreRow
from captioning.reports.scoring import score, together, variety
from captioning.words.splitting import Splitting
from config import TOGETHER, Config, search_name

if TYPE_CHECKING:
    from model import Caption


@dataclass(frozen=True)
class Scoring:
    """What all scores of a captioner share.

    ``name``: of the captioner, in tables. ``training``: all training captions. ``tools``: the Java programs to use.
    ``sure_bounds``: ``right_cider`` and ``unsure_below`` of the captioner's confidence, or None if it has none.
    ``intervals``: whether the scores of the confidence get intervals. ``keeps_all``: whether all captions of each image
    count, not the best one alone.
    """

    name: str
    split: str
    protocol: str
    views: int
    training: Sequence[list[str]]
    tools: Sequence[str]
    splitting: Splitting
    sure_bounds: tuple[float, float] | None
    intervals: bool
    keeps_all: bool


@dataclass(frozen=True)
class Captioned:
    """The captions of one decoding for the N records of a part, and their scores.

    ``others``: with ``keeps_all`` all captions of each record, best first, and else none. ``cider``: the CIDEr-D of
    each caption, float64 ``(N,)``. ``sure``: the confidence of each caption and whether it is right, or None if the
    captioner has no confidence.
    """

    part: Part
    captions: list[str]
    others: list[list[str]]
    cider: np.ndarray
    sure: Sure | None
    row: ScoreRow


def judge(
    scoring: Scoring, part: Part, found: Sequence[Sequence["Caption"]], search: Config, seconds: float
) -> Captioned:
    """Score the captions of one data set. ``found``: those of each record, best first, which took ``seconds``."""
    from captioning.base.environment import describe

    said = [captions[0] for captions in found]
    captions = [caption.text for caption in said]
    others = [[caption.text for caption in captions] for captions in found] if scoring.keeps_all else []
    splitting = scoring.splitting
    scores, cider = score(
        captions, part.records, scoring.protocol, part.data, scoring.training, scoring.tools, splitting, part.outlined
    )
    sure = None
    if scoring.sure_bounds is not None:
        references = [[*map(splitting.split, record.captions)] for record in part.records]
        spoken = [*map(splitting.split, captions)]
        sure = Sure.of(scoring.sure_bounds, spoken, [caption.confidence for caption in said], references, cider)
    row = ScoreRow(
        captioner=scoring.name,
        split=scoring.split,
        protocol=scoring.protocol,
        decoding=search_name(search),
        dataset=part.name or None,
        views=scoring.views,
        scores=scores,
        confidence=sure.scores(scoring.intervals) if sure else None,
        variety=variety(others, part.records, splitting, part.outlined) if others else None,
        decoding_seconds=seconds,
        settings=search.model_dump() | {"consensus": search.votes},  # captions vote only with a beam size above 2
        environment=describe(search.seed),
    )
    return Captioned(part, captions, others, cider, sure, row)


def sure_of_all(found: Sequence[Captioned]) -> Sure | None:
    """The confidence in the captions of all data sets, if there is one."""
    return Sure.joined([each.sure for each in found if each.sure])


def row_of_all(found: Sequence[Captioned], scoring: Scoring) -> ScoreRow:
    """The scores of one decoding on several data sets together."""
    scored = [(each.captions, each.part.records, each.row.scores) for each in found]
    seconds = sum(each.row.decoding_seconds or 0 for each in found)
    outlined = None
    if any(each.part.outlined for each in found):
        outlined = [own for each in found for own in each.part.outlined or [frozenset()] * len(each.part.records)]
    scores = together(scored, scoring.training, scoring.tools, scoring.splitting, outlined)
    sure = sure_of_all(found)
    return replace(
        found[0].row,
        dataset=TOGETHER,
        scores=scores,
        attention=None,
        variety=None,  # each data set has CIDEr of its own
        confidence=sure.scores(scoring.intervals) if sure else None,
        decoding_seconds=seconds,
    )
