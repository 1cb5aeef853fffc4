"""Captioned image data sets: one layout per file, and all give the same records and the same three splits.

The setting ``dataset`` names the layout: ``dataset=coco`` is read by ``captioning/data/coco.py``. Such a file offers

    load(settings: DataSettings) -> CaptionDataset
        Reads the data set. Archives are unpacked and scenes are drawn first where that is needed.
    published(settings: DataSettings) -> (folder, {address: checksum})
        What ``preprocessing.py --download`` fetches, and where to. Only of data sets that can be fetched.
    SOURCE
        One text: where people get a data set that cannot be fetched.

A layout repairs what it safely can and says so in ``CaptionDataset.warnings``. What it cannot decide is a UserError that
names the file and line. It opens no image, and it changes no caption but for the white space around it.
"""

import importlib
from types import ModuleType
from typing import get_args

from captioning.data.records import CaptionDataset
from config import DataSettings


def layout_names() -> tuple[str, ...]:
    """The values of the setting ``dataset``."""
    return get_args(DataSettings.model_fields["dataset"].annotation)


def layout(name: str) -> ModuleType:
    """The file that reads the layout ``name``."""
    return importlib.import_module(f"captioning.data.{name}")


def load(settings: DataSettings) -> CaptionDataset:
    """Read the data set that ``settings`` names.

    Raises UserError: missing, unreadable or broken files, an image in two splits, or no usable image.
    """
    return layout(settings.dataset).load(settings)
