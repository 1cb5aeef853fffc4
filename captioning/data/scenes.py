"""The demo's data: rendered scenes of two coloured objects, with five captions each and known ground truth.

    python -m captioning.data.scenes data/demo                      # 1200 scenes, half a minute on one CPU core
    python -m captioning.data.scenes data/demo --images 200 --seed 1

Every attribute of a scene is known. So a generated caption can be marked as right or wrong (``all_right``), while
captions of photos can only be compared with references. Needs numpy, Pillow and tqdm, but no Keras and no network.

The folder then holds

    images/scene_00000.jpg    224 x 224 pixels, RGB
    captions.jsonl            in each line {"image": file name, "captions": [5 sentences], "split": train | dev | test}.
                              It is written last, so a folder that has it is complete.
    scenes.json               {"parameters": {format, images, seed}, "scenes": {file name: Scene as an object}}.
                              Captions that are not English also have their "language" among the parameters.
                              It is written first, so a folder that has it was made by this module.
"""

import argparse
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from captioning.base.errors import UserError
from captioning.base.files import LOCK, alone_with, is_unfinished, replacing
from captioning.base.json_files import load_json, take
from captioning.base.progress import track
from captioning.base.script import run_script
from captioning.data.scene_languages import INVERSE, LANGUAGES, Language, Said, five_of, pick

FORMAT = 2  # raised when the same seed gives other scenes than before, so that older sets are made anew
SIDE = 224  # pixels
KINDS = ("ball", "cube", "ring", "star")
COLOURS = {  # sRGB, 0-255
    "red": (222, 20, 26),
    "yellow": (255, 214, 0),
    "green": (14, 152, 44),
    "blue": (0, 112, 240),
}
SIZES = {"small": 82, "large": 98}  # pixels from edge to edge of the unit cube that holds the object
FLOORS = ("wooden", "tiled", "carpeted")
WALLS = ("plain", "brick", "striped")


@dataclass(frozen=True)
class Thing:
    """One object. It stands on its support at pixel ``(x, y)``, counted from the upper left corner of the image."""

    colour: str
    kind: str
    size: str
    x: int
    y: int

    @property
    def name(self) -> tuple[str, str]:
        return self.colour, self.kind


@dataclass(frozen=True)
class Scene:
    """What a picture shows: ``first`` is "left of" or "above" ``second``."""

    first: Thing
    relation: str
    second: Thing
    floor: str
    wall: str


# --- Scenes at random -------------------------------------------------------------------------------------------------


def _draw_scene(rng: np.random.Generator) -> Scene:
    names = [(colour, kind) for colour in COLOURS for kind in KINDS]
    pair = [names[i] for i in rng.choice(len(names), size=2, replace=False)]
    if rng.random() < 0.5:
        relation = "left of"
        spots = [(x + rng.integers(-10, 11), rng.integers(180, 206)) for x in (60, 164)]
    else:
        relation = "above"
        x = rng.integers(80, 145)
        spots = [(x + rng.integers(-10, 11), rng.integers(102, 109)), (x, rng.integers(206, 215))]
    things = [
        Thing(colour, kind, pick(rng, list(SIZES)), int(x), int(y))
        for (colour, kind), (x, y) in zip(pair, spots, strict=True)
    ]
    return Scene(things[0], relation, things[1], pick(rng, FLOORS), pick(rng, WALLS))


# --- Rendering -------------------------------------------------------------------------------------------------------
# Each kind of object is sphere-traced once for each turn (J. C. Hart, "Sphere tracing", The Visual Computer 12, 1996).
# That gives a map of surface normals. A scene only computes the light on that map, so 1200 scenes take seconds, not
# minutes.

SPRITE = 224  # pixels per side of a normal map. It is more than twice the size in the picture, so edges become smooth
REACH = 1.25  # half the side of the square that a sprite shows, in units where objects span -1 to 1
TILT = math.radians(17)  # how far down the camera looks


def _distance(kind: str, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Signed distance from points to the surface of an object, or a lower bound of it. y points up, z to the viewer."""

    def rounded(a: np.ndarray, b: np.ndarray, c: np.ndarray | float, radius: float) -> np.ndarray:
        outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
        return outside + np.minimum(np.maximum(np.maximum(a, b), c), 0) - radius

    if kind == "ball":
        return np.sqrt(x**2 + y**2 + z**2) - 1
    if kind == "cube":
        return rounded(abs(x) - 0.66, abs(y + 0.2) - 0.66, abs(z) - 0.66, 0.12)
    if kind == "ring":
        return np.hypot(np.hypot(x, y) - 0.7, z) - 0.3
    # A star with five points. The plane is folded into one half of one point, where the rim is a straight line.
    angle = np.arctan2(x, y + 0.1)
    angle = abs((angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    radius = np.hypot(x, y + 0.1)
    inner = 0.46  # radius between two points; the points reach 1.1
    corner = np.array([inner * math.sin(math.pi / 5), inner * math.cos(math.pi / 5) - 1.1])
    normal = np.array([-corner[1], corner[0]]) / np.linalg.norm(corner)
    rim = normal[0] * radius * np.sin(angle) + normal[1] * (radius * np.cos(angle) - 1.1)
    return (rim + 1.3 * abs(z)) / math.hypot(1, 1.3)


@cache
def _surface(kind: str, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Sphere-trace an object turned by ``turn`` degrees.

    Returns the pixels that it covers, bool (SPRITE, SPRITE), and for these n pixels the unit normal and the height
    above the base, float32 (n, 4).
    """
    across = (np.arange(SPRITE, dtype=np.float32) + 0.5) / SPRITE * 2 * REACH - REACH
    u, v = np.meshgrid(across, -across)
    sin, cos = math.sin(TILT), math.cos(TILT)
    turn_sin, turn_cos = math.sin(math.radians(turn)), math.cos(math.radians(turn))

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return _distance(kind, turn_cos * x - turn_sin * z, y, turn_sin * x + turn_cos * z)

    travelled = np.zeros_like(u)
    for _ in range(48):
        point = u, v * cos + (3 - travelled) * sin, (3 - travelled) * cos - v * sin
        travelled += distance(*point)
        travelled = np.minimum(travelled, 6)
    covered = distance(*point) < 0.01
    x, y, z = (axis[covered] for axis in point)
    step = 0.004
    normal = np.stack(
        [
            distance(x + step, y, z) - distance(x - step, y, z),
            distance(x, y + step, z) - distance(x, y - step, z),
            distance(x, y, z + step) - distance(x, y, z - step),
        ],
        axis=1,
    )
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return covered, np.concatenate([normal, y[:, None] + 1], axis=1).astype(np.float32)


def _unit(*vector: float) -> np.ndarray:
    return np.array(vector, dtype=np.float32) / math.hypot(*vector)


def _sprite(thing: Thing, turn: int, light_side: float) -> Image.Image:
    """The lit object as a square RGBA picture."""
    covered, surface = _surface(thing.kind, turn)
    normal, height = surface[:, :3], surface[:, 3:]
    light = _unit(0.75 * light_side, 0.9, 0.75)
    eye = _unit(0, math.sin(TILT), math.cos(TILT))
    base = (np.array(COLOURS[thing.colour], dtype=np.float32) / 255) ** 2.2  # to linear light
    lambert = np.maximum(normal @ light, 0)[:, None]
    sky = 0.5 + 0.5 * normal[:, 1:2]
    ground_shade = 0.55 + 0.45 * np.minimum(height / 0.7, 1)
    facing = np.maximum(normal @ eye, 0)[:, None]
    shine = np.maximum(normal @ ((light + eye) / np.linalg.norm(light + eye)), 0)[:, None]
    linear = base * (0.85 * lambert + (0.18 + 0.3 * sky) * ground_shade)
    linear += 0.5 * shine**60 + 0.07 * shine**8 + 0.10 * (1 - facing) ** 3 * sky
    pixels = np.zeros((SPRITE, SPRITE, 4), dtype=np.uint8)
    pixels[covered, :3] = np.clip(linear, 0, 1) ** (1 / 2.2) * 255 + 0.5
    pixels[covered, 3] = 255
    side = round(SIZES[thing.size] * REACH)
    return Image.fromarray(pixels, "RGBA").resize((side, side), Image.Resampling.BOX)


def _smooth_noise(rng: np.random.Generator, rows: int, columns: int, shape: tuple[int, int]) -> np.ndarray:
    """``rows`` x ``columns`` random values, interpolated to float32 of ``shape``. Mean 0, about -1 to 1."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))


WALL_PAINTS = ((222, 214, 200), (196, 208, 214), (206, 214, 196), (224, 206, 202), (205, 202, 212), (188, 190, 192))
BRICKS = ((188, 150, 132), (196, 178, 158), (172, 168, 166))
WOODS = ((176, 128, 84), (146, 104, 70), (202, 164, 118))
TILES = ((206, 202, 194), (184, 194, 198), (190, 180, 166))
CARPETS = ((150, 142, 134), (128, 136, 146), (164, 150, 140))


def _wall(scene: Scene, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The pixels of the wall, float32 (height, width, 3), 0-255."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    if scene.wall == "brick":
        tall, long = 26, 62
        row = (y // tall).astype(int)
        shifted = x + (row % 2) * long / 2
        column = (shifted // long).astype(int)
        tint = 1 + 0.09 * rng.uniform(-1, 1, (row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
        joint = np.minimum(np.minimum(y % tall, tall - y % tall), np.minimum(shifted % long, long - shifted % long))
        brick = (
            np.array(pick(rng, BRICKS), dtype=np.float32)
            * (tint + 0.05 * _smooth_noise(rng, 60, 90, x.shape))[..., None]
        )
        share = np.clip((joint - 1.2) / 1.5, 0, 1)[..., None]
        return brick * share + (1 - share) * np.array((206, 200, 192), dtype=np.float32)
    paint = np.array(pick(rng, WALL_PAINTS), dtype=np.float32)
    grain = 1 + 0.015 * _smooth_noise(rng, 40, 40, x.shape)
    if scene.wall == "striped":
        grain = grain - 0.10 * np.clip(np.sin(x * (2 * math.pi / rng.integers(38, 60))) * 6, 0, 1)
    return paint * grain[..., None]


def _floor(scene: Scene, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The pixels of the floor in perspective, float32 (height, width, 3), 0-255."""
    # across and away are lengths on the floor.
    y, x = np.mgrid[:height, :width].astype(np.float32)
    depth = 1 / (y / height + 0.45)
    across = (x / width - 0.5) * depth * 6 + 40
    away = depth * 7
    if scene.floor == "wooden":
        plank = across.astype(int)
        tint = 0.10 * rng.uniform(-1, 1, 96).astype(np.float32)[plank]
        phase = rng.uniform(0, 20, 96).astype(np.float32)[plank]
        grain = np.sin(across * 23 + 1.4 * np.sin(away * 0.8 + phase) + phase) * 0.035
        gap = np.minimum(across % 1, 1 - across % 1)
        tint = (1 + tint + grain) * (0.62 + 0.38 * np.clip(gap / 0.035, 0, 1))
        return np.array(pick(rng, WOODS), dtype=np.float32) * tint[..., None]
    if scene.floor == "tiled":
        across, away = across * 0.85, away * 0.55
        check = (across.astype(int) + away.astype(int)) % 2
        gap = np.minimum(np.minimum(across % 1, 1 - across % 1), np.minimum(away % 1, 1 - away % 1))
        tint = (1 - 0.16 * check) * (0.78 + 0.22 * np.clip(gap / 0.03 - 0.3, 0, 1))
        return np.array(pick(rng, TILES), dtype=np.float32) * tint[..., None]
    pile = 1 + 0.10 * _smooth_noise(rng, height // 3, width // 3, x.shape) + 0.05 * _smooth_noise(rng, 6, 9, x.shape)
    return np.array(pick(rng, CARPETS), dtype=np.float32) * pile[..., None]


def _render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The picture of a scene, (SIDE, SIDE) RGB. ``rng`` decides what the scene leaves open, such as the light."""
    wide = 2 * SIDE  # the room is drawn at twice the size and then halved, so that its edges become smooth
    horizon = int(rng.integers(136, 152)) * 2
    light_side = pick(rng, (-1, 1)) * rng.uniform(0.6, 1.1)
    room = np.concatenate([_wall(scene, rng, horizon, wide), _floor(scene, rng, wide - horizon, wide)])
    y, x = np.mgrid[:wide, :wide].astype(np.float32) / wide
    room *= (1.10 - 0.5 * ((x - 0.5 - 0.25 * light_side) ** 2 + (y - 0.3) ** 2))[..., None]  # a pool of light
    room *= (1 - 0.30 * np.exp(-np.abs(y * wide - horizon) / 14))[..., None]  # dim where wall and floor meet
    room[horizon - 14 : horizon] = room[horizon - 14 : horizon] * 0.25 + 165  # skirting board
    if scene.relation == "above":
        left, right = sorted((2 * scene.first.x - 128, 2 * scene.first.x + 128))
        shelf_y = 2 * scene.first.y
        left, right = max(left, 0), min(right, wide)
        wood = np.array(pick(rng, WOODS), dtype=np.float32)
        fade = np.linspace(0.42, 0, 46, dtype=np.float32)[:, None, None]
        room[shelf_y + 22 : shelf_y + 68, left + 8 : right - 8] *= 1 - fade
        room[shelf_y - 18 : shelf_y + 10, left:right] = wood * 1.18
        room[shelf_y + 10 : shelf_y + 22, left:right] = wood * 0.80
    picture = Image.fromarray(np.clip(room, 0, 255).astype(np.uint8), "RGB").reduce(2)
    for thing in sorted((scene.first, scene.second), key=lambda thing: thing.y):  # the nearer one last
        turn = 45 if thing.kind == "cube" else 0
        turn += int(rng.integers(-3, 4)) * 8
        sprite = _sprite(thing, turn, light_side)
        foot = round(sprite.width * (0.5 + math.cos(TILT) / (2 * REACH)))  # row of the sprite where the object stands
        corner = thing.x - sprite.width // 2, thing.y - foot
        picture = _with_shadow(picture, sprite, corner, foot, light_side)
        picture.paste(sprite, corner, sprite)
    return picture


def _with_shadow(
    picture: Image.Image, sprite: Image.Image, corner: tuple[int, int], foot: int, light_side: float
) -> Image.Image:
    """Darken ``picture`` where the sprite's shadow falls, away from the light, and where the sprite stands."""
    silhouette = Image.new("L", picture.size)
    silhouette.paste(sprite.getchannel("A"), corner)
    ground, middle = corner[1] + foot, corner[0] + sprite.width / 2
    flat, lean = 0.32, 0.8 * light_side
    # A point h above the ground casts its shadow flat * h up the picture and lean * flat * h to the side.
    inverse = (1, -lean, lean * ground, 0, 1 / flat, ground - ground / flat)
    shadow = silhouette.transform(picture.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    lying = np.asarray(shadow.filter(ImageFilter.GaussianBlur(4)), dtype=np.float32) / 255
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    contact = ((x - middle) / (sprite.width * 0.34)) ** 2 + ((y - ground + 3) / (sprite.width * 0.09)) ** 2
    light = (1 - 0.45 * lying) * (1 - 0.45 * np.exp(-(contact**2)))
    return Image.fromarray((np.asarray(picture) * light[..., None]).astype(np.uint8), "RGB")


# --- Captions --------------------------------------------------------------------------------------------------------

BETWEEN = {  # wordings that stand between the two objects
    "left of": ("to the left of", "left of", "on the left side of"),
    "right of": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over", "above"),
    "below": ("below", "under", "beneath"),
}
BESIDE_IT = {  # wordings that come after the second object and place it
    "left of": ("on its left", "to its left"),
    "right of": ("on its right", "to its right"),
    "above": ("above it", "over it"),
    "below": ("below it", "under it"),
}
AT = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}


def _captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five sentences of five different patterns, each naming both objects, their colours and the relation."""

    def named(thing: Thing, with_size: bool) -> str:
        words = f"{thing.size} {thing.colour} {thing.kind}" if with_size else f"{thing.colour} {thing.kind}"
        return f"a {words}"

    room = pick(rng, (f"in a room with a {scene.floor} floor", f"in front of a {scene.wall} wall"))
    patterns: list[Callable[[str, str, str, str], str]] = [
        lambda a, b, relation, inverse: f"{a} is {pick(rng, BETWEEN[relation])} {b}",
        lambda a, b, relation, inverse: f"{a} {pick(rng, ('sits', 'stands'))} {pick(rng, BETWEEN[relation])} {b}",
        lambda a, b, relation, inverse: f"there is {a} {pick(rng, BETWEEN[relation])} {b}",
        lambda a, b, relation, inverse: f"{a} {pick(rng, BETWEEN[relation])} {b} {room}",
        lambda a, b, relation, inverse: f"{pick(rng, BETWEEN[inverse])} {a} is {b}",
        lambda a, b, relation, inverse: f"{a} with {b} {pick(rng, BESIDE_IT[inverse])}",
        lambda a, b, relation, inverse: f"{AT[relation]} is {a} and {AT[inverse]} is {b}",
    ]
    sentences = []
    for pattern, first, second, relation, inverse in five_of(patterns, scene, rng):
        with_size = rng.random() < 0.25
        sentence = pattern(named(first, with_size), named(second, with_size), relation, inverse)
        sentences.append(sentence[0].upper() + sentence[1:] + ".")
    return sentences


# --- Marking ---------------------------------------------------------------------------------------------------------

SYNONYMS = {
    "sphere": "ball", "box": "cube", "block": "cube", "torus": "ring", "donut": "ring", "doughnut": "ring"
}  # fmt: skip
DIRECTIONS = {
    "left": "left of", "right": "right of",
    "above": "above", "over": "above", "top": "above", "higher": "above", "atop": "above",
    "below": "below", "under": "below", "beneath": "below", "underneath": "below", "bottom": "below", "lower": "below",
}  # fmt: skip
NEEDS_OF = {"left", "right", "top", "bottom"}  # refer to the next object only with "of", as in "left of"
NAMED = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")
FILLERS = {"a", "an", "the", "side", *SIZES, "big", "little", "tall"}


def _read(caption: str) -> Said:
    """What an English caption says."""
    words = [SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+", caption.lower()) if word not in FILLERS]
    text = " ".join(words)
    things = NAMED.findall(text)
    if len(things) != 2:
        return things, None
    numbers = iter("01")
    words = NAMED.sub(lambda match: next(numbers), text).split()  # "0 is to left of 1"
    stated = set()
    placed = None  # the object that follows an "on the left" and is placed by it
    for here, word in enumerate(words):
        if word not in DIRECTIONS:
            continue
        direction = DIRECTIONS[word]
        following = words[here + 1 : here + 3]
        if following[:1] in (["of"], ["than"]):
            del following[0]
        elif word in NEEDS_OF:
            following = []
        if following[:1] in (["0"], ["1"]):  # "left of 1": that is where the other one is
            subject = "1" if following[0] == "0" else "0"
        elif following[:1] == ["it"] or words[here - 1] == "its":  # "with 1 on its left"
            subject = "1"
        elif "0" not in words[:here]:  # "on left is 0"
            subject = placed = "0"
        else:  # "0 is on left" or "on left is 0 and on right is 1" or "0 on left and 1 on right"
            subject = "1" if placed or "1" in words[:here] else "0"
        stated.add(direction if subject == "0" else INVERSE[direction])
    return things, stated.pop() if len(stated) == 1 else None


# All languages of captions, by the names that the setting ``demo_language`` has.
SPOKEN = {"english": Language(_captions, _read), **LANGUAGES}


def all_right(caption: str, scene: Scene, language: str = "english") -> bool:
    """Whether a caption names both objects, their colours and their relation, in any order and wording.

    "a ball left of a cube" says the same as "a cube right of a ball". Size, floor and wall do not count.
    """
    things, relation = SPOKEN[language].read(caption)
    if relation in ("right of", "below"):
        things, relation = things[::-1], INVERSE[relation]
    return relation == scene.relation and things == [scene.first.name, scene.second.name]


def score(captions: dict[str, str], scenes: dict[str, Scene], language: str = "english") -> dict[str, float]:
    """Shares (0-1) of the captions that are right, by file name of the image.

    objects: exactly the two kinds are named.
    colours: exactly the two colours are named.
    relation: left, right, above or below is as in the picture. Of the two orders of the objects, the one that fits
        better counts.
    all_right: see there.

    Raises UserError when there are no captions or an image is unknown.
    """
    right = {"objects": 0, "colours": 0, "relation": 0, "all_right": 0}
    if not captions:
        raise UserError("there are no captions to score")
    for name, caption in captions.items():
        if name not in scenes:
            raise UserError(
                f"{name}: there is no such scene; score the captions with the scenes.json of their own images"
            )
        scene = scenes[name]
        truth = [scene.first.name, scene.second.name]
        things, relation = SPOKEN[language].read(caption)
        if relation in ("right of", "below"):
            things, relation = things[::-1], INVERSE[relation]
        right["objects"] += sorted(kind for _, kind in things) == sorted(kind for _, kind in truth)
        right["colours"] += sorted(colour for colour, _ in things) == sorted(colour for colour, _ in truth)
        right["relation"] += relation == scene.relation and _agreement(things, truth) >= _agreement(things, truth[::-1])
        right["all_right"] += all_right(caption, scene, language)
    return {part: count / len(captions) for part, count in right.items()}


def _agreement(things: list[tuple[str, str]], truth: list[tuple[str, str]]) -> int:
    """How many of the four colours and kinds are the same, object by object."""
    return sum(said == true for pair in zip(things, truth, strict=True) for said, true in zip(*pair, strict=True))


# --- The folder ------------------------------------------------------------------------------------------------------


def _file_name(index: int) -> str:
    return f"scene_{index:05d}.jpg"


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Does not wait for the disk, which for 1200 files would take long."""
    with replacing(path, sync=False) as new:
        new.write_bytes(content)


def _parameters_found(folder: Path) -> dict | None:
    """The parameters of the set in ``folder``; None for a missing or empty folder. Raises UserError for other files."""
    if not folder.exists() or all(is_unfinished(path) or path.name == LOCK for path in folder.iterdir()):
        return None
    try:
        return take(load_json(folder / "scenes.json", dict), "parameters", dict)
    except (FileNotFoundError, ValueError):
        raise UserError(
            f"data_dir: {folder} holds other files and no demo scenes (no usable scenes.json), so nothing is written "
            f"there; name an empty or a new folder, or remove this one"
        ) from None


def ensure(folder: Path, images: int, seed: int, language: str = "english") -> None:
    """Make the data set in ``folder``, unless a complete one with the same parameters is there.

    The same ``images`` and ``seed`` give the same bytes with the same versions of numpy and Pillow. 3/4 of the scenes
    are for training, 1/8 for dev and the rest for test. An interrupted set is completed. A set of other parameters is
    replaced. ``language``: of the captions; the pictures are the same in all languages. Raises UserError when the
    folder holds other files, cannot be written or the disk is full.
    """
    folder = Path(folder)
    try:
        _parameters_found(folder)  # before anything is written there
        folder.mkdir(parents=True, exist_ok=True)
        with alone_with(folder):
            others = {} if language == "english" else {"language": language}
            _ensure(folder, {"format": FORMAT, "images": images, "seed": seed} | others)
    except OSError as error:
        raise UserError(
            f"data_dir: cannot make the demo scenes in {folder}: {error.strerror}; make room or name another folder"
        ) from error


def _ensure(folder: Path, parameters: dict[str, Any]) -> None:
    found = _parameters_found(folder)
    pictures, captions_file = folder / "images", folder / "captions.jsonl"
    if found not in (None, parameters):
        captions_file.unlink(missing_ok=True)  # first, since a set without it counts as incomplete
        for picture in pictures.glob("scene_*.jpg"):
            picture.unlink()
    count = parameters["images"]
    names = [_file_name(index) for index in range(count)]
    missing = set(names) - {picture.name for picture in pictures.glob("scene_*.jpg")}
    if found == parameters and not missing and captions_file.exists():
        return

    # Each scene has a generator of its own, used in a fixed order (scene, captions, picture). So any scene can be
    # redone.
    lots = [np.random.default_rng((parameters["seed"], index)) for index in range(count)]
    scenes = [_draw_scene(rng) for rng in lots]
    # Drawn for other languages too: the pictures go on with the same generators, and are the same in all languages.
    captions = [_captions(scene, rng) for scene, rng in zip(scenes, lots, strict=True)]
    if language := LANGUAGES.get(parameters.get("language", "")):
        lots_of_words = (np.random.default_rng((parameters["seed"], index, 1)) for index in range(count))
        captions = [language.write(scene, rng) for scene, rng in zip(scenes, lots_of_words, strict=True)]
    truth = {name: asdict(scene) for name, scene in zip(names, scenes, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "scenes.json", json.dumps({"parameters": parameters, "scenes": truth}, indent=1).encode())

    pictures.mkdir(exist_ok=True)
    for name, scene, rng in track(list(zip(names, scenes, lots, strict=True)), "demo scenes", "images"):
        if name in missing:
            encoded = io.BytesIO()
            _render(scene, rng).save(encoded, "JPEG", quality=92)
            _write(pictures / name, encoded.getvalue())

    train = count * 3 // 4
    dev = (count - train) // 2
    splits = ["train"] * train + ["dev"] * dev + ["test"] * (count - train - dev)
    lines = [
        json.dumps({"image": name, "captions": sentences, "split": split}, ensure_ascii=False)
        for name, sentences, split in zip(names, captions, splits, strict=True)
    ]
    _write(captions_file, ("\n".join(lines) + "\n").encode())


_COMMAND = "python preprocessing.py --preset demo"


def load_scenes(folder: Path) -> dict[str, Scene]:
    """The ground truth of a set that ``ensure`` made: file name -> Scene. Raises UserError when it cannot be read."""
    path = Path(folder) / "scenes.json"
    try:
        scenes = take(load_json(path, dict), "scenes", dict)
        return {
            name: Scene(**{**scene, "first": Thing(**scene["first"]), "second": Thing(**scene["second"])})
            for name, scene in scenes.items()
        }
    except OSError as error:
        raise UserError(f"{path}: cannot read the demo scenes: {error.strerror}; make them with {_COMMAND}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not the ground truth of demo scenes ({error}); remove the folder and make it anew with {_COMMAND}"
        ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data set goes")
    parser.add_argument("--images", type=int, default=1200, help="number of scenes [default: 1200]")
    parser.add_argument("--language", choices=SPOKEN, default="english", help="of the captions [default: english]")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes [default: 0]")
    args = parser.parse_args()
    if args.images < 1 or args.seed < 0:
        parser.error("--images must be at least 1 and --seed at least 0")
    ensure(args.folder, args.images, args.seed, args.language)
    print(f"{args.folder}: {args.images} scenes with five captions each")


if __name__ == "__main__":
    run_script(main)
