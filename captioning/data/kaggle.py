"""Flickr8k as Kaggle has it: ``captions.txt``, a table with the header ``image,caption``, and the folder ``Images``.

It comes without the official splits. They are read where their lists (``Flickr_8k.trainImages.txt``, ...) lie beside
it, or from Karpathy's dataset_flickr8k.json, which ``captions_file`` may name. Otherwise splits are drawn at random,
and scores on them cannot be compared with published ones. Other data sets in this layout, such as Flickr30k's, are read
too.
"""

from functools import partial
from pathlib import Path, PurePosixPath

from captioning.base.errors import UserError
from captioning.data import karpathy
from captioning.data.files import IMAGE_FOLDERS, find, is_image, lines, scan, unzip
from captioning.data.records import SPLITS, CaptionDataset, Warts, join, splits_or_drawn
from captioning.data.rows import gather, read_rows
from config import DataSettings

SOURCE = (
    "Kaggle gives data sets to people who are signed in: search it for Flickr8k, and put archive.zip, or what it contains, "
    "into data_dir. --dataset flickr8k --download fetches the same images and captions, with their official splits"
)
_CAPTIONS = "captions.txt"
_SPLITS = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}


def load(settings: DataSettings) -> CaptionDataset:
    """Read the data set in ``data_dir``; unpack a zip file with it that lies there.

    Raises UserError: incomplete files.
    """
    data_dir = Path(settings.data_dir)
    warts = Warts()
    wanted = (_CAPTIONS, *_SPLITS.values())
    texts, images = find(data_dir, wanted, warts)
    if (_CAPTIONS not in texts or not images) and _unzip(data_dir):
        warts.clear()
        texts, images = find(data_dir, wanted, warts)
    absent = [_CAPTIONS] * (_CAPTIONS not in texts) + ["Images/*.jpg"] * (not images)
    if absent:
        raise UserError(
            f"data_dir: Flickr8k of Kaggle is not complete in {data_dir}: {', '.join(absent)} not found. {SOURCE}"
        )
    path = texts[_CAPTIONS]
    captions, splits = gather(path, read_rows(path, warts, mend_commas=True))
    splits = splits or _splits(settings, texts, {*captions}, warts)
    if not splits:
        warts.notes.append(
            "no official splits are here, so images are drawn for dev and test, and scores on them cannot be compared with "
            "published ones; docs/data.md tells where the splits are"
        )
    return join("kaggle", captions, splits_or_drawn(captions, splits, settings, warts), images, str(data_dir), warts)


def _splits(settings: DataSettings, texts: dict[str, Path], names: set[str], warts: Warts) -> dict[str, str]:
    """The split of each image by the lists or by the split file; none if there is neither. Raises UserError."""
    if settings.captions_file:
        split_file = Path(settings.captions_file)
        listed = {image.filename: karpathy.SPLITS[image.split] for image in karpathy.read(split_file)}
        if not listed.keys() & names:
            raise UserError(f"captions_file: {split_file} lists none of these images; take dataset_flickr8k.json")
    elif all(name in texts for name in _SPLITS.values()):
        listed = {line: split for split, name in _SPLITS.items() for _, line in lines(texts[name])}
    else:
        return {}
    warts["images of a split without captions (left out)"].extend(sorted(listed.keys() - names))
    return {name: split for name, split in listed.items() if name in names}


def _unzip(data_dir: Path) -> bool:
    """Unpack the zip files in ``data_dir`` that hold captions or images. Returns whether something was unpacked."""
    unpacked = False
    for entry in scan(data_dir):
        archive = data_dir / entry.name
        if archive.suffix.lower() == ".zip":
            target = f"unzipped-{archive.stem}"
            there = (data_dir / target).exists() or unzip(archive, data_dir, partial(_place, target))
            unpacked = unpacked or there
    return unpacked


def _place(target: str, path: PurePosixPath) -> str | None:
    """Where a member of an archive goes; None for a member that is not unpacked.

    Only the last part of its path is used.
    """
    if path.name in (_CAPTIONS, *_SPLITS.values()):
        return f"{target}/{path.name}"
    if is_image(path.name) and path.parent.name.lower() in IMAGE_FOLDERS:
        return f"{target}/images/{path.name}"
    return None
