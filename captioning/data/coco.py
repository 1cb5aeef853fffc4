"""MS-COCO in its official layout of 2014 or 2017: ``annotations/captions_{train,val}YEAR.json``, ``{train,val}YEAR/``.

COCO publishes captions for two parts, train and val. It keeps the captions of its test images secret. The three splits
here are

    test    all of val. Papers that use COCO's own split score on it, and COCO's evaluation code and servers take it
            (``captions_val2014_NAME_results.json``).
    dev     the images of train whose id is a multiple of 25: 4%, about as many as the usual 5,000.
    train   all other images of train.

Dev decides when training stops and how captions are decoded. If dev were drawn from val, scores on val would be too
good. Scores on the rest of val could not be compared with those of others. The rule needs no seed, and a missing image
moves no other image to another split. The name "val" could mean test or dev here, so it is refused as the name of a
split. Most papers use Karpathy's splits instead: ``--dataset karpathy``.

Lin et al. (2014), https://arxiv.org/abs/1405.0312; Chen et al. (2015), captions, https://arxiv.org/abs/1504.00325
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import FailFast

from captioning.base.errors import UserError
from captioning.data.cocostyle import group
from captioning.data.files import is_image, list_images, read_json, unzip
from captioning.data.records import CaptionDataset, Warts, join
from config import DataSettings

DEV_STEP = 25  # an image of train is in dev when this divides its id

# Addresses and checksums by year. COCO publishes no checksums; these are TensorFlow Datasets'.
_HOST = "http://images.cocodataset.org"
_ARCHIVES = {
    "2014": {
        f"{_HOST}/annotations/annotations_trainval2014.zip": "sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        f"{_HOST}/zips/val2014.zip": "sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        f"{_HOST}/zips/train2014.zip": "sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    },
    "2017": {
        f"{_HOST}/annotations/annotations_trainval2017.zip": "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        f"{_HOST}/zips/val2017.zip": "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        f"{_HOST}/zips/train2017.zip": "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    },
}


# The part of a captions file that is read.
@dataclass(slots=True)
class _Image:
    id: int
    file_name: str


@dataclass(slots=True)
class _Annotation:
    image_id: int
    caption: str


@dataclass(slots=True)
class _Captions:
    images: Annotated[list[_Image], FailFast()]
    annotations: Annotated[list[_Annotation], FailFast()]


_EXPECTED = (
    'COCO\'s captions, {"images": [{"id": 1, "file_name": "1.jpg"}], '
    '"annotations": [{"image_id": 1, "caption": "A dog."}]} '
    "(Karpathy's files are read with --dataset karpathy --captions-file FILE)"
)


def published(settings: DataSettings) -> tuple[Path, dict[str, str]]:
    """The folder that the archives of ``coco_year`` are fetched into, and the checksum of each address."""
    return Path(settings.data_dir), _ARCHIVES[settings.coco_year]


def load(settings: DataSettings) -> CaptionDataset:
    """Read COCO of ``coco_year`` in ``data_dir``; unpack the published archives there where they are needed.

    Raises UserError: incomplete or broken files.
    """
    data_dir, year = Path(settings.data_dir), settings.coco_year
    folders = [image_folder(data_dir, f"{part}{year}") for part in ("train", "val")]
    texts = [_annotations(data_dir, f"captions_{part}{year}.json", year) for part in ("train", "val")]
    absent = [f"annotations/{path.name}" for path in texts if not path.exists()]
    if not any(folder.is_dir() for folder in folders):
        absent += [f"{folder.name}/*.jpg" for folder in folders]
    parts = [(folder, text) for folder, text in zip(folders, texts, strict=True) if folder.is_dir()]
    alone = len(parts) == 1 and parts[0][1].exists()  # one part with its captions is enough
    if absent and not alone:
        raise UserError(
            f"data_dir: COCO {year} is not complete in {data_dir}: {', '.join(absent)} not found. Put "
            f"annotations_trainval{year}.zip, train{year}.zip and val{year}.zip there, or what they contain, or run: "
            f"python preprocessing.py --dataset coco --coco-year {year} --data-dir {data_dir} --download"
        )
    warts = Warts()
    if alone:
        folder, text = parts[0]
        warts.notes.append(
            f"only {folder.name} of COCO is here; --dataset cocostyle --captions-file {text} --data-dir {folder} draws splits "
            "from it"
        )
        texts = [path for path in texts if path.exists()]
    captions: dict[str, list[str]] = {}
    ids: dict[str, int] = {}
    splits: dict[str, str] = {}
    for path in texts:
        in_train = path.name.startswith("captions_train")
        for image_id, name, found in _read(path, warts):
            if name in captions:
                raise UserError(
                    f"{path}: {name} is listed twice, in this file or in {texts[0].name} too; remove it once"
                )
            captions[name], ids[name] = found, image_id
            splits[name] = "test" if not in_train else "train" if image_id % DEV_STEP else "dev"
    images = list_images(folders[0]) | list_images(folders[1])
    subsets = {"train": f"train{year}", "dev": f"train{year}", "test": f"val{year}"}
    where = " and ".join(map(str, folders))
    return join(f"coco{year}", captions, splits, images, where, warts, ids, subsets)


def image_folder(data_dir: Path, name: str) -> Path:
    """The folder for the images of ``name``, such as train2017. If it is missing, ``name.zip`` is unpacked, if any."""
    for folder in (data_dir / name, data_dir / "images" / name):
        if folder.is_dir():
            return folder
    archive = data_dir / f"{name}.zip"
    # A captions file may name any folder, such as ../.., and such a name must lead nowhere else.
    if archive.exists() and re.fullmatch(r"\w+", name):
        unzip(archive, data_dir, lambda path: f"{name}/{path.name}" if is_image(path.name) else None)
    return data_dir / name


def annotations_path(data_dir: Path, name: str) -> Path:
    """The path of an annotations file: in the folder annotations, or beside it if it is only there."""
    path, beside = data_dir / "annotations" / name, data_dir / name
    return beside if beside.exists() and not path.exists() else path


def _annotations(data_dir: Path, name: str, year: str) -> Path:
    """The path of the captions file ``name``. If it is missing, it is unpacked from its archive, if that is there."""
    path, archive = annotations_path(data_dir, name), data_dir / f"annotations_trainval{year}.zip"
    if not path.exists() and archive.exists():
        # The archive holds far more, for other tasks.
        unzip(archive, path.parent, lambda member: name if member.name == name else None)
    return path


def _read(path: Path, warts: Warts) -> list[tuple[int, str, list[str]]]:
    """Id, file name and captions of each image that ``path`` lists."""
    found = read_json(path, _Captions, _EXPECTED)
    annotations = ((annotation.image_id, annotation.caption) for annotation in found.annotations)
    captions = group(path, [image.id for image in found.images], annotations, warts)
    return [(image.id, image.file_name, captions[image.id]) for image in found.images]
