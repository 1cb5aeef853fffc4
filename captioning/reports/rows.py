"""Rows of results. A row holds what evaluate.py measures on the captions of one decoding. No Keras.

scores-SPLIT-PROTOCOL.json, or scores-SPLIT-PROTOCOL-SPLITTING.json, is a JSON list of rows, one for each decoding. Each
row is one flat object: the fields of ``ScoreRow``. The fields of ``scores`` and of its ``diagnostics`` take the places
of these two. A field that is None has no key.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from captioning.base.errors import UserError
from captioning.base.json_files import load_json
from captioning.metrics.calibration import ConfidenceScores
from captioning.metrics.diagnostics import Diagnostics, LengthGroup
from captioning.metrics.protocols import measure
from captioning.metrics.significance import Intervals
from captioning.metrics.variety import Variety
from captioning.words.splitting import TREEBANK
from config import DecodingSettings

OUR_TREEBANK = "text.py"  # in files of scores: the splitting "treebank", by the name that its module once had
Bleu = tuple[float, float, float, float]  # BLEU-1 to BLEU-4


@dataclass(frozen=True, kw_only=True)
class CocoScores:
    """What the coco protocol measures. Scores are times 100.

    The ``shuffled_`` scores belong to a control, in which each image gets the caption of its neighbour. There a
    captioner that looks at the picture loses nearly all of its score.
    """

    bleu: Bleu
    rouge_l: float
    cider_d: float
    meteor: float | None = None
    spice: float | None = None
    tokenizer: str  # what split the captions: OUR_TREEBANK, "stanford", or another of our splittings by its name
    intervals: Intervals
    shuffled_bleu: Bleu
    shuffled_cider_d: float
    cider_d_by_reference_length: tuple[LengthGroup, ...]
    diagnostics: Diagnostics
    demo: dict[str, float] | None = None  # for demo scenes: the share of captions that get each part right
    shuffled_demo: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """What the seed protocol measures: its own kind of BLEU, times 100. The other fields are as in ``CocoScores``."""

    bleu: Bleu
    shuffled_bleu: Bleu
    diagnostics: Diagnostics
    demo: dict[str, float] | None = None
    shuffled_demo: dict[str, float] | None = None


Scores = CocoScores | SeedScores


@dataclass(frozen=True)
class AttentionStatistics:
    """How the decoder spreads its attention over the R regions, on average over the words."""

    entropy: float  # bits; with a sentinel only the share for the image counts
    maximum_entropy: float  # log2 R bits, reached by the same attention everywhere
    image_share: float | None = None  # what the sentinel leaves for the image; None without a sentinel


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """How the pictures of a row were made worse (see ``captioning/pictures/corrupting.py``)."""

    kind: str  # a kind of corruption, or "clean"
    severity: float  # 0 if they are clean
    meaning: str  # in words
    run: str  # digest of captioner, settings and images. Rows with the same digest belong together


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One captioner with one decoding on one split."""

    captioner: str
    split: str
    protocol: str
    decoding: str  # such as "greedy" or "beam 3"
    dataset: str | None = None  # one of several, or config.TOGETHER (see scoring.together); None for a single one
    views: int | None = None  # looks at each image; None for captions from elsewhere and in old files
    scores: Scores
    attention: AttentionStatistics | None = None
    confidence: ConfidenceScores | None = None  # None for captioners without one
    corruption: Corrupted | None = None  # None unless --corrupt made pictures worse
    variety: Variety | None = None  # of several captions of each image; None unless they were asked for
    decoding_seconds: float | None = None  # includes compilation
    settings: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None  # see captioning/base/environment.py

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def coco(self) -> CocoScores:
        """The scores of the coco protocol. Raises ValueError for a row of the seed protocol."""
        if not isinstance(self.scores, CocoScores):
            raise ValueError(f"the row has scores of the protocol {self.protocol}, not of coco")
        return self.scores

    @property
    def measure(self) -> str:
        """The protocol, and behind it the splitting unless it is that of the published protocol."""
        split = self.scores.tokenizer if isinstance(self.scores, CocoScores) else OUR_TREEBANK
        return measure(self.protocol, TREEBANK.name if split in (OUR_TREEBANK, "stanford") else split)

    def to_json(self) -> dict[str, Any]:
        """The row as one flat object."""
        return _flat(self)


def label_of(row: ScoreRow, search: DecodingSettings) -> str:
    """The label in the names of the files of one decoding. They belong to one data set, or to several together."""
    return "-".join(filter(None, (row.split, row.dataset, label_of_search(search))))


def label_of_search(search: DecodingSettings) -> str:
    """What tells decodings apart in the names of files."""
    return "-".join(
        filter(
            None,
            (
                "drawn" if search.do_sample else f"beam{search.beam_size}",
                f"groups{search.beam_groups}" if search.beam_groups > 1 else "",
                "consensus" if search.votes else "",
                "constrained" if search.is_constrained else "",
            ),
        )
    )


def rows_text(rows: Sequence[ScoreRow]) -> str:
    """The text of a file of rows."""
    return json.dumps([row.to_json() for row in rows], indent=2) + "\n"


def read_rows(path: Path) -> list[ScoreRow]:
    """The rows in a file. Raises UserError if it is missing or damaged."""
    try:
        entries = load_json(path, list)
        return [_ROW.validate_python(_nested(entry)) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: expected a JSON list of scores as evaluate.py writes it ({error}); let evaluate.py write it again"
        ) from None


_ROW = TypeAdapter(ScoreRow)
_SPREAD = (CocoScores, SeedScores, Diagnostics)  # a row takes over the fields of these


def _flat(part: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, _SPREAD):
            found |= _flat(value)
        elif value is not None:
            found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return _flat(value)
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _nested(entry: dict[str, Any]) -> dict[str, Any]:
    """Undo ``_flat``: move the fields of the scores and of the diagnostics into objects of their own."""
    kind = CocoScores if "cider_d" in entry else SeedScores
    rest = dict(entry)
    diagnostics = {field.name: rest.pop(field.name) for field in fields(Diagnostics) if field.name in rest}
    scores = {field.name: rest.pop(field.name) for field in fields(kind) if field.name in rest}
    return rest | {"scores": scores | {"diagnostics": diagnostics}}
