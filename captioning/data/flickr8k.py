"""Flickr8k as published: images in one folder or several, one file of captions, and a list of names for each split.

A line of captions is ``NAME#NUMBER<tab>CAPTION``.

Hodosh, Young, Hockenmaier (2013), "Framing image description as a ranking task",
https://jair.org/index.php/jair/article/view/10833
"""

import re
from functools import partial
from pathlib import Path, PurePosixPath

from captioning.base.errors import UserError
from captioning.data.files import IMAGE_FOLDERS, find, is_image, lines, scan, unzip
from captioning.data.records import SPLITS, CaptionDataset, Warts, join
from config import DataSettings

_CAPTIONS = "Flickr8k.token.txt"
_SPLITS = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}
_TEXTS = (_CAPTIONS, *_SPLITS.values())
# People's judgements of captions, in the same archive. tools/human_judgements.py reads them.
JUDGEMENTS = ("ExpertAnnotations.txt", "CrowdFlowerAnnotations.txt")

_HOST = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
_ARCHIVES = {
    f"{_HOST}/Flickr8k_Dataset.zip": "md5:f18a1e2920de5bd84dae7cf08ec78978",
    f"{_HOST}/Flickr8k_text.zip": "md5:bf6c1abcb8e4a833b7f922104de18627",
}


def published(settings: DataSettings) -> tuple[Path, dict[str, str]]:
    """The folder that the archives are fetched into, and the checksum of each address."""
    return Path(settings.data_dir), _ARCHIVES


def load(settings: DataSettings) -> CaptionDataset:
    """Read Flickr8k in ``data_dir``; unpack the published archives there where they are needed.

    Raises UserError: incomplete or broken files.
    """
    data_dir = Path(settings.data_dir)
    warts = Warts()
    texts, images = find(data_dir, _TEXTS, warts)
    # The judgements alone are no reason to unpack an archive.
    beside = set() if len(texts) < len(_TEXTS) else {*JUDGEMENTS}
    if _unzip(data_dir, {*texts, *images, *beside}):
        warts.clear()
        texts, images = find(data_dir, _TEXTS, warts)
    absent = [name for name in _TEXTS if name not in texts] + ["Flicker8k_Dataset/*.jpg"] * (not images)
    if absent:
        raise UserError(
            f"data_dir: Flickr8k is not complete in {data_dir}: {', '.join(absent)} not found. Put "
            "Flickr8k_Dataset.zip and Flickr8k_text.zip there, or what they contain, or run: python preprocessing.py "
            "--download" + kaggle_hint(data_dir)
        )
    captions = read_tokens(texts[_CAPTIONS], warts)
    splits: dict[str, str] = {}
    for split, name in _SPLITS.items():
        for number, line in lines(texts[name]):
            if line not in captions:
                raise UserError(
                    f"{texts[name]}, line {number}: {line} has no captions in {texts[_CAPTIONS]}; remove the line, "
                    "or add captions"
                )
            if splits.get(line, split) != split:
                raise UserError(
                    f"{texts[name]}, line {number}: {line} is in split {splits[line]} too; remove it from one"
                )
            if line in splits:
                warts[f"images listed more than once in {name}"].append(line)
            splits[line] = split
    return join("flickr8k", captions, splits, images, str(data_dir), warts)


def kaggle_hint(data_dir: Path) -> str:
    """What to add to an error about a folder that lacks the published files: how to read what Kaggle has instead."""
    there = next((entry.name for entry in scan(data_dir) if entry.name == "captions.txt"), "")
    return f". {there} is there: read this folder with --dataset kaggle" if there else ""


def _unzip(data_dir: Path, found: set[str]) -> bool:
    """Unpack the zip files in ``data_dir`` that hold files of Flickr8k beyond those ``found``.

    ``NAME.zip`` becomes the folder ``unzipped-NAME``. Returns whether there is such a folder now.
    """
    unpacked = False
    for entry in scan(data_dir):
        archive = data_dir / entry.name
        target = f"unzipped-{archive.stem}"
        if archive.suffix.lower() == ".zip":
            # Another process may have made the folder since the folders were listed.
            there = (data_dir / target).exists() or unzip(archive, data_dir, partial(_place, target, found))
            unpacked = unpacked or there
    return unpacked


def _place(target: str, found: set[str], path: PurePosixPath) -> str | None:
    """Where a member of an archive goes; None for a member that is not unpacked.

    Only members with known names are unpacked. Only the last part of a member's path is used, so none can lead
    elsewhere.
    """
    if path.name in found:
        return None
    if path.name in (*_TEXTS, *JUDGEMENTS):
        return f"{target}/{path.name}"
    if is_image(path.name) and path.parent.name.lower() in IMAGE_FOLDERS:
        return f"{target}/Flicker8k_Dataset/{path.name}"
    return None


def read_tokens(path: Path, warts: Warts) -> dict[str, list[str]]:
    """Captions by image name, from lines of ``NAME#NUMBER<tab>CAPTION``. Raises UserError naming file and line."""
    captions: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, line in lines(path):
        parts = re.fullmatch(r"((.+)#\d+)(?:\t(.*))?", line)
        if not parts:
            raise UserError(f"{path}, line {number}: expected NAME#NUMBER, a tab and a caption; found {line[:60]!r}")
        key, name, caption = parts.groups(default="")
        if key in seen:
            warts[f"captions in {path.name} with a number used before (kept)"].append(key)
        seen.add(key)
        # The published file has 2258277193_586949ec62.jpg.1#0, a caption of 2258277193_586949ec62.jpg.
        if re.search(r"\.jpg\.\d+$", name):
            warts[
                f"captions in {path.name} with a number after .jpg (given to the image of the name without it)"
            ].append(key)
            name = name.rpartition(".")[0]
        captions.setdefault(name, []).append(caption)
    return captions
