"""The record that every reader gives, and how it is joined from captions, splits and image files."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from captioning.base.errors import UserError
from config import Config

SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {"train": "train", "dev": "dev", "val": "dev", "validation": "dev", "test": "test"}


class Warts(defaultdict[str, list[str]]):
    """What was wrong, in words, to the examples of it: one warning line each."""

    def __init__(self):
        super().__init__(list)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image with its captions.

    image_id: of MS-COCO the official id; else the position, from 0, among the sorted file names of the captions file. A
        file missing on disk shifts no id.
    file_name: as the captions file spells it; unique; the key in the feature store.
    captions: one or more, in the order of the captions file, stripped of outer white space only.
    split: "train", "dev", "test", or "" for an image in no split.
    """

    image_id: int
    file_name: str
    path: Path
    captions: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class CaptionDataset:
    """All usable images, sorted by file name, and one line for each kind of wart that was met in reading them.

    ``coco_subsets``: of MS-COCO, for each split whose images are all in one official subset, that one ("val2014").
    """

    name: str
    records: tuple[ImageRecord, ...]
    warnings: tuple[str, ...]
    coco_subsets: Mapping[str, str] = field(default_factory=dict)

    def split(self, name: str) -> list[ImageRecord]:
        """The records of "train", "dev" (or "val", "validation") or "test". Raises UserError: unknown or empty."""
        if name.startswith("val") and self.coco_subsets.get("dev", "").startswith("train"):
            raise UserError(
                "split: all of COCO's val is the split test here, and dev is part of train; say test or dev"
            )
        found = [record for record in self.records if record.split == SPLIT_NAMES.get(name)]
        if not found:
            sizes = Counter(record.split for record in self.records)
            there = (
                ", ".join(f"{split} ({sizes[split]} images)" for split in SPLITS if sizes[split]) or "no split at all"
            )
            raise UserError(f"split: data set {self.name} has no images in split {name!r}; it has {there}")
        return found


def join(
    dataset: str,
    captions: Mapping[str, list[str]],
    splits: Mapping[str, str],
    images: Mapping[str, Path],
    folder: str,
    warts: Warts,
    ids: Mapping[str, int] | None = None,
    coco_subsets: Mapping[str, str] | None = None,
) -> CaptionDataset:
    """Join captions, splits, image paths and ``ids``, all by file name, and note what does not fit.

    ``folder`` says where the images were looked for. Raises UserError when no image is left, or two share an id.
    """
    shared = [image_id for image_id, times in Counter((ids or {}).values()).items() if times > 1]
    if shared:
        raise UserError(
            f"data_dir: the captions files of {dataset} give id {shared[0]} to more than one image; mend them"
        )
    records = []
    for position, name in enumerate(sorted(captions)):
        kept = [caption.strip() for caption in captions[name] if caption.strip()]
        warts["empty captions (dropped)"].extend([name] * (len(captions[name]) - len(kept)))
        if len(set(kept)) < len(kept):
            repeated = [caption for caption, times in Counter(kept).items() for _ in range(times - 1)]
            warts["captions that repeat another of the same image (kept)"].extend(
                f"{name}: {text}" for text in repeated
            )
        warts["captions of a single word (kept)"].extend(f"{name}: {text}" for text in kept if len(text.split()) == 1)
        split = splits.get(name, "")
        if not kept:
            what = "with empty captions only" if captions[name] else "listed without captions"
            warts[f"images {what} (dropped)"].append(name)
        elif name not in images:
            where = f"of split {split}" if split else "in no split"
            warts[f"images {where} with captions but no file in {folder} (dropped)"].append(name)
        else:
            image_id = position if ids is None else ids[name]
            records.append(ImageRecord(image_id, name, images[name], tuple(kept), split))
    if not records:
        raise UserError(
            f"data_dir: {len(images)} images were found in {folder}, and none of the {len(captions)} that have captions "
            f"is among them with a caption that is not empty; the first one looked for is {min(captions, default='')!r}"
        )
    warts[f"images in {folder} without captions (left out)"].extend(sorted(images.keys() - captions.keys()))
    warnings = [
        f"{what}: {len(examples)}, e.g. {'; '.join(examples[:3])}" for what, examples in warts.items() if examples
    ]
    return CaptionDataset(dataset, tuple(records), tuple(warnings), coco_subsets or {})


def draw_splits(names: list[str], config: Config) -> dict[str, str]:
    """Splits of the sorted ``names``, drawn by ``split_seed``. Raises UserError when there are too few.

    All captioned images take part, also those missing on disk, so that a missing file moves no other image from one
    split to another.
    """
    shuffled = names.copy()
    random.Random(config.split_seed).shuffle(shuffled)
    splits = {}
    for split, fraction in (("dev", config.dev_fraction), ("test", config.test_fraction)):
        for _ in range(max(1, round(fraction * len(names))) if fraction else 0):
            if len(shuffled) == 1:
                raise UserError(
                    f"captions_file: {len(names)} images are too few to draw splits from; add images, give a split for "
                    "each, or set dev_fraction and test_fraction to 0"
                )
            splits[shuffled.pop()] = split
    return splits | dict.fromkeys(shuffled, "train")
