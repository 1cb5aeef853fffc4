"""Pictures that are made worse: as much as the severity says, always in the same way, and nothing else."""

import zlib

import numpy as np
import pytest
from PIL import Image

from captioning.base.errors import UserError
from captioning.pictures import corrupting
from captioning.pictures.corrupting import KINDS, Corruption, parse_corruptions

SIZE = 112


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Squares in many colours, without the grey that covers."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 120, (12, 12, 3), dtype=np.uint8))
    return np.array(small.resize((SIZE, SIZE), Image.Resampling.NEAREST))


def error(picture: np.ndarray, other: np.ndarray) -> float:
    return float(np.square(picture.astype(float) - other).mean())


def test_what_the_command_line_names():
    assert parse_corruptions(["blur"]) == [Corruption("blur", number) for number in (1, 2, 3, 4, 5)]
    # In the order of kinds and severities, and each once: a share of 0.3 is severity 3.
    found = parse_corruptions(["jpeg:2", "occlusion:0.75", "occlusion:0.3", "occlusion:3", "occlusion:0.05"])
    assert [(each.kind, each.severity, each.level) for each in found] == [
        ("occlusion", 0.5, 0.05),
        ("occlusion", 3, 0.3),
        ("occlusion", 7.5, 0.75),
        ("jpeg", 2, 18),
    ]
    assert len(parse_corruptions(["all", "noise:4"])) == 5 * len(KINDS) == 30
    assert [each.kind for each in parse_corruptions(["all:5"])] == list(KINDS)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fog", "there is no kind 'fog'; choose from occlusion, blur, noise, darkness, rotation, jpeg, or all"),
        ("", "there is no kind ''"),
        ("blur:6", "blur:6: give a severity from 1 to 5"),
        ("blur:0.3", "blur:0.3: give a severity from 1 to 5"),
        ("blur:", "blur:: give a severity"),
        ("occlusion:0", "or the share of the picture that is covered, between 0 and 1, such as occlusion:0.3"),
        ("occlusion:1.0", "between 0 and 1"),
        ("occlusion:nan", "between 0 and 1"),
    ],
)
def test_what_does_not_exist_is_named(text, complaint):
    with pytest.raises(UserError, match=f"^--corrupt: .*{complaint}"):
        parse_corruptions([text])


def test_the_levels_of_blur_noise_and_jpeg_are_those_of_imagenet_c():
    assert KINDS["blur"].levels == (1, 2, 3, 4, 6)
    assert KINDS["noise"].levels == (0.08, 0.12, 0.18, 0.26, 0.38)
    assert KINDS["jpeg"].levels == (25, 18, 15, 10, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_always_made_worse_in_the_same_way(picture, kind):
    before = picture.copy()
    found = [Corruption(kind, 3).apply(picture, name) for name in ("a.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg")]
    assert np.array_equal(picture, before), "the picture itself stays"
    assert (found[0].shape, found[0].dtype) == (picture.shape, np.uint8)
    assert np.array_equal(found[0], found[1])
    drawn = len({each.tobytes() for each in found[1:]})
    assert drawn == {"occlusion": 4, "noise": 4, "rotation": 2}.get(kind, 1), "other names get other draws"


def test_draws_are_those_of_every_machine():
    """Of numbers by NumPy alone. A change of these needs another version in the keys of corruptions."""
    plain = np.full((16, 16, 3), 100, np.uint8)
    found = {kind: zlib.crc32(Corruption(kind, 3).apply(plain, "é.jpg")) for kind in ("occlusion", "noise", "darkness")}
    assert found == {"occlusion": 2381925986, "noise": 3089768377, "darkness": 3389400225}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rotation"])
def test_higher_severities_are_worse(picture, kind):
    errors = [
        np.mean([error(picture, Corruption(kind, severity).apply(picture, f"{n}.jpg")) for n in range(8)])
        for severity in range(1, 6)
    ]
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9])
def test_a_grey_rectangle_covers_the_share(picture, share):
    places = set()
    for n in range(12):
        [corruption] = parse_corruptions([f"occlusion:{share}"])
        covered = corruption.apply(picture, f"{n}.jpg")
        changed = (covered != picture).any(axis=2)
        assert (covered[changed] == 128).all()
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a rectangle without gaps"
        assert abs(height * width / SIZE**2 - share) < 0.01
        assert 0.45 < height / width < 2.2
        places.add((rows[0], columns[0]))
    assert len(places) > 1


def test_noise_has_its_deviation():
    grey = np.full((128, 128, 3), 128, np.uint8)
    noise = Corruption("noise", 1).apply(grey, "a.jpg").astype(float) - 128
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert abs(noise.mean()) < 0.5


@pytest.mark.parametrize("size", [112, 224])
def test_blur_grows_with_the_picture(size):
    point = np.zeros((size, size, 3), np.uint8)
    point[size // 2, size // 2] = 255
    line = Corruption("blur", 3).apply(np.maximum(point, point.max(axis=0)), "a.jpg")[0, :, 0].astype(float)
    places = np.arange(size) - size // 2
    assert (line @ places**2 / line.sum()) ** 0.5 == pytest.approx(3 * size / 224, rel=0.12)


def test_darkness_rotation_and_jpeg_do_what_they_say(picture):
    assert np.array_equal(Corruption("darkness", 3).apply(picture, "a.jpg"), np.rint(picture * 0.25))
    sides = [Corruption("rotation", 5).apply(picture, f"{n}.jpg") for n in range(12)]
    turned = [np.rot90(picture, way) for way in (1, 3)]
    ways = [[np.array_equal(side, way) for way in turned] for side in sides]
    assert all(sum(way) == 1 for way in ways)
    assert {way[0] for way in ways} == {True, False}
    corner = Corruption("rotation", 3).apply(picture, "a.jpg")[0, 0]
    assert tuple(corner) == (128, 128, 128)
    assert Corruption("jpeg", 5).meaning == "JPEG of quality 7"


def test_keys_tell_everything_that_decides_the_pixels(monkeypatch):
    keys = [corruption.key for corruption in parse_corruptions(["all", "occlusion:0.35"])]
    assert len(set(keys)) == 31
    levels = corrupting.Kind((1, 2, 3, 4, 7), KINDS["blur"].meaning, KINDS["blur"].apply)
    monkeypatch.setitem(KINDS, "blur", levels)
    assert Corruption("blur", 5).key not in keys
