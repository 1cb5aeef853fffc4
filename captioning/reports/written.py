"""The files of an evaluation: captions, scores, drawings and pages. No Keras."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.data.predictions import write_all_captions, write_coco_results, write_predictions
from captioning.metrics.judging import Sure
from captioning.reports.judged import Captioned
from captioning.reports.reliability import confidence_figure
from captioning.reports.rows import ScoreRow, label_of, rows_text
from captioning.reports.tables import score_table
from config import Config

if TYPE_CHECKING:
    from model import Captioner


def write_captions(captioned: Captioned, search: Config, output: Path) -> None:
    """Write the captions of one data set into ``output``: as predictions, and for MS-COCO also for its server."""
    part, row = captioned.part, captioned.row
    label = label_of(row, search)
    write_best_captions(captioned, label, output)
    if captioned.others:
        write_all_captions(output, label, part.records, captioned.others)
    draw_confidence(captioned.sure, label, output)
    if part.subset:
        write_coco_results(output, part.subset, f"{row.captioner}-{label}", part.records, captioned.captions)


def write_best_captions(captioned: Captioned, label: str, output: Path) -> None:
    """Write the best captions of one data set into ``output`` as predictions, with CIDEr and confidence of each."""
    sure, captions = captioned.sure, captioned.captions
    confidences = sure.confidence.tolist() if sure else [None] * len(captions)
    write_predictions(output, label, captioned.part.records, captions, captioned.cider.tolist(), confidences)


def draw_confidence(sure: Sure | None, label: str, output: Path) -> None:
    """Draw how good a confidence is as confidence-LABEL.png in ``output``, if there is one. Raises UserError."""
    if sure is None:
        return
    path = output / f"confidence-{label}.png"
    try:
        output.mkdir(parents=True, exist_ok=True)
        title = f"Confidence of {len(sure.right):,} captions"
        confidence_figure(sure.confidence, sure.right, title).savefig(path, dpi=110)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def write_reports(
    found: Sequence[Sequence[Captioned]], captioner: "Captioner", config: Config, run: Path, output: Path
) -> None:
    """Write the page of each data set into ``output``. ``found``: for each decoding the captions of each data set.

    ``config``: the settings of the evaluation. ``run``: the run folder.
    """
    from captioning.features.region_store import RegionStore
    from captioning.reports.box_maps import BoxMaps
    from captioning.reports.page import report
    from captioning.storage.runs import Run

    for decodings in zip(*found, strict=True):
        part = decodings[0].part
        rows = [each.row for each in decodings]
        predictions = [(each.captions, each.cider) for each in decodings]
        store, maps = part.stores[0], None
        if isinstance(store, RegionStore) and store.has_boxes and captioner.attends:
            maps = BoxMaps(captioner, store, part.records)
        sizes = captioner.decoder.sizes
        page = report(rows, predictions, part.records, config, sizes, Run(run), maps)
        write(output / f"report{'-' * bool(part.name)}{part.name}.html", page)


def write_scores(rows: Sequence[ScoreRow], output: Path) -> None:
    """Print the table of scores, and write the rows and the table into ``output``. Raises UserError."""
    text = score_table(rows)
    print(text, end="")
    data_sets = {row.dataset for row in rows if row.dataset}
    alone = data_sets if len(data_sets) == 1 else set()  # only one of the several data sets of a run was scored
    name = "-".join(["scores", rows[0].split, *alone, rows[0].measure])
    write(output / f"{name}.json", rows_text(rows))
    write(output / f"{name}.md", text)
