"""The report of an evaluation: one HTML file with scores, captioned pictures and curves. It needs no network. No Keras.

evaluate.py --report writes it from templates/report.html.j2. Captions and file names may come from anybody. So the
template escapes all text, and the page's Content-Security-Policy allows only its own script and no address. Pictures
are JPEG thumbnails inside the file, of at most 160 x 160 pixels. A photo takes about 7 kB. The page shows at most 1,000
images. If there are more, the shown ones are evenly spaced by CIDEr.
"""

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from captioning.base.json_files import load_json
from captioning.base.settings import shown
from captioning.data.records import ImageRecord
from captioning.reports.box_maps import BoxMaps
from captioning.reports.cards import examples, make_cards
from captioning.reports.charts import Chart, make_chart
from captioning.reports.curves import panels_of
from captioning.reports.diagram import architecture
from captioning.reports.rows import ScoreRow
from captioning.reports.tables import TITLES, blocked, confidence_text, variety_text
from captioning.storage.runs import Run
from config import Config

_MAPS = 2  # so many of the best, median and worst pictures have a map
_TEMPLATES = Path(__file__).parent / "templates"

# For each diagnostic: its title on the page, and its format.
DIAGNOSTICS = {
    "mean_length": ("words per caption", "{:.1f}"),
    "vocabulary": ("different words used", "{:,}"),
    "distinct": ("distinct captions", "{:.1%}"),
    "novel": ("novel: not among the training captions", "{:.1%}"),
    "most_common": ("share of the commonest caption", "{:.1%}"),
    "dangling": ("dangling: ending in a function word", "{:.1%}"),
    "chair_s": ("CHAIRs: captions with an object that is not there", "{:.1%}"),
    "chair_i": ("CHAIRi: objects that are not there, among all objects named", "{:.1%}"),
    "object_recall": ("objects recalled, of all that are there", "{:.1%}"),
    "repeats": ("a word twice in a row", "{:.1%}"),
    "repeated_bigrams": ("two words that occur again", "{:.1%}"),
    "repeated_trigrams": ("three words that occur again", "{:.1%}"),
    "shuffled_cider_d": ("CIDEr when each image gets its neighbour's caption", "{:.1f}"),
    "decoding_seconds": ("seconds to caption all, with compilation", "{:.1f}"),
}


@dataclass(frozen=True)
class Score:
    """A cell of the table of scores."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Table:
    """A table of texts. The first cell of a line is its title."""

    caption: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Robustness:
    """What the page tells of pictures that were made worse. ``of``: the data set of the curves, of several."""

    charts: Sequence[Chart]
    table: Table
    of: str = ""


def report(
    rows: Sequence[ScoreRow],
    predictions: Sequence[tuple[Sequence[str], np.ndarray]],
    records: Sequence[ImageRecord],
    config: Config,
    sizes: Mapping[str, float],
    run: Run,
    maps: BoxMaps | None = None,
    robustness: Robustness | None = None,
) -> str:
    """The page as HTML text.

    ``rows``: the coco scores of each decoding. ``predictions``: for each decoding the captions of N ``records``, and
    the CIDEr of each, float64 ``(N,)``. ``sizes``: the decoder's regions, feature_size and vocabulary_size. ``run``:
    the run folder. Without a history it gives no curves. ``maps``: draws where the captioner looked, if boxes are
    known. ``robustness``: what --corrupt measured, if it did. Raises UserError if the history is damaged.
    """
    decodings = [row.decoding for row in rows]
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8").strip()
    lengths = [row.coco.cider_d_by_reference_length for row in rows]
    cards = make_cards(decodings, predictions, records, config.workers)
    groups = examples(cards)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        captioner=rows[-1].captioner,
        split=rows[-1].split,
        images=rows[-1].scores.diagnostics.captions,
        dataset=rows[-1].dataset or shown(config.dataset),
        decoder=config.decoder,
        encoder=config.encoder_name if not config.features else f"none, features of {Path(config.features).name}",
        decodings=decodings,
        protocol=rows[-1].measure,
        written=time.strftime("%Y-%m-%d %H:%M"),
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8").strip()),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        scores=score_columns(rows),
        examples=groups,
        maps=maps.of_cards([card for group in groups for card in group.cards[:_MAPS]]) if maps else [],
        cards=cards,
        records=len(records),
        lengths=lengths,
        highest=max(group.score for groups in lengths for group in groups) or 1,
        diagnostics=diagnostics_table(rows),
        attention=[(row.decoding, row.attention) for row in rows if row.attention],
        confidence=[(row.decoding, confidence_text(row.confidence)) for row in rows if row.confidence],
        variety=[(row.decoding, variety_text(row.variety)) for row in rows if row.variety],
        training=training_of(run),
        robustness=robustness,
        architecture=Markup(
            architecture(config, int(sizes["regions"]), int(sizes["feature_size"]), int(sizes["vocabulary_size"]))
        ),
        settings=settings_tables(rows, config, run),
    )


def score_columns(rows: Sequence[ScoreRow]) -> dict[str, list[Score]]:
    """The columns of the table of scores. Each title has a cell for each decoding."""
    titles = {"bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3"} | TITLES
    columns: dict[str, list[Score]] = {}
    for name, title in titles.items():
        cells = []
        for row in rows:
            scores = row.coco
            value = scores.bleu[int(name[-1]) - 1] if name.startswith("bleu") else getattr(scores, name)
            if value is not None:
                cells.append(Score(value, getattr(scores.intervals, name, None)))
        if cells:
            columns[title] = cells
    return columns


def diagnostics_table(rows: Sequence[ScoreRow]) -> Table:
    """Measures that expose a bad captioner, with a column for each decoding."""
    found = [
        asdict(row.scores.diagnostics)
        | {"shuffled_cider_d": row.coco.shuffled_cider_d, "decoding_seconds": row.decoding_seconds}
        for row in rows
    ]
    lines = [
        [
            title,
            *(
                "-" if values[name] is None else form.format(values[name]) + blocked(row, name)
                for row, values in zip(rows, found, strict=True)
            ),
        ]
        for name, (title, form) in DIAGNOSTICS.items()
        if any(values[name] is not None for values in found)
    ]
    for name in rows[0].scores.demo or {}:
        shares = [(row.scores.demo or {})[name] for row in rows]
        lines.append([f"demo: {name.replace('_', ' ')}", *(f"{share:.1%}" for share in shares)])
    return Table("Measures that expose a bad captioner.", ["measure", *(row.decoding for row in rows)], lines)


@dataclass(frozen=True)
class Training:
    """What the page tells of a training."""

    charts: list[Chart]
    epochs: int
    minutes: float
    best: int  # epoch


def training_of(run: Run) -> Training | None:
    """The curves of a run, or None without a history."""
    history = run.history()
    if not history:
        return None
    best = run.state()["best_epoch"]
    epochs = [int(line["epoch"]) for line in history]
    charts = [chart for panel in panels_of(run) if (chart := make_chart(panel, epochs, best))]
    return Training(charts, len(history), sum(line["seconds"] for line in history) / 60, best)


def settings_tables(rows: Sequence[ScoreRow], config: Config, run: Run) -> list[Table]:
    """Tables of the settings that are not the defaults, and of what training and evaluation ran on."""
    defaults = Config().model_dump()
    changed = [
        [name, shown(value), shown(defaults[name])]
        for name, value in config.model_dump().items()
        if value != defaults[name]
    ]
    tables = [Table("Settings that are not the defaults.", ["setting", "here", "default"], changed)]
    for title, about in (("Training", _about(run)), ("Evaluation", rows[-1].environment)):
        if about:
            lines = [[name, _plain(value)] for name, value in about.items()]
            tables.append(Table(f"{title}: command, seed, commit, machine and versions.", [], lines))
    return tables


def _about(run: Run) -> dict[str, Any]:
    """The contents of about.json of a run. Empty if the file is missing or damaged."""
    try:
        about = load_json(run.folder / "about.json", dict)
        if "resumed" in about:
            about["resumed"] = [
                f"after epoch {each['after_epochs']}: {each['command']} ({each['started']}, commit "
                f"{each['git_commit']})"
                for each in about["resumed"]
            ]
        return about
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _plain(value: Any) -> str:
    """Lists and objects as plain words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
