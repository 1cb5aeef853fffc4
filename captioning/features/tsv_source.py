"""Region features in the tables of bottom-up attention (Anderson et al., 2018, https://arxiv.org/abs/1707.07998).

A line is an image. Its fields, between tabs, are image_id, image_w, image_h, num_boxes, boxes and features. The last
two are float32 (little-endian) in base64: boxes ``(num_boxes, 4)`` in pixels, and features ``(num_boxes, D)``. The
published tables come in several files. No Keras.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.base.progress import Progress
from captioning.features.region_sources import Outline, Source, Unusable, as_regions, with_boxes

_FIELDS = 6
_LONGEST = 1 << 28  # bytes of a line; a published one has a megabyte


@dataclass(frozen=True)
class _Line:
    """Where a line is, and its first five fields."""

    path: Path
    start: int  # of the line, in bytes
    fields: tuple[bytes, ...]
    encoded: int  # bytes of the sixth field


class TsvSource(Source):
    """One or several tables. Of several lines for an image the first one counts."""

    layout = "tsv"

    def __init__(self, place: Path, paths: Sequence[Path]):
        """``place``: the table, or the folder that holds the tables ``paths``."""
        self.place, self.paths = place, sorted(paths)

    @cached_property
    def keys(self) -> Mapping[str, _Line]:
        """The line of each image. All tables are read through once. Raises UserError for what is no such table."""
        found: dict[str, _Line] = {}
        total = sum(path.stat().st_size for path in self.paths)
        with Progress("reading tables", total, "B", last=False) as progress:
            for path in self.paths:
                with open(path, "rb") as file:
                    start = number = 0
                    while line := file.readline(_LONGEST):
                        number += 1
                        if not line.strip():
                            start += len(line)
                            continue
                        fields = line.rstrip(b"\r\n").split(b"\t")
                        if len(fields) != _FIELDS:
                            raise UserError(
                                f"features: {path}: line {number} has {len(fields)} fields between tabs, and a line of "
                                "bottom-up features has 6; the file is cut short, damaged or another table"
                            )
                        key = fields[0].decode("ascii", "replace").strip()
                        key = str(int(key)) if key.isdigit() else Path(key).stem
                        found.setdefault(key, _Line(path, start, tuple(fields[:-1]), len(fields[-1])))
                        start += len(line)
                        progress.update(len(line))
        return found

    def outline(self, key: str) -> Outline:
        line = self.keys[key]
        try:
            across, down, count = (int(field) for field in line.fields[1:4])
        except ValueError:
            raise Unusable("its image_w, image_h and num_boxes are no whole numbers") from None
        if min(across, down, count) < 1:
            raise Unusable(f"has image_w {across}, image_h {down} and num_boxes {count}; all must be above 0")
        width = line.encoded // 4 * 3 // 4 // count  # base64 has four letters for three bytes, and rounds up
        if not width or -(-4 * count * width // 3) * 4 != line.encoded:
            raise Unusable(f"is cut short or damaged: its features are not those of {count} boxes")
        boxes = _floats(line.fields[4], "boxes")
        if len(boxes) != 4 * count:
            raise Unusable(f"is cut short or damaged: {len(boxes)} numbers for {count} boxes")
        return with_boxes(Outline(count, width), boxes.reshape(count, 4), (across, down))

    def read(self, key: str) -> np.ndarray:
        line = self.keys[key]
        try:
            with open(line.path, "rb") as file:
                file.seek(line.start)
                text = file.readline(_LONGEST).rstrip(b"\r\n").split(b"\t")[-1]
        except OSError as error:
            raise Unusable(f"cannot be read ({error.strerror})") from None
        features, count = _floats(text, "features"), int(line.fields[3])
        if len(features) % count:
            raise Unusable(f"is cut short or damaged: its features are not those of {count} boxes")
        return as_regions(features.reshape(count, -1))


def _floats(text: bytes, what: str) -> np.ndarray:
    """The numbers in a field. Raises Unusable."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise Unusable(f"its {what} cannot be read ({error})") from None
