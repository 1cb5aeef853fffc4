"""Captions in texts beside pictures: ours follow the captioner, and nobody else's text is ever touched."""

import json
import os
import sys

import pytest
from PIL import Image

from captioning.base.errors import UserError
from captioning.pictures import text_files
from captioning.pictures.metadata import UnwritableMetadata
from captioning.pictures.text_files import RECORD, TextFiles


@pytest.fixture
def picture(tmp_path):
    return made(tmp_path / "photo.jpg")


def made(path):
    Image.new("RGB", (4, 4)).save(path)
    return path


def write(picture, caption):
    """As a run of its own does."""
    return TextFiles().write(picture, caption)


def files(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix.lower() in (".txt", ".caption")}


def test_a_text_holds_the_caption_alone_and_follows_another_captioner(picture, tmp_path):
    assert write(picture, "a 犬 runs") == "text"
    assert (tmp_path / "photo.txt").read_bytes() == "a 犬 runs\n".encode()
    before = (tmp_path / "photo.txt").stat().st_ino, (tmp_path / RECORD).read_bytes()
    assert write(picture, "a 犬 runs") == "text"
    assert ((tmp_path / "photo.txt").stat().st_ino, (tmp_path / RECORD).read_bytes()) == before, "nothing is written"
    for caption in ("a cat", "a 犬 runs", "a bird"):
        assert write(picture, caption) == "text"
        assert files(tmp_path) == {"photo.txt": f"{caption}\n"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "photo.jpg", "photo.txt"]


@pytest.mark.parametrize("name", ["photo.txt", "photo.TXT", "photo.jpg.txt"])
@pytest.mark.parametrize("text", ["by hand", "a dog\nby hand\n", ""])
def test_a_text_of_somebody_else_stays(picture, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    for caption in ("a dog", "a cat"):
        assert write(picture, caption) == "kept"
    assert files(tmp_path) == {name: text}
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("edit", [lambda text: "my dog\n", lambda text: text + "sunny\n", lambda text: text.strip()])
def test_a_text_of_ours_that_somebody_has_edited_stays(picture, tmp_path, edit):
    write(picture, "a dog")
    edited = edit((tmp_path / "photo.txt").read_text())
    (tmp_path / "photo.txt").write_text(edited)
    assert write(picture, "a cat") == "kept"
    assert files(tmp_path) == {"photo.txt": edited}


def test_a_text_that_says_the_same_is_no_reason_to_take_it_for_ours(picture, tmp_path):
    (tmp_path / "photo.txt").write_text("a dog\n")
    assert write(picture, "a dog") == "text"
    assert write(picture, "a cat") == "kept"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("nowhere", path), lambda path: os.mkfifo(path)])
def test_what_is_no_regular_file_stays(picture, tmp_path, make):
    make(tmp_path / "photo.txt")
    assert write(picture, "a dog") == "kept"
    assert os.path.lexists(tmp_path / "photo.txt")
    assert not (tmp_path / "photo.txt").is_file()


def test_pictures_of_one_name_have_texts_of_their_own(picture, tmp_path):
    assert write(picture, "a dog") == "text"
    other = made(tmp_path / "photo.png")
    assert write(picture, "a dog") == "text"
    assert write(other, "a cat") == "text"
    assert files(tmp_path) == {"photo.jpg.txt": "a dog\n", "photo.png.txt": "a cat\n"}, "photo.txt would be of both"
    other.unlink()
    assert write(picture, "a bird") == "text"
    assert files(tmp_path) == {"photo.txt": "a bird\n", "photo.png.txt": "a cat\n"}
    (tmp_path / "photo.NEF").touch()  # not readable without an extra, and a picture all the same
    (tmp_path / "photo.txt").write_text("of either")
    assert write(picture, "a fish") == "kept"
    assert files(tmp_path)["photo.txt"] == "of either"


def test_our_own_reader_of_such_folders_takes_them(picture, tmp_path):
    from captioning.data.sidecars import captions_below

    made(tmp_path / "photo.png")
    write(picture, "a dog")
    write(made(tmp_path / "other.jpg"), "a cat")
    assert captions_below(tmp_path) == {"photo.jpg": ["a dog"], "other": ["a cat"]}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_of_any_kind(tmp_path):
    for name in ("a\nb.png", os.fsdecode(b"caf\xe9.png"), "a.b.png", "ü.png"):
        picture = made(tmp_path / name)
        assert (write(picture, "a dog"), write(picture, "a cat")) == ("text", "text")
        assert picture.with_suffix(".txt").read_text() == "a cat\n"


@pytest.mark.parametrize("left", ["a dog\n", "a cat\n"], ids=["before the text", "after it"])
def test_a_kill_around_the_writing_of_a_text_loses_nothing(picture, tmp_path, monkeypatch, left):
    write(picture, "a dog")
    real = text_files.put

    def killed(*args, **kwargs):
        if left == "a cat\n":
            real(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(text_files, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            write(picture, "a cat")
    assert files(tmp_path) == {"photo.txt": left}
    assert write(picture, "a bird") == "text"
    assert files(tmp_path) == {"photo.txt": "a bird\n"}


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data + b"\xff{]\n[]\n", lambda data: b"\n" + data]
)
def test_a_damaged_record_costs_only_what_is_damaged(picture, tmp_path, damage):
    other = made(tmp_path / "other.jpg")
    write(picture, "a dog")
    write(other, "a cat")
    (tmp_path / RECORD).write_bytes(damage((tmp_path / RECORD).read_bytes()))
    assert write(picture, "a fish") == "text"
    assert write(picture, "a bird") == "text"
    lines = [line for line in (tmp_path / RECORD).read_bytes().splitlines() if line.startswith(b'{"text": "photo')]
    assert len(lines) == 3
    assert all(json.loads(line) for line in lines)


def test_without_the_record_texts_are_somebodys(picture, tmp_path):
    write(picture, "a dog")
    (tmp_path / RECORD).unlink()
    assert write(picture, "a cat") == "kept"


def test_what_cannot_be_written_is_named(picture, tmp_path, monkeypatch):
    write(picture, "a dog")
    (tmp_path / "photo.txt").chmod(0o444)
    with pytest.raises(UnwritableMetadata, match=r"photo\.jpg: .*photo\.txt is write-protected"):
        write(picture, "a cat")
    with pytest.raises(UnwritableMetadata, match=r"gone\.jpg: .*No such file"):
        write(tmp_path / "gone.jpg", "a cat")
    assert not (tmp_path / "gone.txt").exists()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "photo.txt").chmod(0o644)
    with pytest.raises(UserError, match="No space left") as error:
        write(picture, "a cat")
    assert not isinstance(error.value, UnwritableMetadata), "the run ends"
    assert files(tmp_path) == {"photo.txt": "a dog\n"}
