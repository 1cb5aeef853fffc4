"""Karpathy's split files, on which most captioning papers report: dataset_{coco,flickr8k,flickr30k}.json.

A file is one object ``{"images": [...]}``. Each image has "filename", "split" and "sentences", whose "raw" is the
caption. An image of COCO also has "filepath" (its folder: train2014 or val2014) and "cocoid". The split ``restval`` is
the part of COCO's val that is neither dev nor test. It counts as training, as usual: 113,287 images for training, 5,000
each for dev and test.

Karpathy and Fei-Fei (2015), "Deep visual-semantic alignments", https://arxiv.org/abs/1412.2306
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import FailFast

from captioning.base.errors import UserError
from captioning.data.coco import image_folder
from captioning.data.files import find, list_images, read_json, unzip
from captioning.data.records import CaptionDataset, Warts, join
from config import DataSettings

_ARCHIVE = "caption_datasets.zip"
# Karpathy publishes no checksum; this is TensorFlow Datasets'.
_ARCHIVES = {
    f"https://cs.stanford.edu/people/karpathy/deepimagesent/{_ARCHIVE}": "sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
}
_HOW_TO_GET = (
    f"dataset_coco.json, dataset_flickr8k.json and dataset_flickr30k.json are in {_ARCHIVE}, which python "
    "preprocessing.py --dataset karpathy --captions-file FILE --download fetches to beside FILE. The images are those "
    "of the data set: "
    "--dataset coco --download or --dataset flickr8k --download fetches them, and Flickr30k's are given out on request"
)
# Karpathy's names of splits -> ours.
SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}


# The part of a split file that is read.
@dataclass(slots=True)
class _Sentence:
    raw: str


@dataclass(slots=True)
class _Image:
    filename: str
    split: Literal["train", "restval", "val", "test"]
    sentences: list[_Sentence]
    filepath: str = ""
    cocoid: int | None = None


@dataclass(slots=True)
class _File:
    images: Annotated[list[_Image], FailFast()]


_EXPECTED = (
    'a Karpathy split file, {"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "A dog."}]}]} '
    "(COCO's own files are read with --dataset coco)"
)


def published(settings: DataSettings) -> tuple[Path, dict[str, str]]:
    """The folder of ``captions_file``, which the archive is fetched into, and the checksum of the archive's address."""
    return _split_file(settings).parent, _ARCHIVES


def load(settings: DataSettings) -> CaptionDataset:
    """Read the images that ``captions_file`` lists: COCO's from the folders that it names, Flickr's from ``data_dir``.

    Where COCO's images of 2014 are missing, those of 2017 are read. They are the same ones, under shorter names. Raises
    UserError: another layout, an unknown split, an image listed twice, or no image on disk.
    """
    data_dir = Path(settings.data_dir)
    warts = Warts()
    listed = read(_split_file(settings))
    captions = {image.filename: [sentence.raw for sentence in image.sentences] for image in listed}
    splits = {image.filename: SPLITS[image.split] for image in listed}
    folders = {image.filepath for image in listed}
    if folders <= {""}:
        images = find(data_dir, (), warts)[1] or list_images(data_dir)
        return join("karpathy", captions, splits, images, str(data_dir), warts)
    places = [image_folder(data_dir, folder) for folder in sorted(folders)]
    images = _list_all(places)
    ids = {image.filename: image.cocoid for image in listed if image.cocoid is not None}
    missing = sorted(ids.keys() - images.keys())
    if missing:
        later = [image_folder(data_dir, name) for name in ("train2017", "val2017")]
        renamed = _list_all(later)
        for name in missing:
            if path := renamed.get(f"{ids[name]:012d}.jpg"):
                images[name] = path
                warts["images read under their names of 2017"].append(f"{path} is {name}")
        places += [place for place in later if place.is_dir()]
    by_split = defaultdict(set)
    for image in listed:
        by_split[SPLITS[image.split]].add(image.filepath)
    subsets = {split: min(found) for split, found in by_split.items() if len(found) == 1}
    where = " and ".join(map(str, places))
    if len(ids) < len(listed):
        return join("karpathy", captions, splits, images, where, warts)
    return join("karpathy", captions, splits, images, where, warts, ids, subsets)


def _split_file(settings: DataSettings) -> Path:
    assert settings.captions_file is not None  # Config refuses dataset=karpathy without it
    return Path(settings.captions_file)


def read(path: Path) -> list[_Image]:
    """The images that a Karpathy file lists. If only the published archive is there, the file is first unpacked.

    Raises UserError: a missing file, another layout, an unknown split, an image listed twice.
    """
    archive = path.parent / _ARCHIVE
    if (
        not path.exists()
        and archive.exists()
        and not unzip(archive, path.parent, lambda member: path.name if member.name == path.name else None)
    ):
        raise UserError(f"captions_file: there is neither a file {path} nor one of that name in {archive}")
    if not path.is_file():
        raise UserError(f"captions_file: there is no file {path}. {_HOW_TO_GET}")
    images = read_json(path, _File, _EXPECTED).images
    twice = [name for name, times in Counter(image.filename for image in images).items() if times > 1]
    if twice:
        raise UserError(f"{path}: {twice[0]} is listed twice; remove it once")
    return images


def _list_all(folders: Iterable[Path]) -> dict[str, Path]:
    return {name: path for folder in folders for name, path in list_images(folder).items()}
