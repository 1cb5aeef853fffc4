"""Formats of phones and cameras that need libraries of their own: HEIC by pillow-heif, the previews of RAW by rawpy.

Both come with ``pip install -e ".[formats]"``. Nothing is imported before it is needed. Needs no Keras.
"""

import importlib.util
import io
import os
from functools import cache
from typing import BinaryIO

HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
RAW_SUFFIXES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}
INSTALL = 'pip install -e ".[formats]"'

# The brands of HEIF files. The latter may hold AV1 instead of HEVC, which Pillow reads itself.
_HEVC = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"}
_EITHER = {b"mif1", b"msf1"}
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # LibRaw's number for how a picture is turned: that of EXIF
_MAX_RAW = 1 << 30  # bytes of a RAW file, which is held in memory


class MissingLibraryError(ValueError):
    """A format whose library is not installed. The message says how to install it."""


@cache
def has_library(name: str) -> bool:
    """Whether a library is installed."""
    return importlib.util.find_spec(name) is not None


def readable_suffixes() -> set[str]:
    """The suffixes of these formats that can be read here."""
    heif = HEIF_SUFFIXES if has_library("pillow_heif") else set()
    return heif | (RAW_SUFFIXES if has_library("rawpy") else set())


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with ``head``, 12 bytes or more, may be HEIC."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEVC | _EITHER


def may_be_avif(head: bytes) -> bool:
    """Whether a HEIF file that begins with ``head`` may hold a format that Pillow reads itself."""
    return head[8:12] in _EITHER


@cache
def register_heif() -> None:
    """Let Pillow read HEIF. Raises MissingLibraryError."""
    if not has_library("pillow_heif"):
        raise MissingLibraryError(
            f"HEIC is read by pillow-heif, which is not installed; {INSTALL}, or convert it to JPEG"
        )
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)


def is_raw(name: str) -> bool:
    """Whether a file name ends like that of a camera's RAW file."""
    return os.path.splitext(name)[1].lower() in RAW_SUFFIXES


def raw_preview(file: BinaryIO) -> tuple[BinaryIO, int]:
    """The preview that a camera has put into a RAW file, as a JPEG or BMP file, and the orientation as in EXIF.

    Raises ValueError and MissingLibraryError.
    """
    if not has_library("rawpy"):
        raise MissingLibraryError(f"RAW is read by rawpy, which is not installed; {INSTALL}, or convert it to JPEG")
    import rawpy
    from PIL import Image

    if file.seek(0, io.SEEK_END) > _MAX_RAW:
        raise ValueError(f"larger than {_MAX_RAW >> 30} GiB")
    file.seek(0)
    try:
        with rawpy.imread(file) as raw:
            preview = raw.extract_thumb()
            orientation = _ORIENTATIONS.get(raw.sizes.flip, 1)
            if preview.format == rawpy.ThumbFormat.JPEG:
                return io.BytesIO(preview.data), orientation
            bitmap = io.BytesIO()
            Image.fromarray(preview.data).save(bitmap, "BMP")
            return bitmap, orientation
    except rawpy.LibRawError as error:
        raise no_preview(_words(error)) from None


def no_preview(reason: str) -> ValueError:
    """The error about a RAW file whose preview cannot be read."""
    return ValueError(f"no preview in this RAW file can be read ({reason}); convert it to JPEG")


def _words(error: Exception) -> str:
    """The message of LibRaw, which gives bytes."""
    found = error.args[0] if error.args else ""
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)
