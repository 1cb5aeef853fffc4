"""Damaged pictures, damaged metadata and animations: what is there is read, upright, and what was ignored is told."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from strange_pictures import BLUE, RED, chunk, halves, saved

from captioning.features.looks import Look
from captioning.pictures.loading import UnreadableImage, load_image
from captioning.pictures.notes import Notes

# Pillow warns of damage that it passes over. The scripts silence it, since such a warning does not name the picture.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def read(data: bytes, size: int = 16) -> tuple[np.ndarray, list[str]]:
    """The pixels, and what was told."""
    told: list[str] = []
    return load_image(io.BytesIO(data), size, told.append), told


def assert_upright(pixels: np.ndarray) -> None:
    """Red above and blue below, as the halves stand that were stored lying on their side."""
    np.testing.assert_allclose(pixels[0, 8], RED, atol=12)
    np.testing.assert_allclose(pixels[-1, 8], BLUE, atol=12)


# Metadata -------------------------------------------------------------------------------------------------------------


def exif(*entries: tuple[int, int, int, bytes], orientation: int = 6) -> bytes:
    """EXIF data with the orientation and other entries: tag, type, count and four bytes."""
    rows = sorted([(0x0112, 3, 1, struct.pack(">HH", orientation, 0)), *entries])
    body = b"".join(struct.pack(">HHI4s", *row) for row in rows)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(rows)) + body + bytes(4)


WRONG = {
    "resolution unit as text": (0x0128, 2, 3, b"ab\0\0"),
    "a date as a number": (0x0132, 3, 1, b"\0\x07\0\0"),
    "a maker that lies behind the end": (0x010F, 2, 90, b"\0\0\xff\xff"),
    "a rational that divides by zero": (0x011A, 5, 1, b"\0\0\0\0"),
    "an unknown type": (0x0131, 99, 1, b"abcd"),
    "a sub-directory at nowhere": (0x8769, 4, 1, b"\xff\xff\xff\xff"),
    "a sub-directory as text": (0x8825, 2, 4, b"abc\0"),
}


@pytest.mark.parametrize("entry", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_wrong_entry_of_exif_does_not_keep_a_picture_from_standing_upright(kind, entry):
    picture = saved(halves(), kind, exif=exif(entry), **({"quality": 95} if kind != "PNG" else {}))
    assert_upright(read(picture)[0])


def test_what_was_ignored_is_told():
    pixels, told = read(saved(halves(), "JPEG", exif=exif(WRONG["resolution unit as text"]), quality=95))
    assert_upright(pixels)
    assert told == [
        "the given image data: it was turned upright; other EXIF data is damaged and was ignored "
        "(required argument is not an integer)"
    ]
    pixels, told = read(saved(halves(), "JPEG", exif=b"Exif\0\0" + b"no directory of EXIF is here at all", quality=95))
    np.testing.assert_allclose(pixels[8, 0], RED, atol=12)
    assert len(told) == 1
    assert "EXIF data is damaged and was ignored" in told[0]
    assert read(saved(halves(), "JPEG", exif=exif()))[1] == []


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    pixels, told = read(saved(halves(), "PNG", exif=exif(orientation=orientation)))
    assert tuple(pixels[8, 0]) == RED
    assert told == []


@pytest.mark.parametrize("at", ["before", "behind"])
@pytest.mark.parametrize(
    "damage",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iTXt", b"Description\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"zTXt", b"Comment\0\0no zlib"),
        chunk(b"tEXt", b"Comment\0words")[:-1] + b"?",
        chunk(b"iCCP", b"profile\0\0no zlib"),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"eXIf", b"MM\0*")[:-1] + b"?",
        chunk(b"acTL", b"\0"),
    ],
    ids=["zTXt", "iTXt", "no zlib", "checksum", "profile", "resolution", "gamma", "exif", "animation"],
)
def test_damaged_chunks_of_a_png(damage, at):
    data = saved(halves(), "PNG")
    place = 33 if at == "before" else len(data) - 12
    pixels, _ = read(data[:place] + damage + data[place:])
    assert tuple(pixels[8, 0]) == RED
    assert tuple(pixels[8, -1]) == BLUE


def test_damaged_chunks_are_told_and_the_orientation_beside_them_counts():
    data = saved(halves(), "PNG", exif=exif())
    pixels, told = read(data[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))) + data[33:])
    assert_upright(pixels)
    assert told == [
        "the given image data: its metadata is damaged and was ignored "
        "(Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK)"
    ]


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe0\x00\x04JF",
        b"\xff\xe1\x00\x08Exif\0\0",
        b"\xff\xe2\x00\x0eICC_PROFILE\0",
        b"\xff\xe2\x00\x0aMPF\0MM\0*",
        b"\xff\xed\x00\x1aPhotoshop 3.0\x008BIM\x04\x04\0\0",
        b"\xff\xee\x00\x07Adobe",
    ],
    ids=["JFIF", "Exif", "profile", "MPF", "Photoshop", "Adobe"],
)
def test_damaged_segments_of_a_jpeg(segment):
    data = saved(halves(), "JPEG", exif=exif(), quality=95)
    assert_upright(read(data[:2] + segment + data[2:])[0])


@pytest.mark.parametrize("length", [0, 1, 9, 700, 65535])
def test_a_segment_of_a_wrong_length(length):
    preview = saved(Image.new("RGB", (16, 16), "green"), "JPEG")
    data = saved(halves(160, 80), "JPEG", exif=exif() + preview, quality=95)
    at = data.index(b"Exif") - 2
    pixels, told = read(data[:at] + struct.pack(">H", length) + data[at + 2 :])
    assert_upright(pixels)
    assert "metadata is damaged and was ignored" in told[0]


@pytest.mark.parametrize("length", [0, 3, 30, 1_000_000_000])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_chunk_of_a_wrong_length(mode, length):
    data = saved(halves(64, 32).convert(mode), "PNG", exif=exif())
    damaged = struct.pack(">I", length) + chunk(b"tEXt", b"Comment\0words")[4:]
    pixels, told = read(data[:33] + damaged + data[33:])
    assert_upright(pixels)
    assert "metadata is damaged and was ignored" in told[0]


# Cut and damaged files ------------------------------------------------------------------------------------------------


def photo(width: int = 160, height: int = 120) -> Image.Image:
    """Red above, blue below, and noise over it, so that bytes and rows go together."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (0, height // 2, width, height))
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    return Image.fromarray(np.abs(np.asarray(picture).astype(int) - noise).clip(1, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_of_a_cut_file_the_part_that_is_there_is_read(kind):
    data = saved(photo(), kind)
    whole, told = read(data)
    assert told == []
    head = 600 if kind == "JPEG" else 0
    pixels, told = read(data[: head + (len(data) - head) * 9 // 10])
    assert len(told) == 1
    assert re.search("damaged: only (8|9).% of it is there", told[0])
    upper = np.asarray(Image.fromarray(whole).resize((16, 16), box=(0, 0, 16, 14.2)))
    assert np.abs(pixels.astype(int) - upper).mean() < 12, "no black or grey band below"
    assert pixels[-1, :, 2].min() > 150
    with pytest.raises(UnreadableImage, match="cannot be read"):
        load_image(io.BytesIO(data[: head + len(data) // 10]), 16)


def test_a_bmp_is_cut_at_its_top():
    pixels, told = read((data := saved(photo(), "BMP"))[: len(data) * 9 // 10])
    assert re.search("damaged: only (8|9).% of it is there", told[0])
    assert pixels[0, :, 0].min() > 150


def test_a_cut_progressive_jpeg_is_read_coarsely():
    data = saved(photo(), "JPEG", progressive=True, quality=90)
    whole, _ = read(data)
    pixels, told = read(data[: len(data) * 6 // 10])
    assert "damaged: some details of it are missing" in told[0]
    assert np.abs(pixels.astype(int) - whole).mean() < 12
    with pytest.raises(UnreadableImage, match="truncated"):
        load_image(io.BytesIO(data[: data.index(b"\xff\xda") + 14]), 16)  # its pixels would all be grey


def test_a_cut_picture_lying_on_its_side_is_cut_before_it_is_turned():
    data = saved(photo(), "JPEG", exif=exif(orientation=8))  # its upper part is to the left
    pixels, told = read(data[: len(data) * 9 // 10])
    assert len(told) == 1
    assert pixels[:, 0, 0].min() > 150
    assert pixels[:, -1, 2].min() > 150


def test_rows_that_are_missing_between_others_are_not_read_as_black():
    lines = saved(photo(), "PNG")
    interlaced = lines[:28] + b"\1" + lines[29:33]
    interlaced = interlaced[:29] + struct.pack(">I", zlib.crc32(interlaced[12:29])) + lines[33:]
    with pytest.raises(UnreadableImage):
        load_image(io.BytesIO(interlaced[: len(interlaced) // 2]), 16)


def test_formats_without_parts_are_refused_when_they_are_cut():
    for kind in ("WEBP", "AVIF", "GIF"):
        data = saved(photo(), kind)
        with pytest.raises(UnreadableImage):
            load_image(io.BytesIO(data[: len(data) // 5]), 16)


def test_extraction_tells_of_damaged_pictures_too(tmp_path, capsys):
    path = tmp_path / "cut.jpg"
    data = saved(photo(), "JPEG")
    path.write_bytes(data[: len(data) * 9 // 10])
    with Notes(2) as notes:
        for look in (Look(), Look(crop=1, share=0.5), Look(view=1)):
            assert look.load(path, "cut.jpg", 16, notes).any()
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 3
    assert shown[0].startswith(f"note: {path}: damaged: only ")
    assert shown[2] == "note: ... and 1 more notes on pictures"


# Animations -----------------------------------------------------------------------------------------------------------


def animation(kind: str, frames: list[Image.Image]) -> bytes:
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


BLACK, WHITE = Image.new("RGB", (64, 32)), Image.new("RGB", (64, 32), "white")
DIM = Image.blend(BLACK, halves(), 0.1)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    "first", [[BLACK], [WHITE], [BLACK, WHITE], [BLACK, DIM]], ids=["black", "white", "two", "fading in"]
)
def test_of_an_animation_a_frame_is_taken_that_shows_something(kind, first):
    pixels, told = read(animation(kind, [*first, halves(), BLACK]))
    np.testing.assert_allclose(pixels[8, 0], RED, atol=20)
    np.testing.assert_allclose(pixels[8, -1], BLUE, atol=20)
    assert told == [f"the given image data: its first frame shows nothing; frame {len(first) + 1} is taken"]


def test_a_first_frame_that_shows_something_is_taken():
    turned = halves().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels, told = read(animation("GIF", [halves(), turned]))
    assert tuple(pixels[8, 0]) == RED
    assert told == []


def test_animations_that_show_nothing_or_end_early():
    pixels, told = read(animation("GIF", [BLACK, Image.new("RGB", (64, 32), (2, 2, 2))]))
    assert not pixels.any()
    assert told == []
    data = animation("GIF", [BLACK, photo().resize((64, 32)), BLACK])
    for length in range(len(data) // 3, len(data), len(data) // 9):
        assert read(data[:length])[0].shape == (16, 16, 3)
