"""What the finished trainings of a sweep scored, read from their run folders. No Keras and no data set.

A row of the table is one row of the sweep with one decoding on one data set. Its figures are means over its seeds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import numpy as np

from captioning.base.errors import UserError
from captioning.base.json_files import read_json
from captioning.command_line.reading import read_settings
from captioning.metrics.significance import Interval, Seeds, holm
from captioning.reports.rows import CocoScores, ScoreRow, label_of, read_rows
from captioning.storage.runs import Run
from config import TOGETHER

_ADVICE = "let evaluate.py write it again"


class Place(NamedTuple):
    """What the scores of a row belong to: a data set, empty if there is only one, and a decoding."""

    dataset: str
    decoding: str


@dataclass(frozen=True)
class Scored:
    """One training, by one decoding on one data set.

    ``cider``: the CIDEr-D of each image by its name, for each data set. ``words_per_second``: in training, the median
    over its epochs; None if its history has none.
    """

    folder: Path
    row: ScoreRow
    cider: Mapping[str, Mapping[str, float]]
    words_per_second: float | None


@dataclass(frozen=True)
class Comparison:
    """A row less the baseline in CIDEr. ``p`` is adjusted for the number of comparisons in the same place."""

    difference: float
    interval: Interval
    p: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row of the table. Figures are means over the seeds; scores are times 100."""

    row: str
    place: Place
    protocol: str
    seeds: int
    images: int
    cider: float
    interval: Interval
    deviation: float | None  # standard deviation of CIDEr over the seeds; None with one seed
    comparison: Comparison | None  # None for the baseline, and where there is none
    bleu4: float
    chair_s: float | None
    distinct: float
    vocabulary: float
    words_per_second: float | None
    captions_per_second: float | None


def summaries(runs: Mapping[str, Sequence[Path]], split: str, baseline: str | None) -> list[Summary]:
    """The rows of the table, in the order of ``runs``: the folders of the finished runs of each row.

    Raises UserError when files are missing or damaged, or when the runs are not about the same images.
    """
    scored = {row: [_read(folder, split) for folder in folders] for row, folders in runs.items()}
    places = dict.fromkeys(place for trainings in scored.values() for training in trainings for place in training)
    found = []
    for place in places:
        of_rows = {
            row: own
            for row, trainings in scored.items()
            if (own := [each[place] for each in trainings if place in each])
        }
        seeds = _aligned(of_rows)
        compared = _compared(seeds, baseline)
        found += [_summary(row, place, own, seeds[row], compared.get(row)) for row, own in of_rows.items()]
    return found


def score_files(folder: Path, split: str) -> list[Path]:
    """The files in the run ``folder`` with scores of ``split`` by the coco protocol, of any splitting of captions."""
    return sorted((folder / "evaluation").glob(f"scores-{split}-*coco*.json"))


def _read(folder: Path, split: str) -> dict[Place, Scored]:
    """The scores of a run on ``split``, by place. Raises UserError."""
    rows = [row for path in score_files(folder, split) for row in read_rows(path) if isinstance(row.scores, CocoScores)]
    speeds = [line["words_per_second"] for line in Run(folder).history() if "words_per_second" in line]
    speed = median(speeds) if speeds else None
    found: dict[Place, Scored] = {}
    alone: dict[Place, Mapping[str, float]] = {}
    for row in rows:
        place = Place(row.dataset or "", row.decoding)
        if row.dataset != TOGETHER:
            alone[place] = _cider(folder, row)
    for row in rows:
        place = Place(row.dataset or "", row.decoding)
        parts = {other.dataset: own for other, own in alone.items() if other.decoding == row.decoding}
        cider = parts if row.dataset == TOGETHER else {place.dataset: alone[place]}
        found[place] = Scored(folder, row, cider, speed)
    return found


def _cider(folder: Path, row: ScoreRow) -> dict[str, float]:
    """The CIDEr-D of each image, from the file of the predictions that ``row`` scores. Raises UserError."""
    search = read_settings(json.dumps(row.settings or {}), f"{folder}: the settings of its scores")
    path = folder / "evaluation" / f"predictions-{label_of(row, search)}.json"
    try:
        entries = read_json(path, _ADVICE, list)
        return {str(entry["file_name"]): float(entry["cider"]) for entry in entries}
    except FileNotFoundError:
        raise UserError(f"{path}: missing, and its scores are there; {_ADVICE}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged (an entry without file_name and cider: {error}); {_ADVICE}") from None


def _aligned(of_rows: Mapping[str, Sequence[Scored]]) -> dict[str, Seeds]:
    """The CIDEr-D of each row, with the images in one order. Raises UserError unless all are about the same images."""
    first = next(iter(of_rows.values()))[0]
    for scored in (each for own in of_rows.values() for each in own):
        if scored.row.measure != first.row.measure:
            raise UserError(
                f"{scored.folder}: is scored by the protocol {scored.row.measure}, and {first.folder} by "
                f"{first.row.measure}; these cannot be compared"
            )
    names = {dataset: sorted(images) for dataset, images in first.cider.items()}
    for scored in (each for own in of_rows.values() for each in own):
        if {dataset: sorted(images) for dataset, images in scored.cider.items()} != names:
            raise UserError(
                f"{scored.folder}: its {scored.row.split} images are not those of {first.folder}; compare runs on the "
                "same images"
            )
    return {
        row: Seeds(
            tuple(
                np.array([[each.cider[part][name] for name in order] for each in own]) for part, order in names.items()
            )
        )
        for row, own in of_rows.items()
    }


def _compared(seeds: Mapping[str, Seeds], baseline: str | None) -> dict[str, Comparison]:
    """How each row but the ``baseline`` differs from it, if that is there."""
    base = seeds.get(baseline or "")
    others = [row for row in seeds if row != baseline] if base else []
    if not base or not others:
        return {}
    ps = holm([base.p(seeds[row]) for row in others])
    return {
        row: Comparison(seeds[row].mean - base.mean, base.difference(seeds[row]), p)
        for row, p in zip(others, ps, strict=True)
    }


def _summary(row: str, place: Place, own: Sequence[Scored], seeds: Seeds, comparison: Comparison | None) -> Summary:
    diagnostics = [each.row.scores.diagnostics for each in own]
    ciders = [each.row.coco.cider_d for each in own]
    rates = [
        each.row.scores.diagnostics.captions / each.row.decoding_seconds for each in own if each.row.decoding_seconds
    ]
    return Summary(
        row=row,
        place=place,
        protocol=own[0].row.measure,
        seeds=len(own),
        images=diagnostics[0].captions,
        cider=mean(ciders),
        interval=seeds.interval(),
        deviation=stdev(ciders) if len(ciders) > 1 else None,
        comparison=comparison,
        bleu4=mean(each.row.coco.bleu[3] for each in own),
        chair_s=_mean([found.chair_s for found in diagnostics]),
        distinct=mean(found.distinct for found in diagnostics),
        vocabulary=mean(found.vocabulary for found in diagnostics),
        words_per_second=_mean([each.words_per_second for each in own]),
        captions_per_second=_mean(rates),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of ``values``; None if one is missing."""
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
