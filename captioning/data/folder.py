"""A folder of images with a captions file, a table, JSON or JSON lines: your own pictures, or the generated demo's."""

from pathlib import Path

from captioning.base.errors import UserError
from captioning.data.caption_files import caption_rows
from captioning.data.files import list_images_below
from captioning.data.records import CaptionDataset, Warts, join, splits_or_drawn
from captioning.data.rows import gather, read_rows
from config import DataSettings


def load(settings: DataSettings) -> CaptionDataset:
    """Read the images in ``data_dir`` with their captions in ``captions_file``. Raises UserError."""
    assert settings.captions_file is not None  # Config refuses dataset=folder without it
    return read("folder", Path(settings.data_dir), Path(settings.captions_file), settings)


def read(dataset: str, image_dir: Path, captions_file: Path, settings: DataSettings) -> CaptionDataset:
    """Read the captions in ``captions_file`` of the images in ``image_dir`` and its sub-folders.

    ``dataset`` is the name that the data set gets. Where the file names no splits, they are drawn. Raises UserError.
    """
    if not image_dir.is_dir():
        raise UserError(f"data_dir: there is no folder {image_dir}; it must be the folder that holds the images")
    warts = Warts()
    further = captions_file.suffix.lower() in (".json", ".token")
    rows = caption_rows(captions_file, warts) if further else read_rows(captions_file, warts)
    captions, splits = gather(captions_file, rows)
    splits = splits_or_drawn(captions, splits, settings, warts)
    return join(dataset, captions, splits, list_images_below(image_dir), str(image_dir), warts)
