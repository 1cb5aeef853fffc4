"""The demo scenes: the same bytes from the same seed, captions that are true, and marks that can be trusted."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

import start
from captioning.base.errors import UserError
from captioning.base.files import is_unfinished
from captioning.data import scenes
from captioning.data.scenes import Scene, Thing
from captioning.words.splitting import SPLITTINGS
from config import DemoLanguage

SCENE = Scene(
    Thing("red", "ball", "small", 60, 190), "left of", Thing("blue", "cube", "large", 164, 190), "wooden", "brick"
)
STACKED = dataclasses.replace(SCENE, relation="above")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def captions_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    scenes.ensure(folder, 20, 3)
    return folder


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(made, tmp_path):
    scenes.ensure(tmp_path / "again", 20, 3)
    assert contents(tmp_path / "again") == contents(made)
    scenes.ensure(tmp_path / "again", 20, 4)
    assert not set(contents(tmp_path / "again").values()) & set(contents(made).values())


def test_layout_sizes_and_splits(made):
    rows = captions_of(made)
    assert [row["split"] for row in rows] == ["train"] * 15 + ["dev"] * 2 + ["test"] * 3
    assert [row["image"] for row in rows] == sorted(os.listdir(made / "images"))
    assert list(scenes.load_scenes(made)) == [row["image"] for row in rows]
    with Image.open(made / "images" / rows[0]["image"]) as picture:
        assert (picture.size, picture.mode) == ((224, 224), "RGB")
    assert not [path for path in made.rglob("*") if is_unfinished(path)]


def test_a_complete_set_is_left_alone(made, monkeypatch):
    monkeypatch.setattr(scenes, "_render", lambda *_: pytest.fail("drawn again"))
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    scenes.ensure(made, 20, 3)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_captions_differ_and_are_all_right_for_their_own_scene_only():
    vocabulary = set()
    for index in range(400):
        rng = np.random.default_rng((0, index))
        scene = scenes._draw_scene(rng)
        captions = scenes._captions(scene, rng)
        assert len(set(captions)) == 5
        for caption in captions:
            assert caption[0].isupper()
            assert caption.endswith(".")
            vocabulary.update(caption[:-1].lower().split())
            assert scenes.all_right(caption, scene), caption
            for wrong in altered(scene):
                assert not scenes.all_right(caption, wrong), (caption, wrong)
    assert 40 <= len(vocabulary) <= 80


def altered(scene: Scene):
    """The scene with one thing changed: an object's colour or kind, the axis, the order, or the colours swapped."""
    first, second = scene.first, scene.second
    for place, thing in (("first", first), ("second", second)):
        other_colour = next(colour for colour in scenes.COLOURS if colour not in (first.colour, second.colour))
        other_kind = next(kind for kind in scenes.KINDS if kind not in (first.kind, second.kind))
        yield dataclasses.replace(scene, **{place: dataclasses.replace(thing, colour=other_colour)})
        yield dataclasses.replace(scene, **{place: dataclasses.replace(thing, kind=other_kind)})
    yield dataclasses.replace(scene, relation="above" if scene.relation == "left of" else "left of")
    yield dataclasses.replace(scene, first=second, second=first)
    if first.colour != second.colour:
        yield dataclasses.replace(
            scene,
            first=dataclasses.replace(first, colour=second.colour),
            second=dataclasses.replace(second, colour=first.colour),
        )


@pytest.mark.parametrize(
    "caption",
    [
        "a red ball is left of a blue cube",
        "a blue cube is right of a red ball",
        "To the left of the big blue cube there is a little red ball.",
        "A blue block, with a red sphere to its left!",
        "on the left is a red ball and on the right is a blue cube",
        "on the right is a blue cube and on the left is a red ball",
        "a red ball on the left and a blue cube on the right",
        "on the left a red ball, next to it a blue cube",
        "a blue cube beside a red ball which is to the left of it",
    ],
)
def test_side_by_side_in_other_words(caption):
    assert scenes.all_right(caption, SCENE)
    assert not scenes.all_right(caption, STACKED)
    assert not scenes.all_right(caption, dataclasses.replace(SCENE, first=SCENE.second, second=SCENE.first))


@pytest.mark.parametrize(
    "caption",
    [
        "a red ball over a blue cube",
        "underneath a red ball is a blue cube",
        "a red ball on a shelf above a blue cube in front of a brick wall",
        "a blue cube with a red ball above it",
        "a red ball with a blue cube beneath it",
        "a red ball at the top and a blue cube at the bottom",
        "at the bottom is a blue cube",
        "a red ball on top of a blue cube",
        "a blue cube is lower than a red ball",
    ],
)
def test_one_above_the_other_in_other_words(caption):
    # A caption that names one object only cannot be all right, whatever it says of it.
    assert scenes.all_right(caption, STACKED) == ("red ball" in caption)
    assert not scenes.all_right(caption, SCENE)
    assert not scenes.all_right(caption, dataclasses.replace(STACKED, first=STACKED.second, second=STACKED.first))


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red ball and a blue cube",
        "a red ball is left of a red ball",
        "a blue ball is left of a red cube",
        "a red ball is to the left of a blue cube on its left",
        "a red ball is left of a blue cube and a green star",
        "a red ball is left of and above a blue cube",
        "left left of red ball blue of cube",
    ],
)
def test_vague_or_contradictory_captions_are_not_all_right(caption):
    assert not scenes.all_right(caption, SCENE)


def test_score_counts_each_part_on_its_own():
    def shares(caption: str) -> tuple[float, ...]:
        return tuple(scenes.score({"x": caption}, {"x": SCENE}).values())

    assert list(scenes.score({"x": ""}, {"x": SCENE})) == ["objects", "colours", "relation", "all_right"]
    assert shares("a red ball left of a blue cube") == (1, 1, 1, 1)
    assert shares("a red ball left of a green cube") == (1, 0, 1, 0)
    assert shares("a red star left of a blue cube") == (0, 1, 1, 0)
    assert shares("a blue cube left of a red ball") == (1, 1, 0, 0)
    assert shares("a red ball") == (0, 0, 0, 0)
    captions = {"x": "a red ball left of a blue cube", "y": "a red ball above a blue cube"}
    assert scenes.score(captions, {"x": SCENE, "y": SCENE})["all_right"] == 0.5
    with pytest.raises(UserError, match=r"z\.jpg"):
        scenes.score({"z.jpg": ""}, {"x": SCENE})


def test_an_interrupted_set_is_completed(made, tmp_path):
    # Killed for good in the middle of the eighth picture, with part of its file on disk.
    folder = tmp_path / "set"
    script = (
        "import os, pathlib, signal, sys\n"
        "from captioning.data import scenes\n"
        "whole = pathlib.Path.write_bytes\n"
        "def write(path, content):\n"
        "    if 'scene_00007' in path.name:\n"
        "        whole(path, content[:100]); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    whole(path, content)\n"
        "pathlib.Path.write_bytes = write\n"
        "scenes.ensure(pathlib.Path(sys.argv[1]), 20, 3)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, folder], cwd=ROOT).returncode == -9
    assert len(list((folder / "images").glob("scene_*.jpg"))) == 7
    assert not (folder / "captions.jsonl").exists()
    scenes.ensure(folder, 20, 3)
    assert contents(folder) == contents(made)


def test_a_lost_picture_is_drawn_again(made, tmp_path):
    scenes.ensure(tmp_path / "set", 20, 3)
    (tmp_path / "set" / "images" / "scene_00004.jpg").unlink()
    scenes.ensure(tmp_path / "set", 20, 3)
    assert contents(tmp_path / "set") == contents(made)


def test_other_parameters_replace_our_own_set_only(tmp_path, monkeypatch):
    ours = tmp_path / "ours"
    scenes.ensure(ours, 5, 0)
    (ours / "notes.txt").write_text("mine")
    scenes.ensure(ours, 3, 1)
    assert sorted(os.listdir(ours / "images")) == ["scene_00000.jpg", "scene_00001.jpg", "scene_00002.jpg"]
    assert (ours / "notes.txt").read_text() == "mine"

    with monkeypatch.context() as patched:  # a set half replaced must not pass for a complete one
        patched.setattr(scenes, "_render", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scenes.ensure(ours, 3, 2)
    assert not (ours / "captions.jsonl").exists()

    for name, text in (("notes.txt", "mine"), ("scenes.json", "[]")):
        other = tmp_path / name.split(".")[0]
        other.mkdir()
        (other / name).write_text(text)
        with pytest.raises(UserError, match="data_dir"):
            scenes.ensure(other, 3, 1)
        assert contents(other) == {name: text.encode()}


def test_problems_of_the_disk_are_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="data_dir"):
        scenes.ensure(tmp_path / "file", 3, 0)

    def full(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="No space left on device"):
            scenes.ensure(tmp_path / "set", 3, 0)
    scenes.ensure(tmp_path / "set", 3, 0)

    with pytest.raises(UserError, match=r"scenes\.json"):
        scenes.load_scenes(tmp_path)
    (tmp_path / "scenes.json").write_text('{"scenes": {"a": {}}}')
    with pytest.raises(UserError, match=r"scenes\.json"):
        scenes.load_scenes(tmp_path)


@pytest.mark.slow
def test_two_processes_draw_one_set_together(tmp_path):
    """The second waits, and finds the set complete."""
    command = [sys.executable, "-m", "captioning.data.scenes", str(tmp_path / "set"), "--images", "20", "--seed", "3"]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(captions_of(tmp_path / "set")) == 20
    assert not list((tmp_path / "set").glob(".*"))


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[" * 100_000, b'{"parameters": 3, "scenes": []}', b'{"scenes": {"a": 7}}']
)
def test_a_damaged_list_of_scenes_is_named(tmp_path, content):
    (tmp_path / "scenes.json").write_bytes(content)
    with pytest.raises(UserError, match=r"not the ground truth of demo scenes"):
        scenes.load_scenes(tmp_path)
    with pytest.raises(UserError, match=r"no usable scenes\.json"):
        scenes.ensure(tmp_path, 20, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes.json"]


@pytest.mark.parametrize("language", ["chinese", "hindi"])
def test_captions_of_other_languages_are_all_right_for_their_own_scene_only(language):
    found = scenes.SPOKEN[language]
    for index in range(15):
        scene = scenes._draw_scene(np.random.default_rng((0, index)))
        captions = found.write(scene, np.random.default_rng(index))
        assert len(set(captions)) == 5
        for caption in captions:
            assert not caption.isascii()
            assert caption.endswith(("。", "।"))
            for way in SPLITTINGS.values():  # as a captioner says it, without punctuation
                assert scenes.all_right(way.join(way.split(caption)), scene, language), (way.name, caption)
            for wrong in altered(scene):
                assert not scenes.all_right(caption, wrong, language), (caption, wrong)


@pytest.mark.parametrize(
    ("language", "caption", "scene"),
    [
        ("chinese", "蓝色的立方体的左边是红色的球", SCENE),
        ("chinese", "右边是一个蓝色立方体", None),
        ("chinese", "一个红色的球和一个蓝色的立方体", None),
        ("chinese", "左边是一个红色的球，左边是一个蓝色的立方体", None),
        ("chinese", "", None),
        ("hindi", "लाल गेंद नीले घन के ऊपर है", STACKED),
        ("hindi", "नीला घन लाल गेंद के दाईं ओर", SCENE),
        ("hindi", "एक लाल गेंद और एक नीला घन", None),
        ("hindi", "नीली गेंद लाल घन के ऊपर है", None),
    ],
)
def test_other_wordings_and_wrong_captions(language, caption, scene):
    right = [each for each in (SCENE, STACKED) if scenes.all_right(caption, each, language)]
    assert right == ([scene] if scene else [])


def test_all_languages_show_the_same_pictures(tmp_path, monkeypatch):
    def paint(scene, rng):
        return Image.new("RGB", (8, 8), tuple(rng.integers(0, 256, 3).tolist()))

    monkeypatch.setattr(scenes, "_render", paint)
    folders = {language: tmp_path / language for language in scenes.SPOKEN}
    for language, folder in folders.items():
        scenes.ensure(folder, 4, 3, language)
    pictures = [[path.read_bytes() for path in sorted((each / "images").iterdir())] for each in folders.values()]
    assert pictures[1:] == [pictures[0]] * 2
    found = [json.loads((each / "scenes.json").read_text())["parameters"].get("language") for each in folders.values()]
    assert found == [None, "chinese", "hindi"], "folders of earlier releases, which name no language, are English"
    assert captions_of(folders["chinese"])[0]["captions"] != captions_of(folders["hindi"])[0]["captions"]
    scenes.ensure(folders["chinese"], 4, 3, "hindi")
    assert captions_of(folders["chinese"]) == captions_of(folders["hindi"])


def test_the_setting_offers_these_languages():
    assert get_args(DemoLanguage) == tuple(scenes.SPOKEN) == ("english", *start.LANGUAGES)
