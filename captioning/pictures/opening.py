"""Files of strangers, opened with bounds: which files, which formats, and how much memory a picture may take. No Keras.

Only regular files are opened, so neither a FIFO nor a device stops a folder. Pillow may use only the formats that are
named here. Others, such as EPS, would start programs.
"""

import logging
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from captioning.base.errors import first_line
from captioning.pictures.containers import JPEG_START, has_one_scan, without_metadata
from captioning.pictures.extra_formats import MissingLibraryError, is_heif, may_be_avif, register_heif

# What is read, under Pillow's names. HEIF needs a library of its own.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "HEIF")

# A side of a picture may have this many pixels. JPEG itself allows 65,535.
MAX_SIDE = 100_000
# A picture may take this many bytes while it is decoded, and a JPEG may have this many pixels: each takes time.
MAX_MEMORY = 1 << 30
MAX_JPEG_PIXELS = 2_000_000_000
# Pictures that take more bytes than this are decoded one at a time, whatever the number of threads.
LARGE = 128 << 20

# Bytes per pixel that decoders take for whole pictures, beside the picture itself.
_DECODER = {"WEBP": 12, "AVIF": 10, "HEIF": 8, "JPEG2000": 16}
# Bytes per pixel in Pillow's memory; other modes take 4.
_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}

# Pillow refuses pictures with very many pixels, and warns at half that number. A user's own picture needs no warning.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# Pillow warns of odd metadata, without the name of the picture. What matters of it is told with the name.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_one_large = threading.Lock()

# Gets what a user should know of a picture that was read all the same, such as damaged metadata that was ignored.
Tell = Callable[[str], None]


class TooLargeError(ValueError):
    """A picture that would take too much memory or time. The message says what to do."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading. Raises ValueError for a FIFO, a device or a folder, and OSError.

    A FIFO without a writer would be waited for without end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("is not a regular file")

    def unblocked(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=unblocked)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced meanwhile
        file.close()
        raise ValueError("is not a regular file")
    return file


def file_of(source: str | Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """The file of a path, or ``source`` itself, which stays open. Raises as ``open_regular`` does."""
    return open_regular(source) if isinstance(source, str | os.PathLike) else nullcontext(source)


def open_header(file: BinaryIO, formats: Sequence[str], tell: Tell) -> ImageFile.ImageFile:
    """A picture whose pixels are not decoded yet. Metadata that keeps Pillow from opening it is left out, and told."""
    try:
        return open_strictly(file, formats)
    except Image.DecompressionBombError:
        raise
    except Exception as error:  # Pillow raises errors of many kinds on damaged metadata
        bare = None if getattr(error, "errno", None) else without_metadata(file)
        if bare is None:
            raise
        try:
            image = open_strictly(bare[0], formats)
        except Exception:
            raise error from None
        if bare[1]:
            image.info["exif"] = bare[1]
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({first_line(error)})"
        tell(f"its metadata is damaged and was ignored{reason}")
        return image


def open_strictly(file: BinaryIO, formats: Sequence[str] = FORMATS) -> ImageFile.ImageFile:
    """A picture whose pixels are not decoded yet. Raises errors of many kinds where its metadata is damaged."""
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    if head.startswith(JPEG_START + b"\xff") and "JPEG" in formats:
        # Not by Image.open, which refuses JPEGs for the pixels that they have before they are decoded at a fraction.
        return JpegImagePlugin.JpegImageFile(file)
    named = [kind for kind in formats if kind != "HEIF"]
    if "HEIF" in formats and is_heif(head):
        try:
            register_heif()
            named.append("HEIF")
        except MissingLibraryError:
            if not may_be_avif(head):
                raise
    return Image.open(file, formats=named)


def memory_of(image: Image.Image, file: BinaryIO, full: tuple[int, int]) -> int:
    """About how many bytes decoding takes at most. ``full``: the size of a JPEG before it is decoded at a fraction."""
    pixels = image.width * image.height
    needed = pixels * (_PIXEL.get(image.mode, 4) + _DECODER.get(image.format or "", 0))
    if image.format == "JPEG" and not has_one_scan(file):
        needed += full[0] * full[1] * 2 * len(image.getbands())
    if image.format == "TIFF":
        needed += _strip(image)
    return needed


def _strip(image: Image.Image) -> int:
    """The bytes of the largest strip or tile of a TIFF, which is decoded as a whole."""
    tags = image.tag_v2  # type: ignore[attr-defined]  # a TIFF has it
    width, height = int(tags.get(322, image.width)), int(tags.get(323, tags.get(278, image.height)))
    bits = tags.get(258, (8,))
    bits = max(bits) if isinstance(bits, tuple) else int(bits)
    return min(width, MAX_SIDE) * min(height, MAX_SIDE) * int(tags.get(277, 1)) * max(1, bits // 8)


def refuse_large(needed: int, full: tuple[int, int], memory: int) -> None:
    """Raise TooLargeError where a side, the pixels of a JPEG, or the memory that is ``needed`` pass the bounds."""
    if max(full) > MAX_SIDE:
        raise TooLargeError(f"a side of {max(full):,} pixels, more than {MAX_SIDE:,}; cut it into smaller pictures")
    if full[0] * full[1] > MAX_JPEG_PIXELS:
        raise TooLargeError(f"more than {MAX_JPEG_PIXELS // 10**6:,} megapixels; make it smaller")
    if needed > memory:
        megapixels = full[0] * full[1] / 1e6
        raise TooLargeError(
            f"{megapixels:,.0f} megapixels, which would take {needed / 2**20:,.0f} MiB, more than {memory >> 20:,}; "
            "make it smaller"
        )


@contextmanager
def room_for(needed: int) -> Iterator[None]:
    """Wait until a picture that takes ``needed`` bytes may be decoded: of large ones only one at a time."""
    with _one_large if needed > LARGE else nullcontext():
        yield
