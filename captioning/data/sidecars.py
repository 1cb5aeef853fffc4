"""A text file beside each picture: ``a.jpg`` with its captions in ``a.txt`` or ``a.caption``, one per line.

Training sets for image generators look like that. Splits are folders called ``train``, ``validation`` and ``test``, if
there are any. Otherwise they are drawn.
"""

from pathlib import Path, PurePosixPath

from captioning.base.errors import UserError
from captioning.data.files import is_image, lines, list_files_below
from captioning.data.records import CaptionDataset, Warts, folder_split, join, splits_or_drawn
from config import DataSettings

_SUFFIXES = (".txt", ".caption")


def load(settings: DataSettings) -> CaptionDataset:
    """Read the pictures in ``data_dir`` and its sub-folders. Raises UserError: no text beside any picture."""
    data_dir = Path(settings.data_dir)
    warts = Warts()
    files = list_files_below(data_dir)
    texts = {name: path for name, path in files.items() if path.suffix.lower() in _SUFFIXES}
    images = {name: path for name, path in files.items() if is_image(name)}
    if not images:
        raise UserError(f"data_dir: there are no images in {data_dir}; name the folder that holds them")
    beside = {name: found for name in images if (found := _beside(name, texts))}
    if not beside:
        raise UserError(
            f"data_dir: none of the {len(images)} images in {data_dir} has a text beside it, such as "
            f"{PurePosixPath(min(images)).with_suffix(_SUFFIXES[0])} for {min(images)}; write these files, or read another "
            "layout with --dataset (docs/data.md has them all)"
        )
    captions = {name: [line for text in found for _, line in lines(texts[text])] for name, found in beside.items()}
    unused = texts.keys() - {text for found in beside.values() for text in found}
    warts["text files without an image (left out)"].extend(sorted(unused))
    splits = {name: split for name in captions if (split := folder_split(name))}
    splits_of = splits_or_drawn(captions, splits, settings, warts)
    return join("sidecars", captions, splits_of, images, str(data_dir), warts)


def _beside(image: str, texts: dict[str, Path]) -> list[str]:
    """The names of the texts beside an image: ``a.txt`` or ``a.jpg.txt`` for ``a.jpg``."""
    stem = str(PurePosixPath(image).with_suffix(""))
    return [name for start in (stem, image) for suffix in _SUFFIXES if (name := start + suffix) in texts]


def captions_below(folder: Path) -> dict[str, list[str]]:
    """The captions of each text in ``folder`` and below it, by its path without its ending."""
    files = list_files_below(folder)
    return {
        str(PurePosixPath(name).with_suffix("")): [line for _, line in lines(path)]
        for name, path in files.items()
        if path.suffix.lower() in _SUFFIXES
    }
