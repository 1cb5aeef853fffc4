"""Captions that were made, one for each image: read from files of many layouts, written in COCO's format.

What is written is a JSON list with one {"image_id", "caption"} for each image.

``image_id`` is that of ``ImageRecord``.

    predictions-test-beam3.json                       also "file_name", "cider": the CIDEr-D of this caption, and
                                                      "confidence" if the captioner gives one
    captions-test-beam10.jsonl                        several captions of each image, best first, of --variety
    captions_val2014_NAME-test-beam3_results.json     for COCO's evaluation server: COCO's image ids, no other keys
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.data.caption_files import CaptionedImage, read_captions
from captioning.data.names import match
from captioning.data.records import ImageRecord, Warts


def read_predictions(path: Path, records: Sequence[ImageRecord], warts: Warts | None = None) -> list[str]:
    """The captions of a file in the order of ``records``: one for each, of any layout that ``caption_files.py`` reads.

    Images are known by their names, or else by their ids, which may be written as text, or else by names that differ a
    little (``names.match``), or by the number at the end of a name. Raises UserError when the file cannot be read, when
    an image has several captions, and when its images are not exactly those of ``records``.
    """
    warts = Warts() if warts is None else warts
    found = read_captions(path, warts)
    captions = [_one_caption(image, path) for image in found]
    twice = [key for key, count in Counter(image.key for image in found).items() if count > 1]
    if twice:
        raise UserError(f"{path}: image {twice[0]} occurs twice; give one caption per image")
    best, notes = _paired(found, records)
    for what, examples in notes.items():
        warts[what].extend(examples)
    missing, others = len(records) - len(best), len(found) - len(best)
    if missing or others:
        lost = [record.file_name for i, record in enumerate(records) if i not in best][:1]
        further = [image.key for n, image in enumerate(found) if n not in best.values()][:1]
        examples = [f"{what} {name}" for what, names in (("without", lost), ("with", further)) for name in names]
        split = records[0].split
        where, inside = (f"the {split} split", "in the split") if split else ("the references", "among them")
        raise UserError(
            f"{path}: its images are not those of {where}: {missing} missing, {others} not {inside} (it is "
            f"{' and '.join(examples)}); give the --split that the file was made for, or another file"
        )
    return [captions[best[i]] for i in range(len(records))]


def _one_caption(image: CaptionedImage, path: Path) -> str:
    if len(image.captions) != 1 and not (image.ranked and image.captions):
        raise UserError(f"{path}: image {image.key} has {len(image.captions)} captions; give one caption per image")
    return image.captions[0]


# The place of a record -> the place of its image in a file; and what to tell of how they were matched.
_Pairs = tuple[dict[int, int], dict[str, list[str]]]


def _paired(found: Sequence[CaptionedImage], records: Sequence[ImageRecord]) -> _Pairs:
    """The first way of knowing images by which all are known on both sides, or else the best one."""
    best: _Pairs = ({}, {})
    for pairs in _ways(found, records):
        if len(pairs[0]) > len(best[0]):
            best = pairs
        if len(pairs[0]) == len(found) == len(records):
            break
    return best


def _ways(found: Sequence[CaptionedImage], records: Sequence[ImageRecord]) -> Iterator[_Pairs]:
    names = {record.file_name: i for i, record in enumerate(records)}
    ids = {str(record.image_id): i for i, record in enumerate(records)}
    numbers = {number: i for i, record in enumerate(records) if (number := _number(record.file_name))}
    yield _places(names, [image.name for image in found]), {}
    yield _places(ids, [image.id for image in found]), {}
    keys = [image.key for image in found]
    spelled, told = match(keys, names)
    notes = {what.replace("on disk", "of the data set"): examples for what, examples in told.items()}
    yield _places(names, [spelled.get(key, key) for key in keys]), notes
    note = {"images known by the numbers at the end of their names": keys}
    if len(numbers) == len(records):
        yield _places(numbers, [_number(key) for key in keys]), note
    yield _places(ids, [_number(key) for key in keys]), note


def _places(known: Mapping[str, int], keys: Sequence[str]) -> dict[int, int]:
    return {known[key]: n for n, key in enumerate(keys) if key in known}


def _number(name: str) -> str:
    """The number at the end of a name, such as "9" of COCO_val2014_000000000009.jpg; empty if there is none."""
    digits = re.search(r"(\d+)$", name.rpartition("/")[2].rpartition(".")[0] or name)
    return str(int(digits[1])) if digits else ""


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


def write_all_captions(
    folder: Path, name: str, records: Sequence[ImageRecord], captions: Sequence[Sequence[str]]
) -> None:
    """Write captions-NAME.jsonl into ``folder``: a line with all captions of each record, best first.

    Raises UserError.
    """
    lines = [
        json.dumps({"image": record.file_name, "captions": list(group)}, ensure_ascii=False) + "\n"
        for record, group in zip(records, captions, strict=True)
    ]
    write(folder / f"captions-{name}.jsonl", "".join(lines))


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
