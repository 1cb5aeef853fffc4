"""The generated demo: scenes are drawn into ``data_dir`` when they are not there yet, then read like any folder."""

from pathlib import Path

from captioning.data import folder, scenes
from captioning.data.records import CaptionDataset
from config import DataSettings


def load(settings: DataSettings) -> CaptionDataset:
    """Read the demo scenes; make them first where they are missing. Raises UserError: the folder cannot be used."""
    data_dir = Path(settings.data_dir)
    scenes.ensure(data_dir, settings.demo_images, settings.split_seed, settings.demo_language)
    return folder.read("demo", data_dir / "images", data_dir / "captions.jsonl", settings)
