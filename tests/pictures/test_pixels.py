"""Pictures of more than 8 bits a channel: scaled by the values that are there."""

import io

import numpy as np
import pytest
from PIL import Image
from strange_pictures import png, saved

from captioning.pictures.loading import UnreadableImage, load_image


def ramp(most: float, kind: str, least: float = 0) -> np.ndarray:
    """From the ``least`` value on the left to the greatest on the right."""
    return np.tile(np.linspace(least, most, 32), (32, 1)).astype(kind)


def seen(data: bytes) -> np.ndarray:
    """The row of grey levels in the middle."""
    found = load_image(io.BytesIO(data), 32)
    assert (found == found[..., :1]).all()
    return found[16, :, 0].astype(int)


def tiff(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values), "TIFF")


@pytest.mark.parametrize("most", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_as_many_bits_as_hold_all_values_are_taken(most, kind):
    np.testing.assert_allclose(seen(tiff(ramp(most, kind))), np.linspace(0, 255, 32), atol=1)


@pytest.mark.parametrize(
    ("values", "first", "last"),
    [
        (ramp(1, "float32"), 0, 255),  # shares of white
        (ramp(0.5, "float32"), 0, 127),
        (ramp(1, "int32"), 0, 255),  # a mask
        (ramp(200, "float32"), 0, 200),
        (ramp(3000, "int32", -1000), 0, 255),  # heights, X-rays
        (ramp(1, "float32", -1), 0, 255),
        (ramp(10_000_000, "int32", 5_000_000), 0, 255),
        (ramp(0, "int32"), 0, 0),
        (ramp(3, "int32", 3), 3, 3),
    ],
    ids=["fractions", "half", "mask", "bytes", "heights", "around zero", "large", "black", "plain"],
)
def test_other_ranges(values, first, last):
    found = seen(tiff(values))
    np.testing.assert_allclose(found[[0, -1]], [first, last], atol=1)


def test_what_is_no_number_is_left_out():
    values = ramp(1, "float32")
    values[0, :4] = np.nan, np.inf, -np.inf, np.nan
    np.testing.assert_allclose(seen(tiff(values)), np.linspace(0, 255, 32), atol=1)
    with pytest.raises(UnreadableImage, match="none of its pixels is a number; save it with 8 bits"):
        load_image(io.BytesIO(tiff(values * np.nan)), 32)


def deep_png(most: int, colour: int, channels: int) -> bytes:
    values = np.repeat(ramp(most, "uint16")[..., None], channels, axis=-1).astype(">u2")
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque
    lines = b"".join(b"\0" + row.tobytes() for row in values)
    return png(32, 32, lines, colour, 16)


@pytest.mark.parametrize("most", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (6, 4)], ids=["grey", "rgb", "rgba"])
def test_deep_pngs(most, colour, channels):
    np.testing.assert_allclose(seen(deep_png(most, colour, channels)), np.linspace(0, 255, 32), atol=1)


def test_what_cannot_be_read_in_full_depth_is_refused():
    np.testing.assert_allclose(seen(deep_png(65535, 4, 2)), np.linspace(0, 255, 32), atol=1)
    with pytest.raises(UnreadableImage, match="fill only 12; save it with 8 bits a channel"):
        load_image(io.BytesIO(deep_png(4095, 4, 2)), 32)


def test_deep_colours_of_a_tiff():
    values = np.repeat(ramp(4095, "uint16")[..., None], 3, axis=-1)
    # Pillow writes no such file: a TIFF of one strip, 16 bits a channel, little-endian.
    tags = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 200)]
    tags += [(277, 3, 1, 3), (278, 4, 1, 32), (279, 4, 1, values.nbytes)]
    head = b"II*\0" + (20).to_bytes(4, "little") + np.full(3, 16, "<u2").tobytes() + bytes(6)
    body = len(tags).to_bytes(2, "little") + b"".join(
        np.array(tag[:2], "<u2").tobytes() + np.array(tag[2:], "<u4").tobytes() for tag in tags
    )
    data = (head + body + bytes(4)).ljust(200, b"\0") + values.astype("<u2").tobytes()
    np.testing.assert_allclose(seen(data), np.linspace(0, 255, 32), atol=1)
