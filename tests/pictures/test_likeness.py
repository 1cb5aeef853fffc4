"""Near-duplicates: changed copies of a picture are told from other pictures."""

import io
import json

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image, ImageEnhance, ImageOps

from captioning.pictures.likeness import BOUND, grey, likeness, outlines, thumbnail


def scene(seed: int) -> Image.Image:
    """Soft shapes, as photographs have them."""
    cells = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((320, 240), Image.Resampling.BICUBIC)


def alike(one: Image.Image, other: Image.Image) -> float:
    found = [outlines(grey(np.asarray(image.convert("RGB").resize((260, 260))))) for image in (one, other)]
    assert likeness(*found) == pytest.approx(likeness(*reversed(found)))
    return likeness(*found)


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=20)
    return Image.open(file)


COPIES = {
    "itself": lambda image: image,
    "small": lambda image: image.resize((80, 60)),
    "another shape": lambda image: image.resize((224, 224)),
    "compressed": compressed,
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "grey": ImageOps.grayscale,
    "cropped at a corner": lambda image: image.crop((32, 24, 320, 240)),
    "cropped in the middle": lambda image: image.crop((32, 24, 288, 216)),
    "framed": lambda image: ImageOps.expand(image, 16, fill="white"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_changed_copies_are_near_duplicates(copy):
    image = scene(1)
    assert alike(image, COPIES[copy](image)) >= BOUND


def test_other_pictures_are_none():
    images = [
        *map(scene, range(6)),
        ImageOps.mirror(scene(0)),
        ImageOps.flip(scene(0)),
        scene(0).crop((0, 0, 160, 120)),
    ]
    found = [outlines(grey(np.asarray(image))) for image in images]
    values = [likeness(found[i], found[j]) for i in range(len(found)) for j in range(i)]
    assert max(values) < 0.7


def test_pictures_of_one_colour_are_like_none(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / name)
    assert likeness(outlines(thumbnail(tmp_path / "a.png")), outlines(thumbnail(tmp_path / "b.png"))) == 0


def test_the_bound_is_the_one_that_was_measured():
    measured = json.loads((ROOT / "results" / "near_duplicates.json").read_text())
    assert measured["bound"] == BOUND
    different = [pair["likeness"] for pair in measured["most_alike"] if pair["likeness"] < 0.99]
    assert max(different) < BOUND - 0.05
