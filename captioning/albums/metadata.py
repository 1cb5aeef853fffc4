"""From an album's file into the metadata of its pictures, or into texts beside them: the best caption of each."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captioning.albums.captions import read_lines
from captioning.base.progress import Progress
from captioning.pictures.metadata import UnwritableMetadata, remove_unfinished


def write_metadata(
    folder: Path,
    names: Sequence[str],
    output: Path,
    write: Callable[[Path, str], str],
    workers: int,
    min_confidence: float = 0.0,
) -> Counter[str]:
    """Write the best captions in the file ``output`` into the metadata of the pictures ``names`` in ``folder``.

    ``write`` gets a picture and its caption: see ``pictures.metadata.write_caption`` and ``pictures.text_files``.
    ``workers`` threads write. ``min_confidence``: captions with a lower confidence are not written. Returns the number
    of pictures by outcome:

        embedded      the caption is inside the picture
        sidecar       the caption is in an XMP file beside the picture
        text          the caption is in a text beside the picture
        kept          the picture has a description or text of its own, which stays
        unsure        the caption has too low a confidence
        unreadable    the picture has no caption, because it cannot be read
        failed        the caption cannot be written; the reason is on stderr
    """
    wanted = set(names)
    for below in {(folder / name).parent for name in names}:
        remove_unfinished(below)
    lines = (line for line in read_lines(output) if line["image"] in wanted)

    def attempt(line: dict[str, Any]) -> str | UnwritableMetadata:
        if not line.get("captions"):
            return "unreadable"
        if line["captions"][0].get("confidence", 1.0) < min_confidence:
            return "unsure"
        try:
            return write(folder / line["image"], line["captions"][0]["caption"])
        except UnwritableMetadata as error:
            return error

    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(workers) as pool, Progress("metadata", len(wanted)) as progress:
        while group := list(islice(lines, 64)):
            for outcome in pool.map(attempt, group):
                if isinstance(outcome, UnwritableMetadata):
                    tqdm.write(f"error: {outcome}", file=sys.stderr)
                outcomes["failed" if isinstance(outcome, UnwritableMetadata) else outcome] += 1
            progress.update(len(group))
    return outcomes
