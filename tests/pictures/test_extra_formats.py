"""HEIC and RAW: read where their libraries are installed; elsewhere the message says how to install them."""

import io
import struct

import numpy as np
import pytest
from strange_pictures import BLUE, RED, halves, saved

from captioning.pictures import extra_formats
from captioning.pictures.loading import UnreadableImage, load_image


@pytest.mark.parametrize(
    ("name", "content", "library"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(20), "pillow-heif"),
        ("a.jpg", b"\0\0\0\x18ftypheix" + bytes(20), "pillow-heif"),
        ("a.NEF", b"II*\0\x08\0\0\0" + bytes(20), "rawpy"),
        ("a.cr3", b"\0\0\0\x18ftypcrx " + bytes(20), "rawpy"),
    ],
)
def test_a_missing_library_is_named(name, content, library, tmp_path, monkeypatch):
    monkeypatch.setattr(extra_formats, "has_library", lambda _: False)
    extra_formats.register_heif.cache_clear()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UnreadableImage, match=rf"{name}: .* is read by {library}, .*; pip install -e '?\"?\.\[formats\]"
    ):
        load_image(tmp_path / name, 16)


def test_heic():
    pillow_heif = pytest.importorskip("pillow_heif")
    extra_formats.register_heif.cache_clear()
    file = io.BytesIO()
    pillow_heif.from_pillow(halves(256, 128)).save(file, quality=90)
    told: list[str] = []
    pixels = load_image(file, 16, told.append)
    np.testing.assert_allclose(pixels[8, 0], RED, atol=12)
    np.testing.assert_allclose(pixels[8, -1], BLUE, atol=12)
    assert told == []
    for length in (20, len(file.getvalue()) // 2, len(file.getvalue()) * 9 // 10):
        with pytest.raises(UnreadableImage, match="cannot be read as a picture"):
            load_image(io.BytesIO(file.getvalue()[:length]), 16)


# A DNG file with a preview: TIFF 6.0 and Adobe's DNG specification 1.4.
_PREVIEW, _RAW, _BELOW = 4096, 16384, 2048


def _directory(at: int, *entries: tuple[int, str, list[int]]) -> bytes:
    """A TIFF directory at byte ``at``: tag, type as ``struct`` writes it, values."""
    types = {"B": 1, "H": 3, "I": 4, "r": 10}
    body, beyond, start = b"", b"", at + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        data = struct.pack(f"<{len(values)}{'i' if kind == 'r' else kind}", *values)
        count = len(values) // (2 if kind == "r" else 1)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", start + len(beyond))
        beyond += data if len(data) > 4 else b""
        body += struct.pack("<HHI", tag, types[kind], count) + place
    return struct.pack("<H", len(entries)) + body + bytes(4) + beyond


def dng(preview: bytes, orientation: int) -> bytes:
    pixels = np.random.default_rng(0).integers(100, 4000, (64, 64)).astype("<u2").tobytes()
    unit = [number for row in range(3) for column in range(3) for number in (int(row == column), 1)]
    first = _directory(
        8, (254, "I", [1]), (256, "I", [256]), (257, "I", [128]), (258, "H", [8] * 3), (259, "H", [7]), (262, "H", [6]),
        (273, "I", [_PREVIEW]), (274, "H", [orientation]), (277, "H", [3]), (278, "I", [128]), (279, "I", [len(preview)]),
        (330, "I", [_BELOW]), (50706, "B", [1, 4, 0, 0]), (50721, "r", unit), (50728, "r", [1] * 6), (50778, "H", [21]),
    )  # fmt: skip
    below = _directory(
        _BELOW, (254, "I", [0]), (256, "I", [64]), (257, "I", [64]), (258, "H", [16]), (259, "H", [1]),
        (262, "H", [32803]), (273, "I", [_RAW]), (277, "H", [1]), (278, "I", [64]), (279, "I", [len(pixels)]),
        (33421, "H", [2, 2]), (33422, "B", [0, 1, 1, 2]), (50717, "I", [4095]),
    )  # fmt: skip
    head = (b"II*\0\x08\0\0\0" + first).ljust(_BELOW, b"\0") + below
    return (head.ljust(_PREVIEW, b"\0") + preview).ljust(_RAW, b"\0") + pixels


def test_raw_gives_its_preview_upright(tmp_path):
    pytest.importorskip("rawpy")
    preview = saved(halves(256, 128), "JPEG", quality=95)
    (tmp_path / "a.dng").write_bytes(dng(preview, 1))
    pixels = load_image(tmp_path / "a.dng", 16)
    np.testing.assert_allclose(pixels[8, 0], RED, atol=12)
    (tmp_path / "a.dng").write_bytes(dng(preview, 6))
    pixels = load_image(tmp_path / "a.dng", 16)
    np.testing.assert_allclose(pixels[0, 8], RED, atol=12)
    np.testing.assert_allclose(pixels[-1, 8], BLUE, atol=12)
    # LibRaw may give a file that is cut off a preview with random memory behind its end, as the second one has zeros.
    for damaged in (dng(preview, 1)[:3000], dng(preview[:700].ljust(len(preview), b"\0"), 1)):
        (tmp_path / "a.dng").write_bytes(damaged)
        with pytest.raises(
            UnreadableImage, match=r"a\.dng: .*no preview in this RAW file can be read .*; convert it to JPEG"
        ):
            load_image(tmp_path / "a.dng", 16)
