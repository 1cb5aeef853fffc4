"""From an open file to pixels: upright, RGB, and what is there of a damaged picture. Needs no Keras.

What a user should know of a picture that was read all the same is told.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from captioning.base.errors import first_line
from captioning.pictures.containers import JPEG_END, has_one_scan, joined, without_metadata
from captioning.pictures.opening import (
    FORMATS,
    MAX_MEMORY,
    Tell,
    TooLargeError,
    memory_of,
    open_header,
    refuse_large,
    room_for,
)
from captioning.pictures.pixels import depth_of, strips, to_rgb

_ORIENTATION = 0x0112  # of EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Rows = tuple[int, int]  # the first row, and the last + 1
_NONE = (0, 0)

_LEAST_PART = 0.25  # of a damaged picture; less of it tells too little
_PLAIN = 8.0  # grey levels: a frame of an animation that varies less shows nothing
_CLEAR = 24.0  # a frame that varies as much is taken at once
_MOST_FRAMES = 60  # frames that are looked at
_MOST_FRAME_PIXELS = 500_000_000  # and their pixels, all together


@dataclass(frozen=True)
class _File:
    """An open file, and how it is opened again."""

    file: BinaryIO
    formats: Sequence[str]
    size: int  # pixels to which the picture will be resized
    exif: bytes = b""  # of a file without metadata, the EXIF data that it had

    def open(self, tell: Tell, tail: bytes = b"") -> tuple[ImageFile.ImageFile, tuple[int, int]]:
        """The picture, not decoded yet, and its full size. ``tail``: bytes that are put behind the file."""
        file = joined(self.file, [(0, self.file.seek(0, 2))], tail) if tail else self.file
        image = open_header(file, self.formats, tell)
        if self.exif:
            image.info["exif"] = self.exif
        full = image.size
        # A JPEG may be decoded at a half, quarter or eighth of its size, but not below twice the size that is wanted.
        # For 12 megapixels that is five times as fast. On COCO photographs it changed pixels by 0.7 grey levels on
        # average, and single ones on hard edges by up to 50.
        image.draft(None, (2 * self.size, 2 * self.size))
        return image, full


def decode(
    file: BinaryIO,
    size: int,
    tell: Tell,
    formats: Sequence[str] = FORMATS,
    memory: int = MAX_MEMORY,
    orientation: int = 1,
) -> Image.Image:
    """Decode a picture that will be resized to ``size`` pixels. It is upright, RGB and in its own proportions.

    It takes at most ``memory`` bytes, besides at most 400 MiB for its conversion. ``orientation``: as EXIF has it, for
    a picture that does not say it itself. Raises errors of many kinds, since Pillow's decoders do on damaged files.
    """
    try:
        return _decoded(_File(file, formats, size), tell, memory, orientation)
    except (TooLargeError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        bare = None if getattr(error, "errno", None) else without_metadata(file)
        if bare is None:
            raise
        try:
            image = _decoded(_File(bare[0], formats, size, bare[1]), lambda _: None, memory, orientation)
        except Exception:
            raise error from None
        tell(f"its metadata is damaged and was ignored ({first_line(error)})")
        return image


def _decoded(source: _File, tell: Tell, memory: int, orientation: int) -> Image.Image:
    image, full = source.open(tell)
    needed = _bounded(image, source.file, full, memory)
    with room_for(needed):
        is_animated = image.format != "TIFF" and getattr(image, "is_animated", False)
        rawmodes = [_rawmode(tile.args) for tile in image.tile]
        loaded, (top, bottom) = _load(image, source, tell)
        whole: Image.Image = loaded
        turn = _turn(whole, tell, orientation)
        if bottom - top < whole.height:
            whole = whole.crop((0, top, whole.width, bottom))
        elif is_animated:
            whole = _telling_frame(whole, tell)
        elif whole.mode in ("RGB", "RGBA") and any(";16" in rawmode for rawmode in rawmodes):
            whole = _with_all_bits(whole, source)
        rgb = to_rgb(whole, 2 * source.size)
        return rgb if turn is None else rgb.transpose(turn)


def needed_for(file: BinaryIO, size: int, formats: Sequence[str], memory: int) -> tuple[int, tuple[int, int]]:
    """About how many bytes ``decode`` would take, and the width and height.

    Raises what it would, but decodes nothing.
    """
    image, full = _File(file, formats, size).open(lambda _: None)
    return _bounded(image, file, full, memory), full


def _bounded(image: Image.Image, file: BinaryIO, full: tuple[int, int], memory: int) -> int:
    needed = memory_of(image, file, full)
    refuse_large(needed, full, memory)
    return needed


def _load(image: ImageFile.ImageFile, source: _File, tell: Tell) -> tuple[ImageFile.ImageFile, Rows]:
    """Decode the pixels. Returns the picture, and which of its rows are there.

    Raises the decoder's error where too little is there.
    """
    try:
        image.load()
        return image, (0, image.height)
    except MemoryError:
        raise
    except Exception as error:
        if not image.tile and _has_pixels(image) and getattr(image, "fp", None) is not None:
            # The pixels are there, and what comes behind them is damaged.
            tell(f"its metadata is damaged and was ignored ({first_line(error)})")
            return image, (0, image.height)
        rows = _rows_there(image)
        if rows == _NONE and image.format == "JPEG" and not has_one_scan(source.file):
            # A progressive JPEG is shown when it ends, coarsely if it ends early.
            image, _ = source.open(lambda _: None, JPEG_END)
            try:
                image.load()
            except Exception:
                raise error from None
            rows = (0, image.height) if _spread(image) >= 1 else _NONE  # an even grey where nothing came
            part = "some details of it are missing"
        else:
            part = f"only {(rows[1] - rows[0]) / image.height:.0%} of it is there"
        if rows[1] - rows[0] < _LEAST_PART * image.height:
            raise
        tell(f"damaged: {part} ({first_line(error)})")
        return image, rows


def _has_pixels(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow has made room for the pixels, which it does when decoding begins."""
    try:
        return image.im is not None
    except Exception:  # Pillow has no other way to ask
        return False


def _rows_there(image: ImageFile.ImageFile) -> Rows:
    """The rows of a picture whose decoding failed. ``_NONE`` where there are none, or others are missing between."""
    try:
        image.tile = []  # so that Pillow gives what is decoded
        filled = np.concatenate(
            [np.asarray(strip).reshape(strip.height, -1).any(axis=1) for _, strip in strips(image, 1)]
        )
    except Exception:  # nothing was decoded at all
        return _NONE
    there = filled.nonzero()[0]
    if not there.size or len(there) < 0.8 * (there[-1] + 1 - there[0]):
        return _NONE
    return int(there[0]), int(there[-1]) + 1


def _turn(image: Image.Image, tell: Tell, otherwise: int) -> Image.Transpose | None:
    """How a picture must be turned to stand upright. Damaged EXIF data turns nothing, and is told.

    ``otherwise``: the orientation of a picture that does not say it.
    """
    try:
        exif = image.getexif()
        value: Any = exif.get(_ORIENTATION, otherwise)
        if len(image.info.get("exif") or b"") > 32 and not len(exif):
            raise ValueError("it holds nothing that can be read")
    except Exception as error:
        tell(f"its EXIF data is damaged and was ignored ({first_line(error)})")
        return None
    if isinstance(value, tuple) and value:
        value = value[0]
    turn = _TURNS.get(int(value)) if str(value).strip("\0 ").isdecimal() else None
    if turn is not None:
        try:
            exif.tobytes()
        except Exception as error:
            tell(f"it was turned upright; other EXIF data is damaged and was ignored ({first_line(error)})")
    return turn


def _telling_frame(image: Image.Image, tell: Tell) -> Image.Image:
    """The first frame of an animation that shows something. The first of all where none does."""
    best, most = image.copy(), _spread(image)
    if most >= _PLAIN:
        return best
    chosen = 0
    for number in range(1, min(_MOST_FRAMES, _MOST_FRAME_PIXELS // (image.width * image.height))):
        try:
            image.seek(number)
            spread = _spread(image)
        except Exception:  # its end, or damage
            break
        if spread > most:
            best, most, chosen = image.copy(), spread, number
        if most >= _CLEAR:
            break
    if most < _PLAIN:
        return best
    tell(f"its first frame shows nothing; frame {chosen + 1} is taken")
    return best


def _spread(image: Image.Image) -> float:
    """How much a picture varies: the standard deviation of the channel that varies most, in grey levels."""
    small = to_rgb(image).resize((32, 32), Image.Resampling.BOX)
    return float(np.asarray(small).std(axis=(0, 1)).max())


def _rawmode(args: Any) -> str:
    """How a file stores its pixels, given what Pillow tells its decoder."""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _with_all_bits(image: Image.Image, source: _File) -> Image.Image:
    """A colour picture of 16 bits a channel, scaled by the values that are there. Pillow has read the high bytes.

    Where they fill all 16 bits, the high byte is all. Otherwise the low byte is read too. Raises ValueError where
    Pillow cannot read it.
    """
    highs = [band[1] for band in image.getextrema()]  # type: ignore[index]
    groups = [(0, 3), (3, 4)] if image.mode == "RGBA" else [(0, 3)]
    shifts = [(depth_of((int(max(highs[first:last])) << 8) + 255) or 16) - 8 for first, last in groups]
    if shifts[0] == 8:
        return image
    low, _ = source.open(lambda _: None)
    low.tile = [tile._replace(args=_other_byte(tile.args)) for tile in low.tile]
    try:
        low.load()
    except Exception:
        raise ValueError(
            f"its channels have 16 bits, and its values fill only {shifts[0] + 8}; save it with 8 bits a channel"
        ) from None
    whole = Image.new(image.mode, image.size)
    for (top, high_strip), (_, low_strip) in zip(strips(image, 1), strips(low, 1), strict=True):
        values = (np.asarray(high_strip).astype(np.uint16) << 8) | np.asarray(low_strip)
        for (first, last), shift in zip(groups, shifts, strict=True):
            values[..., first:last] >>= shift
        whole.paste(Image.fromarray(values.astype(np.uint8)), (0, top))
    return whole


def _other_byte(args: Any) -> Any:
    """``args`` of a decoder that reads 16 bits in the other order of bytes, so that it keeps the low ones."""
    rawmode = _rawmode(args)
    order = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[rawmode[-1]]
    swapped = rawmode[:-1] + order
    return (swapped, *args[1:]) if isinstance(args, tuple) else swapped
