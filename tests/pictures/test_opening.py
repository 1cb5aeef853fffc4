"""What strangers may send: no file takes much memory or time, starts a program, or ends a folder."""

import io
import os
import struct
import threading

import numpy as np
import pytest
from PIL import Image
from strange_pictures import halves, png, saved

from captioning.features.looks import Look
from captioning.pictures import decoding, loading, opening, pixels
from captioning.pictures.containers import has_one_scan
from captioning.pictures.loading import TooLargeImage, UnreadableImage, load_image


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "picture",
    [
        png(178_000_000, 1),
        png(1, 50_000_000),
        png(100_001, 8),
        saved(Image.new("RGB", (10, 10)), "BMP").replace(struct.pack("<II", 10, 10), struct.pack("<II", 150_000, 10)),
    ],
    ids=["wide", "high", "a little too wide", "bmp"],
)
def test_a_side_is_bounded_before_anything_is_decoded(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_load", lambda *_: pytest.fail("decoded"))
    path = tmp_path / "long.png"
    path.write_bytes(picture)
    loads = [
        lambda: load_image(path, 16),
        lambda: Look().load(path, "long.png", 16),  # features are extracted so,
        lambda: Look(crop=1, share=0.5).load(path, "long.png", 16),  # and with crops
        lambda: loading.open_picture(path, 16),
    ]
    for load in loads:
        with pytest.raises(TooLargeImage, match=r"long\.png: .*a side of .* pixels, more than 100,000"):
            load()


def test_memory_and_the_pixels_of_a_jpeg_are_bounded(monkeypatch):
    picture = Image.new("RGB", (400, 200))
    flat, progressive = saved(picture, "JPEG"), saved(picture, "JPEG", progressive=True)
    # Decoded at a quarter, the first takes 5,000 pixels of 4 bytes. The second keeps all of its coefficients.
    assert load_image(io.BytesIO(flat), 20, memory=30_000).shape == (20, 20, 3)
    with pytest.raises(TooLargeImage, match="make it smaller"):
        load_image(io.BytesIO(progressive), 20, memory=30_000)
    with pytest.raises(TooLargeImage, match="make it smaller"):
        load_image(io.BytesIO(saved(picture, "WEBP")), 20, memory=400_000)  # its decoder takes 12 bytes a pixel besides
    monkeypatch.setattr(opening, "MAX_JPEG_PIXELS", 79_999)
    with pytest.raises(TooLargeImage, match="megapixels; make it smaller"):
        load_image(io.BytesIO(flat), 20)


def test_a_jpeg_of_more_pixels_than_pillow_allows_is_read(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert load_image(io.BytesIO(saved(halves(800, 400), "JPEG")), 16)[0, 0, 0] > 240
    with pytest.raises(TooLargeImage, match="megapixels; make it smaller"):
        load_image(io.BytesIO(saved(halves(800, 400), "PNG")), 16)


def test_a_jpeg_in_several_scans_is_told_from_one():
    assert has_one_scan(io.BytesIO(saved(halves(), "JPEG")))
    assert not has_one_scan(io.BytesIO(saved(halves(), "JPEG", progressive=True)))
    assert not has_one_scan(io.BytesIO(saved(halves(), "JPEG")[:100]))


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(opening, "LARGE", 1000)
    inside, most = [], []
    real = decoding._load

    def load(*arguments):
        inside.append(1)
        most.append(len(inside))
        try:
            return real(*arguments)
        finally:
            inside.pop()

    monkeypatch.setattr(decoding, "_load", load)
    data = saved(halves(200, 200), "PNG")
    threads = [threading.Thread(target=load_image, args=(io.BytesIO(data), 16)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
def test_a_large_picture_is_reduced_strip_by_strip(mode, monkeypatch):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((304, 204))
    picture = (
        Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else smooth.convert(mode)
    )
    whole = load_image(io.BytesIO(saved(picture, "PNG")), 24).astype(int)
    monkeypatch.setattr(pixels, "_LARGE", 1000)
    monkeypatch.setattr(pixels, "_STRIP", 2000)
    sizes = []
    real = pixels.to_rgb
    monkeypatch.setattr(
        decoding, "to_rgb", lambda *arguments: (sizes.append((found := real(*arguments)).size), found)[1]
    )
    reduced = load_image(io.BytesIO(saved(picture, "PNG")), 24).astype(int)
    assert sizes == [(76, 51)]  # by 4: no side is below twice the size that is wanted
    assert np.abs(whole - reduced).max() <= 6


def test_only_the_formats_that_are_named_are_opened(tmp_path, monkeypatch):
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for kind, data in {
        "eps": postscript,
        "ppm": saved(halves(), "PPM"),
        "tga": saved(halves(), "TGA"),
        "ico": saved(halves(), "ICO"),
        "psd": b"8BPS\0\1" + bytes(60),
    }.items():
        path = tmp_path / f"{kind}.jpg"
        path.write_bytes(data)
        with pytest.raises(UnreadableImage, match=rf"{kind}\.jpg: .*no picture format that is read here \(JPEG, PNG"):
            load_image(path, 16)
        with pytest.raises(UnreadableImage):
            loading.measure(path, 16)
    assert not started.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "c.jpg").symlink_to("/dev/zero")
    (tmp_path / "d.jpg").mkdir()
    for name in "abcd":
        with pytest.raises(UnreadableImage, match=rf"{name}\.jpg: .*is not a regular file") as error:
            load_image(tmp_path / f"{name}.jpg", 16)
        assert not isinstance(error.value, loading.UnreachableImage), "waiting will not make it a picture"
    (tmp_path / "e.jpg").write_bytes(saved(halves(), "JPEG"))
    (tmp_path / "f.jpg").symlink_to(tmp_path / "e.jpg")
    assert load_image(tmp_path / "f.jpg", 16).any()


def test_a_file_that_becomes_a_fifo_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"")
    real = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(opening.os, "stat", lambda _: real)
    with pytest.raises(UnreadableImage, match="is not a regular file"):
        load_image(path, 16)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nerror: b.jpg", r"a\nerror: b.jpg"),
        ("\x1b[31mred\x07.jpg", r"\x1b[31mred\x07.jpg"),
        ("a\x9b2J.jpg", r"a\x9b2J.jpg"),
        ("gpj.\u202eexe.jpg", r"gpj.\u202eexe.jpg"),
        (os.fsdecode(b"latin\xe9.jpg"), r"latin\udce9.jpg"),
    ],
)
def test_messages_show_names_on_one_line_with_escapes(name, shown, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"no picture")
    with pytest.raises(UnreadableImage) as error:
        load_image(path, 16)
    assert str(error.value).startswith(f"{tmp_path}{os.sep}{shown}: cannot be read")
    path.write_bytes(saved(Image.effect_noise((64, 64), 90), "PNG")[:-500])
    told: list[str] = []
    load_image(path, 16, told.append)
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path}{os.sep}{shown}: damaged: ")
