"""Albums: each picture has one line, whatever happens on the way, and captions reach the metadata that is asked for."""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from helpers import ROOT
from PIL import Image
from small_albums import CONFIG, SETTINGS, FakeCaptioner, Killed, break_picture, caption, make_pictures, wanted
from strange_pictures import png, saved

from captioning.albums import captions
from captioning.albums.captions import list_pictures, made_with, read_lines
from captioning.albums.metadata import write_metadata
from captioning.base import progress
from captioning.base.errors import UserError
from captioning.pictures.metadata import write_caption


def captions_of(output: Path) -> dict[str, str]:
    """Image -> best caption or error; each image has one line."""
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    found = {line["image"]: line["captions"][0]["caption"] if "captions" in line else line["error"] for line in lines}
    assert len(found) == len(lines)
    return found


EMBED = partial(write_caption, embed=True)


# Lines ----------------------------------------------------------------------------------------------------------------


def test_each_picture_gets_a_line_with_its_captions(tmp_path):
    folder = make_pictures(tmp_path / "album", 10)
    captioner = FakeCaptioner()
    output = tmp_path / "new" / "captions.jsonl"
    assert caption(folder, output, captioner, best=2) == 0
    assert captions_of(output) == wanted(folder)
    assert json.loads(output.read_text().splitlines()[0]) == {
        "image": "1.png",
        "captions": [
            {"caption": "brightness 1", "log_prob": -2.0, "score": -1.0},
            {"caption": "a dog", "log_prob": -4.0, "score": -2.0},
        ],
    }
    assert captioner.shapes == [(4, 32, 32, 3)] * 3  # one shape: the last batch is filled up


def test_unreadable_pictures_have_a_line_and_are_counted_again(tmp_path, capsys):
    folder = make_pictures(tmp_path / "album", 6)
    for name in ("2.png", "deep 5/5.png"):
        break_picture(folder, name)
    output = tmp_path / "captions.jsonl"
    assert caption(folder, output) == 2
    assert captions_of(output)["2.png"].startswith(f"{folder}/2.png: cannot be read as a picture")
    assert captions_of(output)["3.png"] == "brightness 3"
    assert capsys.readouterr().err.count("error: ") == 2
    assert caption(folder, output) == 2
    (folder / "2.png").unlink()
    assert caption(folder, output) == 1


def test_a_picture_that_the_system_does_not_give_is_tried_again(tmp_path, capsys):
    folder = make_pictures(tmp_path / "album", 6)
    output, names = tmp_path / "captions.jsonl", list_pictures(folder)
    (folder / "2.png").rename(tmp_path / "2.png")  # after it was listed
    caption(folder, output, names=names)
    assert "No such file" in capsys.readouterr().err
    assert captions_of(output).keys() == set(names) - {"2.png"}
    (tmp_path / "2.png").rename(folder / "2.png")
    caption(folder, output)
    assert captions_of(output) == wanted(folder)


def test_pictures_that_came_later_are_captioned_on_the_next_run(tmp_path):
    folder = make_pictures(tmp_path / "album", 6)
    output = tmp_path / "captions.jsonl"
    caption(folder, output)
    before = output.read_text()
    captioner = FakeCaptioner()
    make_pictures(folder, 3, first=6)
    caption(folder, output, captioner)
    assert output.read_text().startswith(before)
    assert captions_of(output) == wanted(folder)
    assert captioner.shapes == [(3, 32, 32, 3)]
    caption(folder, output, captioner=None)
    assert captions_of(output) == wanted(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_of_any_kind(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    names = ["ü 犬.png", "a\nb.png", 'a"b\\c.png', os.fsdecode(b"latin-\xfc.png")]
    for i, name in enumerate(names):
        Image.new("L", (32, 32), i).save(folder / name)
    output = tmp_path / "captions.jsonl"
    caption(folder, output)
    assert {line["image"] for line in read_lines(output)} == set(names)
    assert output.read_bytes().count("犬".encode()) == 1
    captioner = FakeCaptioner()
    caption(folder, output, captioner)
    assert not captioner.shapes


def test_a_batch_is_decoded_while_the_one_before_is_encoded_and_that_before_it_searched(tmp_path, monkeypatch):
    folder = make_pictures(tmp_path / "album", 8)
    ahead, encoded = threading.Event(), threading.Event()
    names = list_pictures(folder)
    real = captions.load_image

    def load(path, size, tell):
        if path == folder / names[7]:
            ahead.set()
        return real(path, size, tell)

    class Waiting(FakeCaptioner):
        def encode(self, pixels):
            assert ahead.wait(10), "the second batch was not decoded ahead"
            if self.shapes:
                encoded.set()
            return super().encode(pixels)

        def caption(self, features, config, names=None):
            assert encoded.wait(10), "the second batch was not encoded meanwhile"
            return super().caption(features, config)

    monkeypatch.setattr(captions, "load_image", load)
    caption(folder, tmp_path / "captions.jsonl", Waiting())


def test_a_captioner_with_several_lanes_gets_as_many_batches_at_a_time(tmp_path):
    folder = make_pictures(tmp_path / "album", 8)
    both = threading.Barrier(2, timeout=10)

    class Lanes(FakeCaptioner):
        lanes = 2

        def caption(self, features, config, names=None):
            both.wait()  # raises unless another batch is captioned meanwhile
            return super().caption(features, config)

    caption(folder, tmp_path / "captions.jsonl", Lanes())
    assert [line["image"] for line in read_lines(tmp_path / "captions.jsonl")] == list_pictures(folder)


def test_strange_files_end_no_folder_and_damaged_ones_have_notes(tmp_path, capsys):
    folder = make_pictures(tmp_path / "album", 3)
    noise = saved(Image.effect_noise((64, 64), 90), "PNG")
    (folder / "cut.png").write_bytes(noise[:-500])
    (folder / "wide.png").write_bytes(png(178_000_000, 1))
    (folder / "high.png").write_bytes(png(1, 50_000_000))
    (folder / "two\nlines\x1b[2J.png").write_bytes(b"no picture")
    (folder / os.fsdecode(b"latin\xe9.png")).write_bytes(noise)
    names = list_pictures(folder)
    assert caption(folder, tmp_path / "captions.jsonl") == 3
    lines = {line["image"]: line for line in read_lines(tmp_path / "captions.jsonl")}
    assert sorted(lines) == sorted(names), "names are kept exactly"
    assert {name for name, line in lines.items() if "notes" in line} == {"cut.png"}
    (note,) = lines["cut.png"]["notes"]
    shown = capsys.readouterr().err
    assert f"note: {note}\n" in shown
    assert "damaged: only " in note
    assert r"two\nlines\x1b[2J.png: cannot be read" in shown
    found = write_metadata(folder, names, tmp_path / "captions.jsonl", EMBED, 2)
    assert found == {"embedded": 4, "sidecar": 1, "unreadable": 3}, "the cut picture gets its caption beside it"


# Going on -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_an_interrupted_run_goes_on_with_what_is_missing(tmp_path, cut):
    folder = make_pictures(tmp_path / "album", 18)
    break_picture(folder, "3.png")
    output = tmp_path / "captions.jsonl"

    class Interrupted(FakeCaptioner):
        def encode(self, pixels):
            if len(self.shapes) == 2:
                raise Killed
            return super().encode(pixels)

    with pytest.raises(Killed):
        caption(folder, output, Interrupted())
    assert len(captions_of(output)) == 4
    os.truncate(output, output.stat().st_size - cut)
    captioner = FakeCaptioner()
    assert caption(folder, output, captioner) == 1
    found = captions_of(output)
    assert "cannot be read" in found.pop("3.png")
    assert found == {name: text for name, text in wanted(folder).items() if name != "3.png"}
    assert len(captioner.shapes) == 4


@pytest.mark.slow
def test_a_run_killed_again_and_again_loses_and_doubles_nothing(tmp_path):
    """Real processes and kill -9 at random moments, while captions are written and while pictures are."""
    folder = make_pictures(tmp_path / "album", 60, suffix="jpg")
    output = tmp_path / "captions.jsonl"
    code = (
        "import os, sys, time; sys.path[:0] = sys.argv[3:]\n"
        "from pathlib import Path; import test_albums as t\n"
        "folder, output = map(Path, sys.argv[1:3])\n"
        "sync = os.fsync\n"
        "os.fsync = lambda handle: (time.sleep(0.01), sync(handle))\n"  # time to be killed in
        "t.caption(folder, output, t.FakeCaptioner())\n"
        "t.write_metadata(folder, t.list_pictures(folder), output, t.EMBED, 2)\n"
    )
    command = [sys.executable, "-c", code, folder, output, ROOT, ROOT / "tests", Path(__file__).parent]
    rng = random.Random(0)

    def written() -> tuple[int, int]:
        """Bytes of the lines and of the pictures, both of which only grow."""
        return (
            output.stat().st_size if output.exists() else 0,
            sum((folder / name).stat().st_size for name in list_pictures(folder)),
        )

    for part in (0, 0, 0, 1, 1, 1):
        before = written()
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while written()[part] == before[part] and child.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        assert child.poll() is None, "the run was done before it could be killed"
        child.kill()
        child.wait()
    assert b"captioning" not in (folder / list_pictures(folder)[-1]).read_bytes()  # the last run has something to do
    subprocess.run(command, check=True)
    assert captions_of(output) == wanted(folder)
    for name, text in wanted(folder).items():
        with Image.open(folder / name) as image:
            assert text.encode() in image.info["xmp"]
            image.load()


@pytest.mark.parametrize("name", SETTINGS)
def test_lines_made_with_other_settings_are_not_mixed(tmp_path, name):
    folder = make_pictures(tmp_path / "album", 2)
    output = tmp_path / "captions.jsonl"
    caption(folder, output)
    make_pictures(folder, 2, first=2)
    before = output.read_bytes()
    with pytest.raises(UserError, match=rf"captions\.jsonl was begun with other settings \({name} was .*now other"):
        caption(folder, output, settings=SETTINGS | {name: "other"})
    assert output.read_bytes() == before
    caption(folder, output)
    assert captions_of(output) == wanted(folder)


@pytest.mark.parametrize(
    ("name", "former", "other"),
    [
        ("views", 1, 4),
        ("consensus", False, True),
        ("prefix", "", "a"),
        ("include", (), ("a",)),
        ("exclude_words", (), ("a",)),
        ("sample_seed", 0, 1),
        ("concept_weight", 0.0, 0.4),
        ("object_weight", 0.0, 1.0),
    ],
)
def test_a_file_from_before_there_was_a_setting_has_its_default(tmp_path, name, former, other):
    folder = make_pictures(tmp_path / "album", 2)
    output = tmp_path / "captions.jsonl"
    caption(folder, output)
    caption(folder, output, settings=SETTINGS | {name: former})
    told = re.escape(f"{name} was {json.loads(json.dumps(former))}, now {json.loads(json.dumps(other))}")
    with pytest.raises(UserError, match=told):
        caption(folder, output, settings=SETTINGS | {name: other})


def test_files_that_are_no_albums_are_left_alone(tmp_path):
    folder = make_pictures(tmp_path / "album", 2)
    for name in ("1.png", "captions.jsonl"):
        output = folder / name
        if not output.exists():
            caption(folder, output)
            Path(f"{output}.settings.json").unlink()
        before = output.read_bytes()
        with pytest.raises(UserError, match=rf"{name} exists, but {name}\.settings\.json.* name another file"):
            caption(folder, output)
        assert output.read_bytes() == before
    for damaged in ("[", "[]", "3"):
        Path(f"{output}.settings.json").write_text(damaged)
        with pytest.raises(UserError, match=r"settings\.json: damaged"):
            caption(folder, output)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"image": 3}', '{"image": "a", "captions": ["b"]}'])
def test_a_line_of_another_kind_is_named(tmp_path, line):
    folder = make_pictures(tmp_path / "album", 3)
    output = tmp_path / "captions.jsonl"
    caption(folder, output)
    lines = output.read_text().splitlines()
    output.write_text("\n".join([lines[0], line, *lines[1:], ""]))
    with pytest.raises(UserError, match=r"captions\.jsonl, line 2: .*remove"):
        caption(folder, output)


def test_a_full_disk_is_a_message_and_the_same_command_goes_on(tmp_path, monkeypatch):
    folder = make_pictures(tmp_path / "album", 10)
    output = tmp_path / "captions.jsonl"
    calls = []

    def fail(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=r"captions\.jsonl: .*No space left.*free some space, then run the same"):
            caption(folder, output)
    caption(folder, output)
    assert captions_of(output) == wanted(folder)


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    folder = make_pictures(tmp_path / "album", 2)
    with pytest.raises(UserError, match=r"--output: .*album: cannot be written: .*; choose a file that can"):
        caption(folder, folder)


def test_what_decides_the_captions_is_told_apart(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "captioner.zip").write_bytes(b"one")
    (tmp_path / "other.zip").write_bytes(b"two")
    models = [tmp_path / "run"]
    first = made_with(tmp_path, models, CONFIG, 1)
    assert made_with(tmp_path, [tmp_path / "run" / "captioner.zip"], CONFIG, 1) == first
    same = CONFIG.with_overrides({"extract_batch_size": 8, "decode_batch_size": 8, "workers": 1})
    assert made_with(tmp_path, models, same, 1) == first
    others = [
        made_with(tmp_path / "run", models, CONFIG, 1),
        made_with(tmp_path, [tmp_path / "other.zip"], CONFIG, 1),
        made_with(tmp_path, [*models, tmp_path / "other.zip"], CONFIG, 1),
        made_with(tmp_path, models, CONFIG, 2),
        made_with(tmp_path, models, CONFIG, 1, views=2),
        made_with(tmp_path, models, CONFIG, 1, precision="int8"),
        *(
            made_with(tmp_path, models, CONFIG.with_overrides({name: value}), 1)
            for name, value in {
                "beam_size": 5, "length_penalty": 0.5, "no_repeat_ngram": 2, "min_length": 3, "max_caption_length": 9,
                "prefix": "a photo of", "include": ["cat"], "exclude_words": ["dog"],
            }.items()
        ),
    ]  # fmt: skip
    texts = {json.dumps(found, sort_keys=True) for found in [first, *others]}
    assert len(texts) == 1 + len(others)


# What is shown --------------------------------------------------------------------------------------------------------


def test_progress_is_told_in_lines_where_nobody_looks(tmp_path, capsys, monkeypatch):
    folder = make_pictures(tmp_path / "album", 10)
    monkeypatch.setattr(progress, "_REPORT_EVERY", 0)
    caption(folder, tmp_path / "captions.jsonl")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"captions: {done} of 10 pictures" for done in (4, 8, 10)]
    assert lines[0].endswith(" left")
    monkeypatch.setattr(progress, "_REPORT_EVERY", 60)
    make_pictures(folder, 10, first=10)
    caption(folder, tmp_path / "captions.jsonl")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("captions: 20 of 20 pictures, ")


def test_folders_without_pictures_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        list_pictures(tmp_path / "nowhere")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match="holds no pictures"):
        list_pictures(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the super-user may list any folder")
def test_folders_that_cannot_be_listed_are_reported(tmp_path, capsys):
    folder = make_pictures(tmp_path / "album", 7)
    (folder / "deep 5").chmod(0)
    assert len(list_pictures(folder)) == 6
    (folder / "deep 5").chmod(0o700)
    assert "deep 5: cannot be listed" in capsys.readouterr().err


# Metadata -------------------------------------------------------------------------------------------------------------


def test_captions_are_written_into_the_metadata_of_their_pictures(tmp_path, capsys):
    folder = make_pictures(tmp_path / "album", 7, suffix="jpg")
    make_pictures(folder, 2, first=7, suffix="gif")
    break_picture(folder, "1.jpg")
    output = tmp_path / "captions.jsonl"
    caption(folder, output)
    (folder / "2.jpg").unlink()
    (folder / "3.jpg.xmp").write_text("no XMP")
    capsys.readouterr()
    names = list_pictures(folder)
    found = write_metadata(folder, names, output, EMBED, workers=2)
    assert found == {"embedded": 4, "sidecar": 2, "failed": 1, "unreadable": 1}
    assert "error: " + str(folder / "3.jpg.xmp") in capsys.readouterr().err
    with Image.open(folder / "deep 5" / "5.jpg") as image:
        assert b">brightness 5<" in image.info["xmp"]
    (folder / "3.jpg.xmp").unlink()
    # Captions that were corrected by hand are what counts.
    output.write_text(output.read_text().replace("brightness 4", "four"))
    found = write_metadata(folder, names, output, write_caption, workers=2)
    assert found == {"sidecar": 7, "unreadable": 1}
    assert ">four<" in (folder / "4.jpg.xmp").read_text()
