"""Flickr30k in its two layouts: ``results_20130124.token`` as published, or ``results.csv`` as many mirrors have it.

Neither comes with splits. ``captions_file`` may name Karpathy's dataset_flickr30k.json, whose dev and test of 1,000
images each are what papers use. Without this file the splits are drawn at random, as for a folder.

Young et al. (2014), "From image descriptions to visual denotations", https://aclanthology.org/Q14-1006/
"""

import re
from pathlib import Path

from captioning.base.errors import UserError
from captioning.data import karpathy
from captioning.data.files import find, lines
from captioning.data.flickr8k import kaggle_hint, read_tokens
from captioning.data.records import CaptionDataset, Warts, draw_splits, join
from config import DataSettings

SOURCE = (
    "The images and captions of Flickr30k are given out on request at "
    "https://shannon.cs.illinois.edu/DenotationGraph/; "
    "dataset_flickr30k.json, its splits, is in caption_datasets.zip, which python preprocessing.py --dataset karpathy "
    "--captions-file FILE --download fetches to beside FILE"
)
_TOKENS, _TABLE = "results_20130124.token", "results.csv"
_HEADER = ["image_name", "comment_number", "comment"]


def load(settings: DataSettings) -> CaptionDataset:
    """Read Flickr30k in ``data_dir``. Raises UserError: incomplete or broken files, or splits of other images."""
    data_dir = Path(settings.data_dir)
    warts = Warts()
    texts, images = find(data_dir, (_TOKENS, _TABLE), warts)
    absent = [f"{_TOKENS} or {_TABLE}"] * (not texts) + ["flickr30k-images/*.jpg"] * (not images)
    if absent:
        raise UserError(
            f"data_dir: Flickr30k is not complete in {data_dir}: {', '.join(absent)} not found. {SOURCE}{kaggle_hint(data_dir)}"
        )
    captions = read_tokens(texts[_TOKENS], warts) if _TOKENS in texts else read_table(texts[_TABLE], warts)
    if not settings.captions_file:
        return join("flickr30k", captions, draw_splits(sorted(captions), settings), images, str(data_dir), warts)
    split_file = Path(settings.captions_file)
    listed = {image.filename: image.split for image in karpathy.read(split_file)}
    splits = {name: karpathy.SPLITS[split] for name, split in listed.items() if name in captions}
    if not splits:
        raise UserError(f"captions_file: {split_file} lists no image of Flickr30k; take dataset_flickr30k.json")
    warts[f"images of {split_file.name} without captions (left out)"].extend(sorted(listed.keys() - splits.keys()))
    warts["images in no split, though others are in one"].extend(sorted(captions.keys() - splits.keys()))
    return join("flickr30k", captions, splits, images, str(data_dir), warts)


def read_table(path: Path, warts: Warts) -> dict[str, list[str]]:
    """Captions by image name, from lines of ``NAME| NUMBER| CAPTION``. Raises UserError naming file and line."""
    captions: dict[str, list[str]] = {}
    for number, line in lines(path):
        if [part.strip() for part in line.split("|")] == _HEADER:
            continue
        # The published file has one line without its second bar: "2199200615.jpg| 4   A dog runs across the grass ."
        parts = re.fullmatch(r"([^|]+)\|\s*\d+\s*(?:(\|)|\s|$)(.*)", line)
        if not parts:
            raise UserError(f"{path}, line {number}: expected NAME| NUMBER| CAPTION; found {line[:60]!r}")
        name, bar, caption = parts.groups()
        if not bar:
            warts[f"lines of {path.name} without a bar after the number (mended)"].append(line)
        captions.setdefault(name.strip(), []).append(caption)
    return captions
