"""The results of ``evaluate.py --corrupt``: kept after each severity, so that an interrupted evaluation goes on.

    robustness-LABEL.json           the rows of all severities, as captioning/reports/rows.py describes them
    robustness-LABEL.md             the same as a table
    robustness-LABEL.png, .svg      the curves
    robustness-LABEL.html           the report, with --report
    robustness-LABEL/predictions-blur-3.json        the captions of one severity (captioning/data/predictions.py).
                                                    With several data sets: predictions-NAME-blur-3.json

No Keras.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import alone_with, write
from captioning.base.json_files import load_json
from captioning.data.records import ImageRecord
from captioning.pictures.corrupting import KINDS, Corruption
from captioning.reports.rows import Corrupted, ScoreRow, read_rows, rows_text
from captioning.reports.tables import markdown
from config import TOGETHER

CLEAN = "clean"  # what pictures are called that stay as they are
Key = tuple[str, float]  # kind and severity
# For each measure: its title, and its unit.
MEASURES = {
    "cider": ("CIDEr", ""),
    "bleu4": ("BLEU-4", ""),
    "chair_s": ("CHAIRs", "%"),
    "right": ("right", "%"),
    "confidence": ("confidence", "%"),
    "auroc": ("AUROC", ""),
    "ece": ("ECE", ""),
}
Measured = tuple[float, tuple[float, float] | None]  # a figure and its 95% interval


def key_of(corruption: Corruption | None) -> Key:
    """The kind and the severity of a corruption, or those of clean pictures."""
    return (corruption.kind, corruption.severity) if corruption else (CLEAN, 0)


def name_of(key: Key) -> str:
    """What a severity is called, such as "blur 3" or "clean"."""
    kind, severity = key
    return f"{kind} {severity:g}" if severity else kind


def captions_name(key: Key, data_set: str) -> str:
    """The NAME in predictions-NAME.json of the captions of one data set, such as "people-blur-3"."""
    return "-".join(filter(None, (data_set, name_of(key).replace(" ", "-"))))


def described(corruption: Corruption | None, run: str) -> Corrupted:
    """What a row says of a corruption. ``run``: the digest of the results that it belongs to."""
    kind, severity = key_of(corruption)
    meaning = corruption.meaning if corruption else "as it is"
    return Corrupted(kind=kind, severity=severity, meaning=meaning, run=run)


class Results:
    """The rows of one captioner, decoding and choice of images, by kind and severity."""

    def __init__(self, output: Path, label: str, run: str, data_sets: Sequence[str]):
        """``output`` and ``label``: where the files are. ``run``: digest of all that the results depend on.

        ``data_sets``: the names of the scored data sets; a single empty name for a single data set. Results of another
        run are left out, and they are overwritten. Raises UserError if the file is damaged.
        """
        self.path = output / f"robustness-{label}.json"
        self.predictions = output / f"robustness-{label}"
        self.run, self.data_sets = run, data_sets
        self._rows: dict[Key, list[ScoreRow]] = {}
        if not self.path.exists():
            return
        try:
            found = read_rows(self.path)
        except UserError as error:
            raise UserError(f"{error}, after you have deleted this file") from None
        for row in found:
            if row.corruption and row.corruption.run == run:
                self._rows.setdefault((row.corruption.kind, row.corruption.severity), []).append(row)
        if not self._rows:
            print(f"note: {self.path}: is of another captioner, settings or images, and is replaced", file=sys.stderr)

    @staticmethod
    @contextmanager
    def alone(output: Path, label: str) -> Iterator[None]:
        """Keep other evaluations away from these files. Raises UserError if one writes them now."""
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{output}: cannot be written ({error.strerror}); choose another place") from None
        refusal = "another evaluation writes it now; wait until that is done, or name another --output"
        with alone_with(output / f"robustness-{label}.json", refusal):
            yield

    def has(self, corruption: Corruption | None) -> bool:
        """Whether this severity is done, with its captions."""
        key = key_of(corruption)
        return key in self._rows and all(self._file(key, name).is_file() for name in self.data_sets)

    def add(self, corruption: Corruption | None, rows: Sequence[ScoreRow]) -> None:
        """Keep the rows of a severity: of each data set, and of several together. Raises UserError."""
        self._rows[key_of(corruption)] = list(rows)
        write(self.path, rows_text(self.rows))

    def captions(self, key: Key, data_set: str) -> dict[str, tuple[str, float]]:
        """The caption of each image of a data set and its CIDEr, by file name. Raises UserError."""
        path = self._file(key, data_set)
        try:
            return {each["file_name"]: (each["caption"], each["cider"]) for each in load_json(path, list)}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: damaged ({error}); delete it and run the same command") from None

    @property
    def rows(self) -> list[ScoreRow]:
        """All rows: clean pictures first, then by kind and severity."""
        return [row for key in self.keys for row in self._rows[key]]

    @property
    def keys(self) -> list[Key]:
        """What is done, in this order."""
        kinds = [CLEAN, *KINDS]
        return sorted(self._rows, key=lambda key: (kinds.index(key[0]), key[1]))

    def of(self, data_set: str | None) -> dict[Key, ScoreRow]:
        """The row of each severity of one data set. None: that of all together, or of the only one."""
        wanted = data_set or (TOGETHER if len(self.data_sets) > 1 else self.data_sets[0] or None)
        return {key: row for key in self.keys for row in self._rows[key] if row.dataset == wanted}

    def _file(self, key: Key, data_set: str) -> Path:
        return self.predictions / f"predictions-{captions_name(key, data_set)}.json"


def chosen_captions(
    results: Results, keys: Sequence[Key], data_set: str, records: Sequence[ImageRecord]
) -> tuple[list[ImageRecord], list[tuple[list[str], np.ndarray]]]:
    """The records that have captions, and for each of ``keys`` the captions and their CIDEr float64 ``(N,)``."""
    found = [results.captions(key, data_set) for key in keys]
    kept = [record for record in records if all(record.file_name in captions for captions in found)]
    return kept, [
        (
            [captions[record.file_name][0] for record in kept],
            np.array([captions[record.file_name][1] for record in kept], np.float64),
        )
        for captions in found
    ]


def measured(row: ScoreRow) -> dict[str, Measured]:
    """The figures of a row, by the keys of ``MEASURES``. Shares are in percent. What is not known is left out."""
    scores, sure = row.coco, row.confidence
    found: dict[str, Measured] = {
        "cider": (scores.cider_d, scores.intervals.cider_d),
        "bleu4": (scores.bleu[3], scores.intervals.bleu4),
    }
    if scores.diagnostics.chair_s is not None:
        found["chair_s"] = _percent(scores.diagnostics.chair_s, scores.intervals.chair_s)
    if sure is None:
        return found
    bounds = sure.intervals
    found["right"] = _percent(sure.right, bounds.right if bounds else None)
    if sure.mean is not None:
        found["confidence"] = _percent(sure.mean, bounds.mean if bounds else None)
    if sure.auroc is not None:
        found["auroc"] = (sure.auroc, bounds.auroc if bounds else None)
    found["ece"] = (sure.ece, bounds.ece if bounds else None)
    return found


def _percent(share: float, interval: tuple[float, float] | None) -> Measured:
    return 100 * share, interval and (100 * interval[0], 100 * interval[1])


def severity_cells(rows: Sequence[ScoreRow]) -> list[dict[str, str]]:
    """The cells of a table of severities, one row after the other, by column."""
    found = [measured(row) for row in rows]
    shown = [name for name in MEASURES if any(name in each for each in found)]
    lines = []
    for row, figures in zip(rows, found, strict=True):
        corruption = row.corruption
        cells = {"data set": row.dataset} if row.dataset else {}
        if corruption:
            name = name_of((corruption.kind, corruption.severity))
            cells |= {"pictures": name, "what it does": corruption.meaning}
        cells["images"] = f"{row.scores.diagnostics.captions:,}"
        lines.append(cells | {MEASURES[name][0]: _shown(name, figures.get(name)) for name in shown})
    return lines


def _shown(name: str, figure: Measured | None) -> str:
    """A figure with its interval."""
    if figure is None:
        return "-"
    value, interval = figure
    digits, unit = (3, "") if name in ("auroc", "ece") else (1, MEASURES[name][1])
    text = f"{value:.{digits}f}{unit}"
    return text + (f" ({interval[0]:.{digits}f}-{interval[1]:.{digits}f})" if interval else "")


def table_text(rows: Sequence[ScoreRow]) -> str:
    """The results as a Markdown table, under the captioner and the decoding."""
    first = rows[0]
    head = f"{first.captioner}, {first.split}, protocol {first.measure}. In parentheses: 95% intervals over the images.\n\n"
    return head + markdown(severity_cells(rows))


def severest(keys: Sequence[Key]) -> Iterator[Key]:
    """Clean pictures, and of each kind the highest severity."""
    for kind in dict.fromkeys(kind for kind, _ in keys):
        yield max(key for key in keys if key[0] == kind)
