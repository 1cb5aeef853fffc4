"""MS-COCO in its official layout, of 2014 or 2017: ``annotations/captions_{train,val}YEAR.json``, ``{train,val}YEAR/``.

COCO has two captioned parts, not three, and the captions of its test images are kept secret. So

    test    all of val, since that is what scores on COCO's own split are given for, and what its servers and
            evaluation code take (``captions_val2014_NAME_results.json``)
    dev     the images of train whose id is a multiple of 25: 4% of them, about as many as the usual 5,000
    train   the others

Dev decides when training stops and how captions are decoded. Were it drawn from val, then val's scores would flatter and
half of val would be comparable with nobody's. The rule needs no seed, and no missing image moves another one. "val" as
the name of a split could mean either, and is refused. Most papers use Karpathy's splits instead: ``--dataset karpathy``.

Lin et al. (2014), https://arxiv.org/abs/1405.0312; Chen et al. (2015), captions, https://arxiv.org/abs/1504.00325
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import FailFast

from captioning.base.errors import UserError
from captioning.data.files import is_image, list_images, read_json, unzip
from captioning.data.records import CaptionDataset, Warts, join

DEV_STEP = 25  # every image of train whose id this divides is in dev


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
    'COCO\'s captions, {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "A dog."}]} '
    "(Karpathy's files are read with --dataset karpathy --captions-file FILE)"
)


def load(data_dir: Path, year: str) -> CaptionDataset:
    """Read COCO of ``year``, published zip files in ``data_dir`` included. Raises UserError: incomplete or broken files."""
    folders = [image_folder(data_dir, f"{part}{year}") for part in ("train", "val")]
    texts = [_annotations(data_dir, f"captions_{part}{year}.json", year) for part in ("train", "val")]
    absent = [f"annotations/{path.name}" for path in texts if not path.exists()]
    if not any(folder.is_dir() for folder in folders):
        absent += [f"{folder.name}/*.jpg" for folder in folders]
    if absent:
        raise UserError(
            f"data_dir: COCO {year} is not complete in {data_dir}: {', '.join(absent)} not found. Put "
            f"annotations_trainval{year}.zip, train{year}.zip and val{year}.zip there, or what they contain, or run: "
            f"python preprocessing.py --dataset coco --coco-year {year} --data-dir {data_dir} --download"
        )
    warts = Warts()
    captions: dict[str, list[str]] = {}
    ids: dict[str, int] = {}
    splits: dict[str, str] = {}
    for path in texts:
        in_train = path is texts[0]
        for image_id, name, found in _read(path, warts):
            if name in captions:
                raise UserError(f"{path}: {name} is listed twice, here or in {texts[0].name}; remove it once")
            captions[name], ids[name] = found, image_id
            splits[name] = "test" if not in_train else "train" if image_id % DEV_STEP else "dev"
    images = list_images(folders[0]) | list_images(folders[1])
    subsets = {"train": f"train{year}", "dev": f"train{year}", "test": f"val{year}"}
    where = " and ".join(map(str, folders))
    return join(f"coco{year}", captions, splits, images, where, warts, ids, subsets)


def image_folder(data_dir: Path, name: str) -> Path:
    """Where the images of ``name``, such as train2017, are or should be; ``name.zip`` is unpacked where they are not."""
    for folder in (data_dir / name, data_dir / "images" / name):
        if folder.is_dir():
            return folder
    archive = data_dir / f"{name}.zip"
    if archive.exists() and re.fullmatch(r"\w+", name):  # a captions file that names ../.. leads nowhere else
        unzip(archive, data_dir, lambda path: f"{name}/{path.name}" if is_image(path.name) else None)
    return data_dir / name


def _annotations(data_dir: Path, name: str, year: str) -> Path:
    """Where the captions file ``name`` is or should be; it is unpacked where it is not."""
    path, archive = data_dir / "annotations" / name, data_dir / f"annotations_trainval{year}.zip"
    if not path.exists() and archive.exists():
        # The archive holds far more, for other tasks.
        unzip(archive, path.parent, lambda member: name if member.name == name else None)
    return path


def _read(path: Path, warts: Warts) -> list[tuple[int, str, list[str]]]:
    """Id, file name and captions of each image that ``path`` lists."""
    found = read_json(path, _Captions, _EXPECTED)
    captions: dict[int, list[str]] = {image.id: [] for image in found.images}
    if len(captions) < len(found.images):
        raise UserError(f"{path}: {len(found.images)} images share {len(captions)} ids; give each its own")
    for annotation in found.annotations:
        if annotation.image_id in captions:
            captions[annotation.image_id].append(annotation.caption)
        else:
            warts[f"captions in {path.name} of images that it does not list (dropped)"].append(
                f"image {annotation.image_id}: {annotation.caption}"
            )
    return [(image.id, image.file_name, captions[image.id]) for image in found.images]
