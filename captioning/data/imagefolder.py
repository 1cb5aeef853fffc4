"""Hugging Face's ImageFolder: ``metadata.jsonl`` or ``metadata.csv`` beside the images, with "file_name" and a caption.

The caption is in the field "text", or in one of the other names that ``rows.py`` knows, or in several numbered ones.
There may be one such file, or one in each of the folders ``train``, ``validation`` and ``test``. ``file_name`` is a
path from the folder of the file. Splits are those folders, or the field "split". Without either they are drawn.

https://huggingface.co/docs/datasets/image_dataset
"""

from pathlib import Path

from captioning.base.errors import UserError
from captioning.data.files import is_image, list_files_below
from captioning.data.records import CaptionDataset, Warts, folder_split, join, splits_or_drawn
from captioning.data.rows import Rows, gather, read_rows
from config import DataSettings

METADATA = ("metadata.jsonl", "metadata.csv")


def load(settings: DataSettings) -> CaptionDataset:
    """Read the images in ``data_dir`` and its sub-folders. Raises UserError: no such files, or broken ones."""
    data_dir = Path(settings.data_dir)
    warts = Warts()
    files = list_files_below(data_dir)
    captions, splits = read(data_dir, files, warts)
    splits = splits_or_drawn(captions, splits, settings, warts)
    images = {name: path for name, path in files.items() if is_image(name)}
    return join("imagefolder", captions, splits, images, str(data_dir), warts)


def read(data_dir: Path, files: dict[str, Path], warts: Warts) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The captions and the split of each image, by its path from ``data_dir``, whose ``files`` are given.

    Raises UserError.
    """
    found = sorted(name for name, path in files.items() if path.name in METADATA)
    if not found:
        parquet = next((name for name, path in files.items() if path.suffix == ".parquet"), None)
        raise UserError(
            f"data_dir: there is no {' or '.join(METADATA)} in {data_dir} or below it. "
            + (
                f"{parquet} holds images and captions in one; write them out first, with datasets.load_dataset and save"
                if parquet
                else "Put it beside the images, or read another layout with --dataset (docs/data.md has them all)"
            )
        )
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for name in found:
        own_captions, own_splits = gather(files[name], _below(name, read_rows(files[name], warts)))
        for image, texts in own_captions.items():
            captions.setdefault(image, []).extend(texts)
            split = own_splits.get(image) or folder_split(image)
            if split:
                splits[image] = split
    return captions, splits


def _below(name: str, rows: Rows) -> Rows:
    """The rows of the metadata file ``name``, with the paths of images from the top folder."""
    folder = name.rpartition("/")[0]
    for number, image, captions, split in rows:
        yield number, f"{folder}/{image}" if folder and image else image, captions, split
