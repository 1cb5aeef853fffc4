"""Captions in COCO's format: a JSON list of {"image_id", "caption"} with one entry for each image.

``image_id`` is that of the records (see ``datasets.ImageRecord``), or the image's file name.
"""

import json
from collections import Counter
from pathlib import Path

from captioning.base.errors import UserError
from captioning.data.records import ImageRecord


def read_predictions(path: Path, records: list[ImageRecord]) -> list[str]:
    """The captions of a COCO-style file in the order of ``records``.

    Raises UserError when it is not such a file or its images are not exactly those of ``records``.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = {entry["image_id"]: entry["caption"] for entry in entries}
        if not isinstance(entries, list) or not all(isinstance(caption, str) for caption in found.values()):
            raise TypeError("not a list, or a caption that is no text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: expected a JSON list of {{"image_id": ..., "caption": ...}} ({error!r})') from None
    if len(found) != len(entries):
        twice = [image for image, count in Counter(entry["image_id"] for entry in entries).items() if count > 1]
        raise UserError(f"{path}: image {twice[0]} occurs twice; give one caption per image")
    by_name = any(isinstance(image, str) for image in found)
    wanted = [record.file_name if by_name else record.image_id for record in records]
    missing, others = set(wanted) - set(found), set(found) - set(wanted)
    if missing or others:
        raise UserError(
            f"{path}: its images are not those of the {records[0].split or 'named'} split: {len(missing)} missing, "
            f"{len(others)} not in the split; name the --split that it is of"
        )
    return [found[image] for image in wanted]
