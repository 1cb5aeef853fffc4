"""The evaluation behind ``evaluate.py --corrupt``: which images, severity after severity, and the page. No Keras."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.progress import Progress
from captioning.base.trained import fingerprint
from captioning.pictures.corrupting import ALL, Corruption, parse_corruptions
from captioning.pictures.loading import PREPROCESSING
from captioning.reports.judged import Captioned, Scoring, judge, row_of_all
from captioning.reports.parts import NamedSet, Part, part_of
from captioning.reports.rows import label_of_search
from captioning.reports.written import write_best_captions
from captioning.robustness import captioned
from captioning.robustness.curves import severity_charts
from captioning.robustness.results import (
    Results,
    captions_name,
    chosen_captions,
    described,
    key_of,
    name_of,
    severest,
    severity_cells,
)
from config import TOGETHER, Config

if TYPE_CHECKING:
    from model import Captioner


def image_numbers(images: str | None) -> list[int]:
    """The numbers of ``--images``; none if all images are scored. Raises UserError."""
    parts = images.split(",") if images else []
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UserError(f"--images: {images} is no number of images; give one of 1 or more, such as 200")
    return [int(part) for part in parts]


def whole_parts(sets: Sequence[NamedSet], split: str, images: str | None) -> list[Part]:
    """The parts to score from pixels: for each data set the images of the split, or as many as ``images`` says."""
    numbers = image_numbers(images)
    if len(numbers) not in (0, 1, len(sets)):
        raise UserError(f"--images: {len(numbers)} numbers for {len(sets)} data sets; give one, or one for each")
    parts = []
    for place, named in enumerate(sets):
        records = named.dataset.split(split)
        count = min(len(records), (numbers * len(sets))[place] if numbers else len(records))
        parts.append(part_of(named, [records[n * len(records) // count] for n in range(count)]))
    return parts


def label_of_results(split: str, images: str | None, data_sets: Sequence[str], search: Config) -> str:
    """The label in the names of the files of ``--corrupt``."""
    alone = data_sets[0] if len(data_sets) == 1 else ""
    number = f"{images.replace(',', '+')}-images" if images else ""
    return "-".join(filter(None, (split, alone, number, label_of_search(search))))


def digest_of_results(models: Sequence[Path], scoring: Scoring, parts: Sequence[Part], search: Config) -> str:
    """A digest of all that the scores of ``--corrupt`` depend on, but for the corruption and the machine."""
    from captioning.features.store import digest_images

    decides = {
        "captioners": [fingerprint(path) for path in models],
        "views": scoring.views,
        "search": search.decoding(),
        "pixels": [PREPROCESSING, search.image_size, [each.key for each in parse_corruptions([ALL])]],
        "scoring": [scoring.protocol, *scoring.tools],
        "images": [digest_images((record.file_name, record.path) for record in part.records) for part in parts],
        "captions": [[record.captions for record in part.records] for part in parts],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:20]


def run_severities(
    captioner: "Captioner",
    scoring: Scoring,
    parts: Sequence[Part],
    search: Config,
    corruptions: Sequence[Corruption],
    results: Results,
) -> None:
    """Caption and score the clean pictures and each of ``corruptions``, and keep captions and rows in ``results``.

    What ``results`` have already is not done again.
    """
    todo = [each for each in (None, *corruptions) if not results.has(each)]
    for number, corruption in enumerate(todo, 1):
        what = f"{name_of(key_of(corruption))} ({number} of {len(todo)})"
        with Progress(what, sum(len(part.records) for part in parts)) as bar:
            found = [_caption(captioner, scoring, part, corruption, search, bar) for part in parts]
        for each in found:
            write_best_captions(each, captions_name(key_of(corruption), each.part.name), results.predictions)
        rows = [each.row for each in found]
        rows += [row_of_all(found, scoring)] if len(found) > 1 else []
        results.add(corruption, [replace(row, corruption=described(corruption, results.run)) for row in rows])


def _caption(
    captioner: "Captioner",
    scoring: Scoring,
    part: Part,
    corruption: Corruption | None,
    search: Config,
    bar: Progress,
) -> Captioned:
    """Caption the pictures of one data set that were made worse, and score the captions.

    Pictures that cannot be read are left out. Raises UserError if none can be read.
    """
    began = time.perf_counter()
    found = captioned.caption_pictures(captioner, part.records, corruption, search, bar)
    kept = [n for n, record in enumerate(part.records) if record.file_name in found]
    if not kept:
        raise UserError(f"{part.records[0].path.parent}: not one image of the split {scoring.split!r} can be read")
    if corruption is None and len(kept) < len(part.records):
        print(f"note: left out: {len(part.records) - len(kept)} images that cannot be read", file=sys.stderr)
    records = [part.records[n] for n in kept]
    outlined = part.outlined and [part.outlined[n] for n in kept]
    captions = [found[record.file_name] for record in records]
    readable = replace(part, records=records, outlined=outlined)
    return judge(scoring, readable, captions, search, time.perf_counter() - began)


def write_robustness_reports(
    results: Results, captioner: "Captioner", config: Config, run: Path, parts: Sequence[Part], stem: Path
) -> None:
    """Write the page of each data set. It shows the clean pictures, and of each kind the highest severity.

    ``config``: the settings of the evaluation. ``run``: the run folder. ``stem``: the path of the page without ending.
    """
    from captioning.reports.page import Robustness, Table, report
    from captioning.storage.runs import Run

    cells = severity_cells(results.rows)
    table = Table("Scores with 95% intervals.", list(cells[0]), [list(line.values()) for line in cells])
    of = f"{TOGETHER}: the data sets {' and '.join(results.data_sets)}" if len(parts) > 1 else ""
    shown = Robustness(severity_charts(results.of(None)), table, of)
    keys = [*severest(results.keys)]
    for part in parts:
        own = results.of(part.name)
        rows = [replace(own[key], decoding=f"{own[key].decoding}, {name_of(key)}") for key in keys]
        records, predictions = chosen_captions(results, keys, part.name, part.records)
        sizes = captioner.decoder.sizes
        page = report(rows, predictions, records, config, sizes, Run(run), robustness=shown)
        name = f"-{part.name}" if len(parts) > 1 else ""
        write(stem.with_name(f"{stem.name}{name}.html"), page)
