"""A JSON file in the style of MS-COCO, of any name, over any folder of images: VizWiz, nocaps, TextCaps, or one's own.

    {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "A dog."}]}
    {"data": [{"image_id": "0054c91397f2fe05", "caption_str": "A sign.", "set_name": "train"}]}      TextCaps

An id is a number or a text. Splits come from "split" of an image or "set_name" of an entry. With several files in a
folder each file is a split, by its name: train.json, val.json, test.json. Without any of these, splits are drawn.

Gurari et al. (2020), VizWiz-Captions, https://arxiv.org/abs/2002.08565; Sidorov et al. (2020), TextCaps,
https://arxiv.org/abs/2003.12462
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from pydantic import FailFast

from captioning.base.errors import UserError
from captioning.data.files import list_images_below, read_json, scan
from captioning.data.records import FOLDER_NAMES, CaptionDataset, Warts, join, splits_or_drawn
from config import DataSettings

Id = TypeVar("Id", int, int | str)


# The part of a file that is read.
@dataclass(slots=True)
class _Image:
    id: int | str
    file_name: str
    split: str = ""


@dataclass(slots=True)
class _Annotation:
    image_id: int | str
    caption: str


@dataclass(slots=True)
class _Entry:
    image_id: int | str
    caption_str: str = ""
    set_name: str = ""


@dataclass(slots=True)
class _File:
    images: Annotated[list[_Image], FailFast()] = field(default_factory=list)
    annotations: Annotated[list[_Annotation], FailFast()] = field(default_factory=list)
    data: Annotated[list[_Entry], FailFast()] = field(default_factory=list)


_EXPECTED = (
    'JSON in COCO\'s style, {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "A dog."}]} '
    "(Karpathy's files are read with --dataset karpathy, other JSON with --dataset folder)"
)


class Listed(NamedTuple):
    """An image with its captions, as a file lists it. ``split`` is empty where the file tells none."""

    id: int | str
    name: str
    captions: list[str]
    split: str


def load(settings: DataSettings) -> CaptionDataset:
    """Read the images in ``data_dir`` and its sub-folders with the captions in ``captions_file``.

    Raises UserError: no such file or folder, another layout, an image listed twice.
    """
    assert settings.captions_file is not None  # Config refuses dataset=cocostyle without it
    data_dir = Path(settings.data_dir)
    if not data_dir.is_dir():
        raise UserError(f"data_dir: there is no folder {data_dir}; it must be the folder that holds the images")
    warts = Warts()
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    ids: dict[str, int | str] = {}
    for path, split_of_file in _files(Path(settings.captions_file)):
        for found in read(path, warts):
            if found.name in captions:
                raise UserError(f"{path}: {found.name} is listed twice, in this file or in another one; remove it once")
            captions[found.name], ids[found.name] = found.captions, found.id
            split = split_of_file or found.split
            if split:
                splits[found.name] = split
    numbers = {name: found for name, found in ids.items() if isinstance(found, int)}
    own = numbers if len(numbers) == len(ids) and len({*numbers.values()}) == len(ids) else None
    chosen = splits_or_drawn(captions, splits, settings, warts)
    return join("cocostyle", captions, chosen, list_images_below(data_dir), str(data_dir), warts, own)


def _files(path: Path) -> list[tuple[Path, str]]:
    """The files to read, each with the split that its name tells if there are several. Raises UserError."""
    if not path.is_dir():
        return [(path, "")]
    files = [path / entry.name for entry in scan(path) if entry.name.lower().endswith(".json")]
    named = [(file, _split_of(file)) for file in files]
    if not files:
        raise UserError(
            f"captions_file: there is no .json file in {path}; name a file in COCO's style, or their folder"
        )
    if len(files) == 1:
        return [(files[0], "")]
    for file, split in named:
        if not split:
            raise UserError(
                f"{file}: its name does not tell a split; with several files in a folder each must have train, val or test in "
                "its name. Move it, or name one file"
            )
    return named


def _split_of(path: Path) -> str:
    """The split that the name of a file tells, such as "dev" of captions_val2017.json; empty if none or two."""
    words = {re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", path.stem.lower())}
    found = {FOLDER_NAMES[word] for word in words if word in FOLDER_NAMES}
    return found.pop() if len(found) == 1 else ""


def read(path: Path, warts: Warts) -> list[Listed]:
    """The images that ``path`` lists. Raises UserError: another layout, two images with one id, an unknown split."""
    found = read_json(path, _File, _EXPECTED)
    if found.data:
        return _textcaps(path, found.data)
    if not found.images:
        raise UserError(f"{path}: expected {_EXPECTED}; it lists no images")
    annotations = ((annotation.image_id, annotation.caption) for annotation in found.annotations)
    captions = group(path, [image.id for image in found.images], annotations, warts)
    return [Listed(image.id, image.file_name, captions[image.id], _split(path, image.split)) for image in found.images]


def group(path: Path, images: Sequence[Id], annotations: Iterable[tuple[Id, str]], warts: Warts) -> dict[Id, list[str]]:
    """The captions of each image, by its id. ``annotations``: the id of an image and a caption, for each caption.

    Captions of images that ``path`` does not list are noted in ``warts``. Raises UserError: two images with one id.
    """
    captions: dict[Id, list[str]] = {image: [] for image in images}
    if len(captions) < len(images):
        raise UserError(f"{path}: {len(images)} images share {len(captions)} ids; give each its own")
    for image, caption in annotations:
        if image in captions:
            captions[image].append(caption)
        else:
            warts[f"captions in {path.name} of images that it does not list (dropped)"].append(
                f"image {image}: {caption}"
            )
    return captions


def _textcaps(path: Path, entries: list[_Entry]) -> list[Listed]:
    """The images of a file of TextCaps, which has an entry for each caption. An image is named by its id and .jpg."""
    found: dict[int | str, Listed] = {}
    for entry in entries:
        start = Listed(entry.image_id, f"{entry.image_id}.jpg", [], _split(path, entry.set_name))
        image = found.setdefault(entry.image_id, start)
        if entry.caption_str:
            image.captions.append(entry.caption_str)
    return list(found.values())


def _split(path: Path, name: str) -> str:
    if name and name.lower() not in {*FOLDER_NAMES, "restval"}:
        raise UserError(f"{path}: split must be train, dev (or val) or test; found {name!r}")
    return FOLDER_NAMES.get(name.lower(), "train") if name else ""
