"""Three images of a split with one caption each, and their scores. The image files do not exist."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from captioning.data.records import ImageRecord
from captioning.reports.rows import AttentionStatistics, ScoreRow
from captioning.reports.scoring import score
from config import Config


def record(image_id: int, *captions: str) -> ImageRecord:
    return ImageRecord(image_id, f"{image_id}.jpg", Path(f"{image_id}.jpg"), captions, "test")


RECORDS = [
    record(3, "one brown dog runs far"),
    record(7, "two cats sleep in bed"),
    record(9, "three birds sing at dawn"),
]
RIGHT = [record.captions[0] for record in RECORDS]


def row(
    protocol: str = "coco",
    decoding: str = "beam 3",
    settings: dict[str, Any] | None = None,
    attention: AttentionStatistics | None = None,
    diagnostics: dict[str, Any] | None = None,
    **changes: Any,
) -> ScoreRow:
    """The row of right captions, with some scores and diagnostics changed."""
    scores = score(RIGHT, RECORDS, protocol, Config())[0]
    scores = replace(scores, diagnostics=replace(scores.diagnostics, **diagnostics or {}), **changes)
    return ScoreRow(
        captioner="run-1",
        split="test",
        protocol=protocol,
        decoding=decoding,
        scores=scores,
        settings=settings,
        attention=attention,
    )
