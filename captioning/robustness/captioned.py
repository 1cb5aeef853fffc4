"""Pictures are made worse, encoded and captioned, batch after batch. Nothing of them is stored. No Keras.

Legend: B pictures of a batch, S pixels per side.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from captioning.base.progress import Progress
from captioning.data.records import ImageRecord
from captioning.pictures.corrupting import Corruption
from captioning.pictures.loading import UnreachableImage, UnreadableImage, load_ahead, load_image
from captioning.pictures.notes import Notes
from config import Config

if TYPE_CHECKING:
    from model import Caption, Captioner


def caption_pictures(
    captioner: "Captioner",
    records: Sequence[ImageRecord],
    corruption: Corruption | None,
    search: Config,
    bar: Progress,
) -> dict[str, list["Caption"]]:
    """The captions of the pictures of ``records``, best first, by file name. Pictures that cannot be read have none.

    ``corruption``: how pictures are made worse; None: they stay as they are. ``search``: the settings of the encoder
    and of the search. Raises UnreachableImage for a file that cannot be opened now.
    """
    found: dict[str, list[Caption]] = {}
    slices = min(search.extract_batch_size, search.decode_batch_size, len(records))
    size = search.decode_batch_size // slices * slices
    with Notes() as notes:
        for names, pixels, unreadable in _loaded(records, corruption, search, size, notes):
            features = _encoded(captioner, pixels, len(names), slices)
            filled = [*names, *names[-1:] * (size - len(names))]
            captions = captioner.caption(features, search, names=filled)
            found |= {name: captions[i] for i, name in enumerate(names) if i not in unreadable}
            bar.update(len(names))
    return found


def _loaded(
    records: Sequence[ImageRecord], corruption: Corruption | None, search: Config, size: int, notes: Notes
) -> Iterator[tuple[list[str], np.ndarray, dict[int, UnreadableImage]]]:
    """For each batch the file names, the pixels uint8 ``(size, S, S, 3)``, and the places of unreadable pictures."""
    paths = {record.file_name: record.path for record in records}

    def load(name: str) -> np.ndarray:
        pixels = load_image(paths[name], search.image_size, notes)
        return corruption.apply(pixels, name) if corruption else pixels

    names = [*paths]
    batches = [names[start : start + size] for start in range(0, len(names), size)]
    with ThreadPoolExecutor(search.workers) as pool:
        ahead = load_ahead(pool, batches, load, search.image_size, size)
        for batch, (pixels, unreadable) in zip(batches, ahead, strict=True):
            for reason in unreadable.values():
                if isinstance(reason, UnreachableImage):
                    raise reason
            yield batch, pixels, unreadable


def _encoded(captioner: "Captioner", pixels: np.ndarray, pictures: int, slices: int) -> Any:
    """The features of a batch whose first ``pictures`` are pictures. The others get the features of the last one.

    The encoder gets parts of ``slices`` pictures, so it is compiled once.
    """
    parts = [captioner.encode(pixels[start : start + slices]) for start in range(0, pictures, slices)]

    def joined(found: Sequence[np.ndarray]) -> np.ndarray:
        features = np.concatenate(found)[:pictures]
        return np.concatenate([features, np.repeat(features[-1:], len(pixels) - pictures, axis=0)])

    if isinstance(parts[0], tuple):  # those of an ensemble
        return tuple(joined(each) for each in zip(*parts, strict=True))
    return joined(parts)
