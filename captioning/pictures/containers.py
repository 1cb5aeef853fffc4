"""The parts of JPEG and PNG files, found without decoding anything. Needs no Keras.

JPEG: ITU-T T.81, annex B. PNG: https://www.w3.org/TR/png-3/. Both walks raise ValueError, struct.error or zlib.error on
damaged files.
"""

import io
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
_WINDOW = 1 << 20  # bytes behind a wrong length that are searched
_MOST_TRIED = 20  # places there that are tried


def jpeg_segments(file: BinaryIO, start: int = len(JPEG_START)) -> Iterator[tuple[int, int, int, bytes]]:
    """First byte, last byte + 1, marker and content of each segment from ``start`` to the compressed pixels.

    Afterwards ``file`` stands behind the marker that begins the first scan.
    """
    file.seek(start)
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


def png_chunks(file: BinaryIO, start: int = len(PNG_SIGNATURE)) -> Iterator[tuple[int, int, bytes]]:
    """First byte, last byte + 1 and kind of each chunk from ``start``.

    Meanwhile ``file`` stands where the chunk's content begins.
    """
    kind = b""
    while kind != b"IEND":
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if not kind.isalpha():
            raise ValueError(f"no chunk at byte {start}")
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
    kept, exif, at = [(0, 2)], b"", 2
    try:
        for at, end, marker, content in jpeg_segments(file):
            exif = exif or (content if marker == 0xE1 and content.startswith(b"Exif\0") else b"")
            # JFIF and Adobe's segment say how colours are stored.
            describes = marker == 0xE0 or (marker == 0xEE and len(content) >= 12)
            if describes or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                kept.append((at, end))
        at = file.tell() - 2
    except (ValueError, struct.error):
        at, lost = _tables(file, at)
        exif = max(exif, lost, key=len)
    kept.append((at, file.seek(0, io.SEEK_END)))
    return joined(file, kept), exif


def _tables(file: BinaryIO, start: int) -> tuple[int, bytes]:
    """Where the tables of a JPEG begin behind a segment with a wrong length, and the EXIF data between.

    The preview in EXIF data is a JPEG too, so the tables of the largest picture are taken. Raises ValueError.
    """
    file.seek(start)
    window = file.read(_WINDOW)
    best, place = 0, 0
    for found in list(re.finditer(rb"\xff\xdb\x00", window))[:_MOST_TRIED]:
        with suppress(ValueError, struct.error, IndexError):
            for _, _, marker, content in jpeg_segments(file, start + found.start()):
                height, width = struct.unpack(">HH", content[1:5]) if 0xC0 <= marker <= 0xC2 else (0, 0)
                if height * width > best:
                    best, place = height * width, found.start()
    if not best:
        raise ValueError("no tables of a JPEG")
    exif = window.find(b"Exif\0\0", 0, place)
    return start + place, window[exif:place] if exif >= 0 else b""


def _bare_png(file: BinaryIO) -> BinaryIO:
    kept = [(0, len(PNG_SIGNATURE))]
    for start, end, kind in _found_chunks(file):
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


def _found_chunks(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """As ``png_chunks``.

    Behind a chunk with a wrong length it goes on at the next chunk that is needed for the pixels.
    """
    last = 0
    try:
        for start, end, kind in png_chunks(file):
            last = start
            yield start, end, kind
    except (ValueError, struct.error):
        file.seek(last + 8)
        window = file.read(_WINDOW)
        for found in list(re.finditer(b"PLTE|IDAT|eXIf", window))[:_MOST_TRIED]:
            start = last + 8 + found.start() - 4
            file.seek(start)
            (length,) = struct.unpack(">I", file.read(4))
            file.seek(4, io.SEEK_CUR)
            if length <= _MOST_CHECKED and _is_whole(file, length):
                yield from png_chunks(file, start)
                return
        raise


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
