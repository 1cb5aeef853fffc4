"""Captioned image data sets: one layout per file, and all give the same records and the same three splits.

The setting ``dataset`` names the layout: ``dataset=coco`` is read by ``captioning/data/coco.py``. Such a file offers

    load(settings: DataSettings) -> CaptionDataset
        Reads the data set. If need be, it unpacks archives or draws scenes first.
    published(settings: DataSettings) -> (folder, {address: checksum})
        What ``preprocessing.py --download`` fetches, and the folder for it. Only of data sets that can be fetched.
    SOURCE
        A text: where people get a data set that cannot be fetched.

A layout repairs what it safely can and says so in ``CaptionDataset.warnings``. What it cannot decide is a UserError
that names the file and line. It opens no image. Of a caption it changes only markup and the white space around it.
"""

import importlib
from types import ModuleType

from captioning.base.settings import choices
from captioning.data.records import CaptionDataset
from config import DataSettings


def layout_names() -> tuple[str, ...]:
    """The values of the setting ``dataset``."""
    return choices(DataSettings, "dataset")


def layout(name: str) -> ModuleType:
    """The file that reads the layout ``name``."""
    return importlib.import_module(f"captioning.data.{name}")


def load(settings: DataSettings) -> CaptionDataset:
    """Read the data set that ``settings`` names.

    Raises UserError: missing, unreadable or broken files, an image in two splits, or no usable image.
    """
    return layout(settings.dataset).load(settings)
