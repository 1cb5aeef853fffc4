"""Decoded pictures of any mode to RGB, in strips, so that a large picture takes little memory besides itself.

No Keras.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

# Pictures of more pixels are made smaller by whole factors before anything else.
_LARGE = 30_000_000
_STRIP = 4_000_000  # pixels that are converted at a time
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners give


def to_rgb(image: Image.Image, least: int = 0) -> Image.Image:
    """A decoded picture of any mode as RGB. Transparency is laid over white.

    Greyscale of more than 8 bits is scaled by the values that are there; see ``_scale``. A picture of more than 30
    megapixels may be made smaller by a whole factor, but no side below ``least`` pixels, if that is given. Raises
    ValueError.
    """
    factor = 1
    if least and image.width * image.height > _LARGE:
        factor = max(1, min(image.width, image.height) // least)
    if factor == 1 and image.mode == "RGB" and not image.has_transparency_data:
        return image
    convert = _deep(image) if image.mode == "F" or image.mode.startswith("I") else _plain
    whole = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, strip in strips(image, factor):
        whole.paste(convert(strip).reduce(factor), (0, top // factor))
    return whole


def strips(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """The first row of each strip, and the strip. All but the last have a multiple of ``factor`` rows."""
    rows = max(1, _STRIP // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _plain(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _deep(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes RGB of the strips of a greyscale picture of more than 8 bits."""
    low, high, count = np.inf, -np.inf, 0
    for _, strip in strips(image, 1):
        values = np.asarray(strip)
        values = values[np.isfinite(values)]
        count += values.size
        if values.size:
            low, high = min(low, values.min()), max(high, values.max())
    if not count:
        raise ValueError("none of its pixels is a number; save it with 8 bits a channel")
    scale = _scale(float(low), float(high), image.mode != "F")

    def convert(strip: Image.Image) -> Image.Image:
        values = np.nan_to_num(np.asarray(strip), nan=0.0, posinf=high, neginf=low)
        return Image.fromarray(scale(values).astype(np.uint8)).convert("RGB")

    return convert


def depth_of(high: float) -> int | None:
    """The bits, of those that cameras and scanners give, that hold values up to ``high``. None where none do."""
    return next((bits for bits in _DEPTHS if high < 2**bits), None)


def _scale(low: float, high: float, whole_numbers: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What brings values between ``low`` and ``high`` to 0-255.

    Values from 0 to 1 are shares of white. Larger ones are taken for numbers of 8, 10, 12, 14 or 16 bits, the fewest
    that hold them all. Where some are negative or larger, the lowest value becomes black and the highest white.
    """
    bits = depth_of(high)
    if low < 0 or bits is None:
        return lambda values: (values.astype(np.float64) - low) * (255 / ((high - low) or 1))
    if 0 < high <= 1:
        return lambda values: values * 255.0
    if whole_numbers:
        return lambda values: values.astype(np.int64) >> (bits - 8)
    return lambda values: values / 2.0 ** (bits - 8)
