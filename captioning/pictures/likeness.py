"""How much two pictures are copies of one another: of other size, colours, brightness or compression, or cropped.

The towers say what a picture shows, and give two photos of one kind of scene nearly the same vector. So copies are told
by where it gets lighter and darker. A picture is squashed to 16 x 16 grey cells, and the steps between neighbours are
its outline. The likeness of two pictures is the correlation of their outlines. Of each picture, crops at nine places
with 95, 90, 85 and 80% of the sides are compared with the whole of the other one, and the best counts. Needs no Keras.

``BOUND`` was chosen on the dev pictures of Flickr8k and of the everyday data: ``tools/near_duplicates.py`` has measured
how alike different pictures and changed copies are, and ``results/near_duplicates.json`` has the figures.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from captioning.pictures.loading import load_image

# Pictures with this likeness or more are near-duplicates. Different pictures stay below it, copies above.
BOUND = 0.8

_SIDE, _CELLS = 64, 16
_SHARES = (0.95, 0.9, 0.85, 0.8)


def thumbnail(source: str | Path | BinaryIO) -> np.ndarray:
    """A small grey picture, uint8 ``(64, 64)``, of which ``outlines`` are made. Raises UnreadableImage."""
    return grey(load_image(source, _SIDE))


def grey(pixels: np.ndarray) -> np.ndarray:
    """RGB pixels, uint8 ``(S, S, 3)``, as a small grey picture, uint8 ``(64, 64)``."""
    image = Image.fromarray(pixels).convert("L")
    return np.asarray(image if image.size == (_SIDE, _SIDE) else image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def outlines(thumbnail: np.ndarray) -> np.ndarray:
    """The outlines of a picture and of its crops, float32 ``(37, 480)``: unit vectors, that of the whole first.

    A picture of one colour has none. Its vectors are zero, and it is like no other.
    """
    image = Image.fromarray(thumbnail)
    return np.stack([_outline(image, box) for box in _boxes()])


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """How much two pictures are copies of one another, from -1 to 1, given their ``outlines``."""
    return float(max((other @ one[0]).max(), (one @ other[0]).max()))


def _boxes() -> list[tuple[float, float, float, float]]:
    boxes = [(0.0, 0.0, float(_SIDE), float(_SIDE))]
    for share in _SHARES:
        side = share * _SIDE
        places = [part * (_SIDE - side) for part in (0, 0.5, 1)]
        boxes += [(left, top, left + side, top + side) for left in places for top in places]
    return boxes


def _outline(image: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
    cells = np.asarray(image.resize((_CELLS, _CELLS), Image.Resampling.BOX, box=box), dtype=np.float32)
    steps = np.concatenate([np.diff(cells, axis=1).ravel(), np.diff(cells, axis=0).ravel()])
    steps -= steps.mean()
    return steps / max(float(np.linalg.norm(steps)), 1e-6)
