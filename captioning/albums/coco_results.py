"""From an album's file into the format that COCO's evaluation server takes: a JSON list of image ids and captions."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioning.albums.captions import read_lines
from captioning.base.errors import UserError


def coco_ids(names: Sequence[str]) -> dict[str, int]:
    """The image id of each picture, by name: the number at the end of the name, as in COCO_test2014_000000000001.jpg.

    Raises UserError for a name without a number, and for two pictures with the same number.
    """
    ids: dict[str, int] = {}
    for name in names:
        number = re.search(r"(\d+)\.\w+$", name)
        if not number:
            raise UserError(
                f"--coco-results: {name} does not end in a number, which would be its image id; MS-COCO's own names do"
            )
        ids[name] = int(number[1])
    if len(set(ids.values())) < len(ids):
        twice = next(found for found, times in Counter(ids.values()).items() if times > 1)
        raise UserError(
            f"--coco-results: {twice} is the number of more than one picture; caption each part of COCO by itself"
        )
    return ids


def coco_results(names: Sequence[str], output: Path) -> list[dict[str, Any]]:
    """The best captions of the pictures ``names`` in the file ``output``: ``{"image_id", "caption"}``, by rising id."""
    ids = coco_ids(names)
    lines = (line for line in read_lines(output) if line["image"] in ids and line.get("captions"))
    found = [{"image_id": ids[line["image"]], "caption": line["captions"][0]["caption"]} for line in lines]
    return sorted(found, key=lambda entry: entry["image_id"])
