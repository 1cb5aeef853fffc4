"""Files of captions in COCO's format: a JSON list with one {"image_id", "caption"} for each image.

``image_id`` is that of ``ImageRecord`` or, in files from elsewhere, the file name of the image.

    predictions-test-beam3.json                       also "file_name", "cider": the CIDEr-D of this caption, and
                                                      "confidence" if the captioner gives one
    captions_val2014_NAME-test-beam3_results.json     for COCO's evaluation server: COCO's image ids, no other keys
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.json_files import load_json
from captioning.data.records import ImageRecord


def read_predictions(path: Path, records: Sequence[ImageRecord]) -> list[str]:
    """The captions of a file in the order of ``records``.

    Raises UserError when it is not such a file, and when its images are not exactly those of ``records``.
    """
    try:
        entries = load_json(path, list)
        found = {entry["image_id"]: entry["caption"] for entry in entries}
        if not all(isinstance(caption, str) for caption in found.values()):
            raise TypeError("a caption is not text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: expected a JSON list of {{"image_id": ..., "caption": ...}} ({error!r}); mend the file'
        ) from None
    if len(found) != len(entries):
        twice = [image for image, count in Counter(entry["image_id"] for entry in entries).items() if count > 1]
        raise UserError(f"{path}: image {twice[0]} occurs twice; give one caption per image")
    by_name = any(isinstance(image, str) for image in found)
    wanted = [record.file_name if by_name else record.image_id for record in records]
    missing, others = set(wanted) - set(found), set(found) - set(wanted)
    if missing or others:
        raise UserError(
            f"{path}: its images are not those of the {records[0].split or 'named'} split: {len(missing)} missing, "
            f"{len(others)} not in the split; give the --split that the file was made for"
        )
    return [found[image] for image in wanted]


def write_predictions(
    folder: Path,
    name: str,
    records: Sequence[ImageRecord],
    captions: Sequence[str],
    cider: Sequence[float],
    confidences: Sequence[float | None],
) -> None:
    """Write predictions-NAME.json into ``folder``: a caption of each record, its CIDEr-D and its confidence, if any.

    Raises UserError.
    """
    entries = [
        {"image_id": record.image_id, "file_name": record.file_name, "caption": caption, "cider": round(score, 2)}
        | ({} if confidence is None else {"confidence": round(confidence, 4)})
        for record, caption, score, confidence in zip(records, captions, cider, confidences, strict=True)
    ]
    write(folder / f"predictions-{name}.json", json.dumps(entries, indent=0, ensure_ascii=False) + "\n")


def write_coco_results(
    folder: Path, subset: str, name: str, records: Sequence[ImageRecord], captions: Sequence[str]
) -> None:
    """Write captions_SUBSET_NAME_results.json into ``folder``, as COCO's evaluation server takes it. Raises UserError.

    ``subset`` is the official subset that the images belong to, such as val2014.
    """
    entries = [
        {"image_id": record.image_id, "caption": caption} for record, caption in zip(records, captions, strict=True)
    ]
    name = re.sub(r"[^\w.-]+", "-", name)
    write(folder / f"captions_{subset}_{name}_results.json", json.dumps(entries) + "\n")
