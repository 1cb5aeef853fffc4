"""Temporary."""

import contextlib
import ctypes
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from captioning.data.records import CaptionDataset, ImageRecord


def put_aside(dataset: CaptionDataset) -> Callable[[], CaptionDataset]:
    """Write ``dataset`` down; what is returned makes it anew.

    Python gives memory back by the megabyte, and only where all of it is free. So what is to stay among much that goes is
    made anew once everything has gone, and what is to go behind what comes first: else that settles in its gaps. For the same
    reason all is written into one piece, and read one record after the other.
    """
    written = bytearray()
    for record in dataset.records:
        parts = (record.image_id, record.file_name, str(record.path), record.captions, record.split)
        written += json.dumps(parts).encode() + b"\n"
    bare = replace(dataset, records=())

    def make(image_id: int, name: str, path: str, captions: list[str], split: str) -> ImageRecord:
        return ImageRecord(image_id, name, Path(path), tuple(captions), sys.intern(split))

    return lambda: replace(bare, records=tuple(make(*json.loads(line)) for line in io.BytesIO(written)))


def _return_memory() -> None:
    """Have glibc give freed memory back to the system, which it otherwise keeps for itself."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
