"""Which files of a folder are captioned, and what is said of the others."""

import os
from pathlib import Path

import pytest

from captioning.base.errors import UserError
from captioning.pictures import extra_formats, loading
from captioning.pictures.finding import SUFFIXES, Finder, expanded, require_pictures, sources


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(autouse=True)
def no_libraries(monkeypatch):
    monkeypatch.setattr(extra_formats, "has_library", lambda name: False)


def test_sources_are_sorted_recursive_and_by_suffix(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    made(tmp_path, "b.PNG", "deep/a.jpeg", "a.jpg", "notes.txt", "._a.jpg", ".trash/c.jpg")
    found = list(sources([str(tmp_path), "elsewhere.jpg"], Finder()))
    assert found == [*(str(tmp_path / name) for name in ("a.jpg", "b.PNG", "deep/a.jpeg")), "elsewhere.jpg"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        ("[bc].*", ["b.jpg", "c.png"]),
        ("*/*.jpg", ["deep/d.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "deep/d.jpg", "deep/er/e.jpg"]),
        ("dee*", ["deep/d.jpg", "deep/er/e.jpg"]),
        ("1[2].jpg", ["1[2].jpg"]),
        ("plain.jpg", ["plain.jpg"]),
    ],
)
def test_patterns_are_expanded_where_no_shell_has_done_it(tmp_path, monkeypatch, pattern, names):
    made(tmp_path, "b.jpg", "a.jpg", "c.png", "deep/d.jpg", "deep/er/e.jpg", ".hidden.jpg")
    if pattern.startswith("1"):  # a file of this name is no pattern
        made(tmp_path, "1[2].jpg", "12.jpg")
    monkeypatch.chdir(tmp_path)
    assert [Path(name).as_posix() for name in sources([pattern], Finder())] == names
    assert expanded(expanded([pattern])) == expanded([pattern])


def test_a_pattern_that_nothing_matches_is_named_and_an_address_is_no_pattern(tmp_path):
    made(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"\*\.png: no file has such a name; check the pattern"):
        expanded([str(tmp_path / "*.png")])
    with pytest.raises(UserError, match=r"holiday\[3\]\.jpg: no file has such a name"):
        expanded([str(tmp_path / "holiday[3].jpg")])
    addresses = ["https://example.org/a.jpg?size=*", "http://[::1]/a.jpg"]
    assert expanded(addresses) == addresses


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_found_in_folders(suffix, tmp_path):
    made(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert len(list(Finder().names(tmp_path))) == 2


def test_links_that_lead_nowhere_are_found_and_reported(tmp_path):
    try:
        (tmp_path / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    except OSError:
        pytest.skip("Windows without the right to make links")
    (lost,) = sources([str(tmp_path)], Finder())
    with pytest.raises(loading.UnreachableImage, match=r"lost\.jpg: .*No such file"):
        loading.load_image(lost, 16)


def test_what_is_left_out_is_counted_by_suffix(tmp_path):
    names = [f"{i}.mov" for i in range(12)] + ["a.jpg", "a.jpg.xmp", "a.HEIC", "b.heic", "c.cr2", "README", "._a.jpg"]
    made(tmp_path, *names, *(f"x.k{i}" for i in range(9)))
    finder = Finder()
    assert list(finder.names(tmp_path)) == ["a.jpg"]
    by_suffix, hidden = finder.left_out()
    assert by_suffix.startswith("left out by suffix: 12 .mov, 2 .heic, 1 ")
    assert by_suffix.endswith(', 5 others (pip install -e ".[formats]" reads .cr2, .heic)')
    assert hidden == "left out: 1 hidden pictures, whose names begin with a point"
    assert finder.left_out() == []


def test_texts_beside_pictures_are_not_counted_as_left_out(tmp_path):
    made(
        tmp_path, "a.jpg", "a.txt", "b.png", "b.jpg", "b.png.txt", "c.jpg", "c.TXT", "deep/d.jpg", "d.txt", "notes.txt"
    )
    finder = Finder()
    assert len(list(finder.names(tmp_path))) == 5
    assert finder.left_out() == ["left out by suffix: 2 .txt"], "d.txt is in another folder than d.jpg"


def test_formats_whose_library_is_there_are_found(tmp_path, monkeypatch):
    made(tmp_path, "a.heic", "b.NEF")
    monkeypatch.setattr(extra_formats, "has_library", lambda name: name == "rawpy")
    assert list(Finder().names(tmp_path)) == ["b.NEF"]
    monkeypatch.setattr(extra_formats, "has_library", lambda name: True)
    assert list(Finder().names(tmp_path)) == ["a.heic", "b.NEF"]


@pytest.mark.parametrize(
    "folder",
    [
        *("@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"),
        *("x Previews.lrdata", "appdata_oc1", "My.photoslibrary/resources"),
    ],
)
def test_folders_of_machines_are_left_out_and_counted(folder, tmp_path):
    made(tmp_path, "a.jpg", f"{folder}/b.jpg", f"deep/{folder}/c/d.jpg", "My.photoslibrary/originals/0/e.jpg")
    finder = Finder()
    assert list(finder.names(tmp_path)) == ["a.jpg", "My.photoslibrary/originals/0/e.jpg"]
    name = Path(folder).name
    assert finder.left_out() == [f"left out: folders of machines: 2 {name}"]
    assert list(finder.names(tmp_path / folder)) == ["b.jpg"], "a folder that is named is meant"


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["drafts"], ["2020/a.png", "2020/b.jpg", "c.jpg"]),
        (["*.png"], ["2020/b.jpg", "c.jpg", "drafts/d.jpg"]),
        (["2020/*.png", "c.jpg"], ["2020/b.jpg", "drafts/d.jpg"]),
        (["20*"], ["c.jpg", "drafts/d.jpg"]),
    ],
)
def test_patterns_leave_out_files_and_folders(patterns, left, tmp_path):
    made(tmp_path, "2020/a.png", "2020/b.jpg", "c.jpg", "drafts/d.jpg")
    finder = Finder(patterns)
    assert sorted(finder.names(tmp_path)) == left
    (line,) = finder.left_out()
    assert line == f"left out by --exclude: {len(patterns)} files and folders"


def test_links_to_folders_are_named_or_followed_once(tmp_path):
    photos = made(tmp_path / "photos", "a.jpg", "2020/b.jpg")
    made(tmp_path / "elsewhere", "c.jpg")
    try:
        (photos / "away").symlink_to(tmp_path / "elsewhere")
    except OSError:
        pytest.skip("Windows without the right to make links")
    (photos / "again").symlink_to(photos / "2020")
    (photos / "2020" / "circle").symlink_to(photos)
    finder = Finder()
    assert sorted(finder.names(photos)) == ["2020/b.jpg", "a.jpg"]
    assert finder.left_out() == ["left out: 3 links to folders: again, away, 2020/circle (--follow-links follows them)"]
    finder = Finder(follow_links=True)
    found = sorted(finder.names(photos))
    assert [os.path.basename(name) for name in found] == ["b.jpg", "a.jpg", "c.jpg"]
    assert finder.left_out() == []


def test_names_of_links_and_folders_are_shown_with_escapes(tmp_path):
    made(tmp_path, "a.jpg", "b.x\x1b[2J\ny")
    finder = Finder()
    list(finder.names(tmp_path))
    assert finder.left_out() == [r"left out by suffix: 1 .x\x1b[2j\ny"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_counted(tmp_path):
    made(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    finder = Finder()
    assert list(finder.names(tmp_path)) == ["a.jpg"]
    assert finder.left_out() == ["left out by suffix: 1 no regular file"]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    made(tmp_path, "a.heic", "@eaDir/b.jpg")
    for refuse in (
        lambda: list(sources([str(tmp_path)], Finder())),
        lambda: require_pictures(tmp_path, "--images", Finder()),
    ):
        with pytest.raises(
            UserError, match=r"holds no pictures .*; left out by suffix: 1 \.heic .*; left out: folders"
        ):
            refuse()
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        list(Finder().names(tmp_path / "nowhere"))
