"""The parts of JPEG and PNG files, found without decoding anything. Needs no Keras.

JPEG: ITU-T T.81, annex B. PNG: https://www.w3.org/TR/png-3/. Both walks raise ValueError, struct.error or zlib.error on
damaged files.
"""

import io
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO

JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Span = tuple[int, int]  # first byte, last byte + 1

# The chunks that decide how a PNG looks, animated or not. Cameras' orientation is in eXIf.
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"eXIf"}
_LENGTHS = {b"acTL": 8, b"fcTL": 26}
_MOST_CHECKED = 1 << 20  # bytes of a chunk whose checksum is computed


def jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """First byte, last byte + 1, marker and content of each segment before the compressed pixels.

    Afterwards ``file`` stands behind the marker that begins the first scan.
    """
    start = file.seek(2)
    while True:
        head = file.read(2)
        while head == b"\xff\xff":  # any number of such bytes may come before a marker
            head = head[1:] + file.read(1)
        (marker,) = struct.unpack(">H", head)
        if marker in (0xFFDA, 0xFFD9):
            return
        (length,) = struct.unpack(">H", file.read(2))
        content = file.read(length - 2)
        if marker < 0xFFC0 or 0xFFD0 <= marker <= 0xFFD8 or len(content) != length - 2:
            raise ValueError(f"no segment at byte {start}")
        yield start, file.tell(), marker & 0xFF, content
        start = file.tell()


def png_chunks(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """First byte, last byte + 1 and kind of each chunk. Meanwhile ``file`` stands where the chunk's content begins."""
    start, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        end = start + 12 + length
        yield start, end, kind
        start = end


def has_one_scan(file: BinaryIO) -> bool:
    """Whether a JPEG is sequential, with one scan, so that it is decoded row by row.

    Otherwise the decoder holds the coefficients of all its pixels.
    """
    try:
        frames = [content for _, _, marker, content in jpeg_segments(file) if marker in (0xC0, 0xC1)]
        _, in_scan = struct.unpack(">HB", file.read(3))
        return len(frames) == 1 and frames[0][5] == in_scan
    except (ValueError, IndexError, struct.error):
        return False


def without_metadata(file: BinaryIO) -> tuple[BinaryIO, bytes] | None:
    """A JPEG or PNG file without what is not needed for its pixels, and the EXIF data that was in the JPEG.

    None for other files, and where the parts of the file cannot be told.
    """
    file.seek(0)
    head = file.read(len(PNG_SIGNATURE))
    try:
        if head.startswith(JPEG_START):
            return _bare_jpeg(file)
        if head == PNG_SIGNATURE:
            return _bare_png(file), b""
    except (ValueError, struct.error):
        pass
    return None


def _bare_jpeg(file: BinaryIO) -> tuple[BinaryIO, bytes]:
    kept, exif = [(0, 2)], b""
    for start, end, marker, content in jpeg_segments(file):
        if marker == 0xE1 and content.startswith(b"Exif\0") and not exif:
            exif = content
        # JFIF and Adobe's segment say how colours are stored.
        describes = marker == 0xE0 or (marker == 0xEE and len(content) >= 12)
        if describes or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append((start, end))
    kept.append((file.tell() - 2, file.seek(0, io.SEEK_END)))
    return joined(file, kept), exif


def _bare_png(file: BinaryIO) -> BinaryIO:
    kept = [(0, len(PNG_SIGNATURE))]
    for start, end, kind in png_chunks(file):
        length = end - start - 12
        if kind not in _PNG_PIXELS or _LENGTHS.get(kind, length) != length:
            continue
        if kind in (b"eXIf", b"acTL", b"fcTL") and not _is_whole(file, length):
            continue
        if kept[-1][1] == start:
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
    return joined(file, kept)


def _is_whole(file: BinaryIO, length: int) -> bool:
    """Whether the checksum of the chunk whose content begins here is right."""
    if length > _MOST_CHECKED:
        return False
    file.seek(-4, io.SEEK_CUR)
    content = file.read(4 + length)
    return file.read(4) == struct.pack(">I", zlib.crc32(content))


def joined(file: BinaryIO, spans: Sequence[Span], tail: bytes = b"") -> BinaryIO:
    """A file that consists of ``spans`` of another one, then ``tail``. Nothing is copied."""
    return io.BufferedReader(_Joined(file, spans, tail))


class _Joined(io.RawIOBase):
    def __init__(self, file: BinaryIO, spans: Sequence[Span], tail: bytes):
        self._file, self._spans, self._tail = file, spans, tail
        self._starts = [0, *accumulate(end - start for start, end in spans)]  # of each span, then of the tail
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1] + len(self._tail)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer) -> int:
        number = bisect_right(self._starts, self._at) - 1
        inside = self._at - self._starts[number]
        if number == len(self._spans):
            data = self._tail[inside : inside + len(buffer)]
        else:
            start, end = self._spans[number]
            self._file.seek(start + inside)
            data = self._file.read(min(len(buffer), end - start - inside))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
