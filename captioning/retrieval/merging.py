"""Several indexes made into one: those of the parts of a collection, which were embedded apart.

The merged index is that of the nearest folder above all of the indexed folders. So ``retrieve.py --images`` with that
folder takes it, and finds nothing to embed again.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.base.texts import printable
from captioning.retrieval.index import ImageIndex, Stamp, create

_BLOCK = 1024  # vectors in memory at a time


def merge(folders: Sequence[Path], output: Path) -> ImageIndex:
    """Write the pictures of the indexes in ``folders`` into a new index in ``output``, and leave those as they are.

    Raises UserError if they are of different towers or have a picture twice, and if ``output`` holds an index.
    """
    indexes = [ImageIndex(folder) for folder in folders]
    first = indexes[0]
    for other in indexes[1:]:
        if (other.model, other.vectors.shape[1]) != (first.model, first.vectors.shape[1]):
            raise UserError(
                f"{other.folder}: was built with other towers ({other.model}) than {first.folder} ({first.model}), and "
                "their vectors cannot be compared; build one of the two again with the towers of the other"
            )
    source = _common([index.source for index in indexes])
    images: list[tuple[str, Stamp]] = []
    unreadable: dict[str, tuple[int, int, str]] = {}
    owner: dict[str, Path] = {}
    for index in indexes:
        below = os.path.relpath(index.source, source) if index.source != source else ""
        names = {name: Path(below, name).as_posix() if below else name for name in (*index.images, *index.unreadable)}
        for name in names.values():
            if name in owner:
                raise UserError(
                    printable(
                        f"{name}: is in {owner[name]} and in {index.folder}; only indexes of different pictures can be merged"
                    )
                )
            owner[name] = index.folder
        images += [(names[name], stamp) for name, stamp in zip(index.images, index.stamps, strict=True)]
        unreadable |= {names[name]: line for name, line in index.unreadable.items()}
    return create(output, first.model, source, images, unreadable, _blocks(indexes), first.vectors.shape[1])


def _common(sources: Sequence[str]) -> str:
    """The folder above the ``sources`` of all indexes, or the split that they all are of. Raises UserError."""
    if len(set(sources)) == 1:
        return sources[0]
    if not all(map(os.path.isabs, sources)):
        raise UserError(
            f"--merge-indexes: {' and '.join(dict.fromkeys(sources))} are no folders on one disk; keep them apart"
        )
    try:
        return os.path.commonpath(sources)
    except ValueError:  # Windows: different drives
        raise UserError(
            f"--merge-indexes: {sources[0]} and {sources[1]} are on different drives; keep them apart"
        ) from None


def _blocks(indexes: Sequence[ImageIndex]) -> Iterator[np.ndarray]:
    for index in indexes:
        for start in range(0, len(index.images), _BLOCK):
            yield index.vectors[start : start + _BLOCK]
