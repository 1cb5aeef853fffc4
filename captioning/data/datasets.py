"""Captioned image data sets: one reader per layout on disk, all giving the same record and the same three splits.

The readers repair what they safely can and say so in ``CaptionDataset.warnings``; whatever they cannot decide is a
UserError that names the file and line. No image is opened here, and no caption is cleaned beyond its outer white space.
"""

from pathlib import Path

from captioning.data import coco, flickr8k, flickr30k, folder, karpathy
from captioning.data.records import SPLITS, CaptionDataset, ImageRecord
from config import Config

__all__ = ["SOURCES", "SPLITS", "CaptionDataset", "ImageRecord", "load"]

# Where people get what ``preprocessing.py --download`` cannot fetch.
SOURCES = {"flickr30k": flickr30k.SOURCE}


def load(config: Config) -> CaptionDataset:
    """Read the data set that ``config.dataset`` names; unpack or generate it first where that is needed.

    Raises UserError: missing, unreadable or broken files, an image in two splits, or no image left.
    """
    data_dir = Path(config.data_dir)
    if config.dataset == "flickr8k":
        return flickr8k.load(data_dir)
    if config.dataset == "coco":
        return coco.load(data_dir, config.coco_year)
    if config.dataset == "karpathy":
        return karpathy.load(data_dir, Path(config.captions_file))
    if config.dataset == "flickr30k":
        return flickr30k.load(data_dir, config)
    if config.dataset == "demo":
        from captioning.data import scenes as demo  # here, because it draws with Pillow, which no other data set needs

        demo.ensure(data_dir, config.demo_images, config.split_seed)
        return folder.load("demo", data_dir / "images", data_dir / "captions.jsonl", config)
    return folder.load("folder", data_dir, Path(config.captions_file), config)
