import io

import numpy as np
import pytest
from PIL import Image

from captioning.base.errors import UserError
from captioning.pictures import loading

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(width: int = 64, height: int = 32) -> Image.Image:
    """Left half red, right half blue."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


def load(picture: Image.Image, size: int = 16, **options) -> np.ndarray:
    file = io.BytesIO()
    picture.save(file, **options)
    file.seek(0)
    return loading.load_image(file, size)


def test_squashes_the_whole_picture(tmp_path):
    halves(200, 20).save(tmp_path / "wide.png")
    pixels = loading.load_image(tmp_path / "wide.png", 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[-1, -1]) == BLUE


def test_right_size_is_not_resampled(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    np.testing.assert_array_equal(loading.load_image(tmp_path / "noise.png", 24), noise)


def plane() -> io.BytesIO:
    """Red grows from 0 to 255 to the right, green downwards."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 300)
    pixels[..., 1] = np.linspace(0, 255, 200)[:, None]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file


def test_crops_keep_their_share_of_the_picture():
    kept = []
    for seed in range(60):
        pixels = loading.load_varied(plane(), 32, 0.5, 0.0, np.random.default_rng(seed))
        assert pixels.shape == (32, 32, 3)
        width, height = (np.ptp(pixels[..., channel].mean(axis=channel)) / 255 for channel in (0, 1))
        kept.append(width * height)
    assert 0.42 < min(kept) < 0.6  # averaging over a pixel takes a little off each end
    assert 0.85 < max(kept) <= 1
    whole = loading.load_varied(plane(), 32, 1.0, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(whole, loading.load_image(plane(), 32))


def test_colours_change_a_little_and_by_the_seed():
    grey = Image.new("RGB", (16, 16), (128, 100, 90))
    means = []
    for seed in (*range(40), 0):
        file = io.BytesIO()
        grey.save(file, "PNG")
        pixels = loading.load_varied(file, 16, 1.0, 0.1, np.random.default_rng(seed)).astype(float)
        assert (pixels == pixels[0, 0]).all()
        means.append(pixels.mean())
    assert means[0] == means[-1]
    assert 92 < min(means) < 102 < 110 < max(means) < 120


def test_erasing_puts_noise_into_a_rectangle_of_the_published_sizes():
    plain = np.zeros((80, 80, 3), np.uint8)
    areas, aspects = [], []
    for seed in range(200):
        erased = (loading.erase_rectangle(plain, np.random.default_rng(seed)) > 0).any(axis=2)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.append(height * width / 6400)
        aspects.append(height / width)
    assert 0.018 < min(areas) < 0.05 < 0.3 < max(areas) < 0.42
    assert 0.28 < min(aspects) < 0.5 < 2.8 < max(aspects) < 3.5
    noise = loading.erase_rectangle(plain, np.random.default_rng(0))
    noise = noise[noise.any(axis=2)]
    assert abs(noise.mean() - 127.5) < 5
    assert noise.std() > 60, "each number is drawn"


def test_a_share_of_the_pictures_is_erased_and_the_rest_stays_as_without_erasing():
    file = io.BytesIO()
    halves().save(file, "BMP")

    def varied(seed: int, **erase: float) -> np.ndarray:
        file.seek(0)
        return loading.load_varied(file, 24, 0.8, 0.1, np.random.default_rng(seed), **erase)

    changed = [(varied(seed, erase=0.5) != varied(seed)).any(axis=2).mean() for seed in range(24)]
    assert 5 < sum(share > 0 for share in changed) < 19
    assert max(changed) < 0.45, "crop and colours are the same"


def test_views_are_the_picture_its_middle_and_both_mirrored():
    pixels = loading.load_image(plane(), 40)
    plain, mirrored, middle, both = (loading.view(pixels, number) for number in range(4))
    np.testing.assert_array_equal(plain, pixels)
    np.testing.assert_array_equal(mirrored, pixels[:, ::-1])
    np.testing.assert_array_equal(both, middle[:, ::-1])
    assert middle.shape == pixels.shape
    # Red runs from 0 to 255 over the whole picture, so over its middle from 7.5% to 92.5% of that; green downwards.
    row, column = middle[20, :, 0].astype(float), middle[:, 20, 1].astype(float)
    for line in (row, column):
        np.testing.assert_allclose(line[[1, 38]], 255 * np.interp([1.5, 38.5], [0, 40], [0.075, 0.925]), atol=4)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn a quarter clockwise to view
    pixels = load(halves(), format="JPEG", exif=exif, quality=95)
    np.testing.assert_allclose(pixels[0, 8], RED, atol=12)
    np.testing.assert_allclose(pixels[-1, 8], BLUE, atol=12)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    picture = Image.new("RGB", (20, 20), "white").convert(mode)
    pixels = load(picture, format="TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(pixels, np.full((16, 16, 3), 255))


def test_cmyk_jpeg_keeps_its_colours():
    pixels = load(halves().convert("CMYK"), format="JPEG", quality=95)
    np.testing.assert_allclose(pixels[8, 2], RED, atol=12)
    np.testing.assert_allclose(pixels[8, -3], BLUE, atol=12)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.full((16, 16), 0x4080, dtype=np.uint16)
    np.testing.assert_array_equal(load(Image.fromarray(values), format="PNG"), np.full((16, 16, 3), 0x40))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode):
    np.testing.assert_array_equal(load(Image.new(mode, (16, 16)), format="PNG"), np.full((16, 16, 3), 255))


def test_transparent_palette_entry_is_white():
    picture = Image.new("P", (16, 16), 0)
    picture.putpalette([*RED, *BLUE])
    np.testing.assert_array_equal(load(picture, format="PNG", transparency=0), np.full((16, 16, 3), 255))


def test_fast_decoding_of_large_jpegs_keeps_fine_detail():
    across, down = np.meshgrid(np.linspace(0, 300, 1024), np.linspace(0, 200, 768))
    waves = np.stack([np.sin(across), np.cos(down), np.sin(across + down)], axis=-1)
    picture = Image.fromarray((127.5 + 127.5 * waves).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    full = Image.open(io.BytesIO(file.getvalue())).convert("RGB").resize((120, 120), Image.Resampling.BICUBIC)
    difference = np.abs(loading.load_image(file, 120).astype(int) - np.asarray(full))
    assert difference.max() <= 16


def jpeg_bytes() -> bytes:
    file = io.BytesIO()
    halves(200, 200).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"these are words, not pixels", "no picture format"),
        (b"", "no picture format"),
        (jpeg_bytes()[:630], "truncated"),
        (
            b"II+\0\x08\0\0\0" + b"\xff" * 7 + b"\x7f",
            "Invalid argument",
        ),  # a TIFF that points to nowhere, at which seeking fails
        (None, "No such file"),
    ],
    ids=["text", "empty", "truncated", "lost", "missing"],
)
def test_unreadable_files_are_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(loading.UnreadableImage, match=f"broken.jpg.*{reason}") as error:
        loading.load_image(path, 16)
    # A broken picture stays broken; what the system refuses today it may give tomorrow.
    assert isinstance(error.value, loading.UnreachableImage) == (content is None)


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    halves(100, 100).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"bomb.png.*megapixels; make it smaller"):
        loading.load_image(tmp_path / "bomb.png", 16)
