"""The readers: official splits and captions as published, warts repaired and reported, broken input named by line."""

import json
import random
import zipfile
from pathlib import Path

import pytest
from layouts import TOKENS, flickr8k_files, names, pack, warning, write_files

from captioning.base.errors import UserError
from captioning.data import datasets, scenes
from captioning.data.records import CaptionDataset
from config import Config


def read_flickr8k(folder: Path) -> CaptionDataset:
    return datasets.load(Config(data_dir=str(folder)))


# Flickr8k ------------------------------------------------------------------------------------------------------------


def test_flickr8k_as_published(tmp_path):
    write_files(tmp_path, flickr8k_files() | {"Flicker8k_Dataset/._a.jpg": "left by a Mac", "readme.txt": "cite us"})
    dataset = read_flickr8k(tmp_path)
    assert names(dataset.records) == [f"{name}.jpg" for name in "abcdef"]
    assert [record.image_id for record in dataset.records] == [0, 1, 2, 3, 4, 5]
    assert dataset.records[0].captions == ("caption 0 of a .", "caption 1 of a .")
    assert dataset.records[0].path.read_text() == "a"
    assert dataset.records[5].split == ""
    assert names(dataset.split("train")) == ["a.jpg", "b.jpg", "c.jpg"]
    assert names(dataset.split("dev")) == names(dataset.split("val")) == names(dataset.split("validation")) == ["d.jpg"]
    assert names(dataset.split("test")) == ["e.jpg"]
    assert dataset.warnings == ()


def test_an_unknown_split_names_those_that_exist(tmp_path):
    write_files(tmp_path, flickr8k_files() | {"Flickr_8k.testImages.txt": ""})
    dataset = read_flickr8k(tmp_path)
    for name in ("tset", "", "test"):
        with pytest.raises(UserError, match=r"train \(3 images\), dev \(1 images\)"):
            dataset.split(name)


@pytest.mark.parametrize("images", ["Flickr8k_Dataset", "Images", "Flickr8k_Dataset/Flicker8k_Dataset", "x/images"])
def test_flickr8k_is_found_in_the_folders_people_have(tmp_path, images):
    files = {name.replace("Flicker8k_Dataset", images): text for name, text in flickr8k_files().items()}
    write_files(tmp_path, {f"x/text/{name}" if name.endswith(".txt") else name: text for name, text in files.items()})
    assert len(read_flickr8k(tmp_path).records) == 6


def test_flickr8k_zips_are_unpacked_once(tmp_path):
    files = flickr8k_files()
    shadows = {f"__MACOSX/{name.replace('/', '/._')}": "shadow" for name in files}
    pack(tmp_path / "Flickr8k_text.zip", {name: files[name] for name in files if name.endswith(".txt")})
    pack(tmp_path / "images-1.zip", {name: files[name] for name in files if name[-5] in "abc"} | shadows)
    pack(tmp_path / "images-2.zip", {name: files[name] for name in files if name[-5] in "def"})
    pack(tmp_path / "holiday.zip", {"Photos/beach.jpg": "beach"})
    dataset = read_flickr8k(tmp_path)
    assert [record.path.read_text() for record in dataset.records] == list("abcdef")
    assert dataset.warnings == ()
    unpacked = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert unpacked == ["unzipped-Flickr8k_text", "unzipped-images-1", "unzipped-images-2"]
    assert not list(tmp_path.rglob("._*"))
    dataset.records[0].path.write_text("kept")
    assert read_flickr8k(tmp_path).records[0].path.read_text() == "kept"


def test_the_judgements_in_the_archive_are_unpacked_too(tmp_path):
    pack(tmp_path / "all.zip", flickr8k_files() | {"ExpertAnnotations.txt": "a", "readme.txt": "b"})
    read_flickr8k(tmp_path)
    assert (tmp_path / "unzipped-all" / "ExpertAnnotations.txt").read_text() == "a"
    assert not (tmp_path / "unzipped-all" / "readme.txt").exists()


def test_zips_beside_their_contents_are_left_packed(tmp_path):
    files = flickr8k_files()
    write_files(tmp_path, files)
    pack(tmp_path / "all.zip", files)
    read_flickr8k(tmp_path)
    assert not (tmp_path / "unzipped-all").exists()


def test_a_zip_cannot_write_outside_its_folder(tmp_path):
    evil = {"../../Flicker8k_Dataset/evil.jpg": "e", "/Images/evil2.jpg": "e", "../evil.jpg": "e"}
    (tmp_path / "data").mkdir()
    pack(tmp_path / "data" / "all.zip", flickr8k_files() | evil)
    dataset = read_flickr8k(tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["all.zip", "unzipped-all"]
    assert "evil.jpg; evil2.jpg" in warning(dataset, "without captions")


@pytest.mark.parametrize("damage", ["cut", "stored bytes", "packed bytes"])
def test_a_damaged_zip_is_named_and_leaves_nothing(tmp_path, damage):
    archive = tmp_path / "Flickr8k_Dataset.zip"
    write_files(tmp_path, {name: text for name, text in flickr8k_files().items() if name.endswith(".txt")})
    with zipfile.ZipFile(
        archive, "w", zipfile.ZIP_DEFLATED if damage == "packed bytes" else zipfile.ZIP_STORED
    ) as opened:
        opened.writestr("Images/a.jpg", "a" * 100)
        opened.writestr("Images/b.jpg", "b" * 100)
    before = sorted(tmp_path.iterdir())
    data = bytearray(archive.read_bytes())
    start = data.rindex(b"Images/b.jpg", 0, data.index(b"PK\1\2")) + len("Images/b.jpg")
    data[start : start + 4] = b"\xff\xff\xff\xff"
    archive.write_bytes(data[:-50] if damage == "cut" else data)
    with pytest.raises(UserError, match=r"Flickr8k_Dataset\.zip: cannot be unpacked .*Delete it and fetch it again"):
        read_flickr8k(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_missing_flickr8k_says_which_files_and_how_to_get_them(tmp_path, folder):
    write_files(tmp_path, {TOKENS: flickr8k_files()[TOKENS]})
    with pytest.raises(UserError) as raised:
        read_flickr8k(tmp_path / folder)
    parts = ["Flickr_8k.devImages.txt", "Flicker8k_Dataset/*.jpg", "Flickr8k_text.zip", "preprocessing.py --download"]
    for part in [*parts, str(tmp_path / folder)]:
        assert part in str(raised.value)


def test_the_published_slip_in_a_caption_key_is_mended(tmp_path):
    files = flickr8k_files()
    files[TOKENS] = files[TOKENS].replace("b.jpg#0", "b.jpg.1#0")
    write_files(tmp_path, files)
    dataset = read_flickr8k(tmp_path)
    assert dataset.records[1].captions == ("caption 0 of b .", "caption 1 of b .")
    assert len(dataset.records) == 6
    assert warning(dataset, "after .jpg").endswith(": 1, e.g. b.jpg.1#0")


def test_flickr8k_warts_are_reported_and_lose_nothing_else(tmp_path):
    files = flickr8k_files()
    files[TOKENS] += "a.jpg#1\tcaption 1 of a .\na.jpg#2\t \nb.jpg#2\tdog\ng.jpg#0\n"
    files["Flickr_8k.devImages.txt"] = "d.jpg\nd.jpg\n"
    files["Images/a.jpg"] = "another a"
    files["Flicker8k_Dataset/new.jpg"] = "new"
    del files["Flicker8k_Dataset/c.jpg"], files["Flicker8k_Dataset/f.jpg"]
    write_files(tmp_path, files)
    dataset = read_flickr8k(tmp_path)
    assert names(dataset.records) == ["a.jpg", "b.jpg", "d.jpg", "e.jpg"]
    assert [record.image_id for record in dataset.records] == [0, 1, 3, 4], "ids do not depend on what is on the disk"
    assert dataset.records[0].captions == ("caption 0 of a .", "caption 1 of a .", "caption 1 of a .")
    assert dataset.records[0].path.read_text() == "a"
    for text, example in {
        "with a number used before": "1, e.g. a.jpg#1",
        "repeat another of the same image": "1, e.g. a.jpg: caption 1 of a .",
        "empty captions (dropped)": "2, e.g. a.jpg; g.jpg",
        "with empty captions only": "1, e.g. g.jpg",
        "of a single word": "1, e.g. b.jpg: dog",
        "listed more than once in Flickr_8k.devImages.txt": "1, e.g. d.jpg",
        "not used, as": "1, e.g. a.jpg",
        "without captions": "1, e.g. new.jpg",
        "of split train with captions but no file": "1, e.g. c.jpg",
        "in no split with captions but no file": "1, e.g. f.jpg",
    }.items():
        assert warning(dataset, text).endswith(example)
    assert len(dataset.warnings) == 10


def test_a_warning_counts_all_and_shows_three(tmp_path):
    write_files(tmp_path, flickr8k_files() | {f"Flicker8k_Dataset/x{k}.jpg": "" for k in range(5)})
    assert warning(read_flickr8k(tmp_path), "without captions").endswith(": 5, e.g. x0.jpg; x1.jpg; x2.jpg")


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    ],
)
def test_line_ends_and_byte_order_marks_of_windows_change_nothing(tmp_path, encode):
    write_files(tmp_path / "plain", flickr8k_files())
    write_files(
        tmp_path / "windows",
        {name: encode(text) if name.endswith(".txt") else text for name, text in flickr8k_files().items()},
    )
    plain, windows = read_flickr8k(tmp_path / "plain"), read_flickr8k(tmp_path / "windows")
    assert [(r.file_name, r.captions, r.split) for r in windows.records] == [
        (r.file_name, r.captions, r.split) for r in plain.records
    ]


def test_rare_line_separators_stay_inside_a_caption(tmp_path):
    files = flickr8k_files()
    files[TOKENS] = files[TOKENS].replace("caption 0 of a", "caption\u2028 0\x0b of\x85 a")
    write_files(tmp_path, files)
    assert read_flickr8k(tmp_path).records[0].captions[0] == "caption\u2028 0\x0b of\x85 a ."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Flickr_8k.testImages.txt", "e.jpg\nzebra.jpg\n", r"testImages\.txt, line 2: zebra\.jpg has no captions"),
        ("Flickr_8k.testImages.txt", "e.jpg\n\na.jpg\n", r"testImages\.txt, line 3: a\.jpg is in split train too"),
        (TOKENS, "a.jpg#0\tgood\na.jpg 1 bad\n", r"token\.txt, line 2: expected NAME#NUMBER.*a\.jpg 1 bad"),
        (TOKENS, b"\xef\xbb\xbfa.jpg#0\tcaf\xe9\n", r"token\.txt: not UTF-8 at byte 14"),
    ],
)
def test_broken_flickr8k_files_are_named_with_their_line(tmp_path, name, content, message):
    write_files(tmp_path, flickr8k_files() | {name: content})
    with pytest.raises(UserError, match=message):
        read_flickr8k(tmp_path)


def test_no_image_that_fits_the_captions_is_an_error(tmp_path):
    files = {name.replace("Dataset/", "Dataset/not-"): text for name, text in flickr8k_files().items()}
    write_files(tmp_path, files)
    with pytest.raises(UserError, match=r"6 images were found in .*, and none of the 6 .* looked for is 'a\.jpg'"):
        read_flickr8k(tmp_path)


# A folder of images with a captions file -----------------------------------------------------------------------------


def read_folder(tmp_path: Path, captions: str | bytes, suffix: str = ".csv", images: str = "abcdefghij", **settings):
    write_files(tmp_path, {f"images/{name}.png": "" for name in images} | {f"captions{suffix}": captions})
    where = {"data_dir": str(tmp_path / "images"), "captions_file": str(tmp_path / f"captions{suffix}")}
    return datasets.load(Config(dataset="folder", **where, **settings))


CSV = (
    'image,caption,split\nb.png,"one, two",train\na.png,three four,val\nb.png,"said ""five""",\nc.png,six seven,TEST\n'
)


@pytest.mark.parametrize(
    ("captions", "suffix"),
    [
        (CSV, ".csv"),
        (CSV.replace("\n", "\r\n").encode("utf-8-sig"), ".csv"),
        (
            '"Image"; "caption" ;SPLIT\nb.png;one, two;train\na.png;three four;val\nb.png;"said ""five""";\nc.png;six seven;test\n',
            ".csv",
        ),
        (
            'image\tcaption\tsplit\nb.png\tone, two\ttrain\na.png\tthree four\tval\nb.png\t"said ""five"""\t\nc.png\tsix seven\ttest\n',
            ".CSV",
        ),
        (
            '{"image": "b.png", "captions": ["one, two", "said \\"five\\""], "split": "train", "image_id": 7}\n\n'
            '{"image": "c.png", "caption": "six seven", "split": "test"}\n'
            '{"image": "a.png", "caption": "three four", "split": "validation"}\n',
            ".jsonl",
        ),
        (
            '[{"image": "b.png", "caption": "one, two", "split": "train"}, {"image": "a.png", "caption": "three four", '
            '"split": "val"}, {"image": "b.png", "caption": "said \\"five\\""}, '
            '{"image": "c.png", "caption": ["six seven"], "split": "test"}]',
            ".json",
        ),
        (
            'split,filename,text_1,text_0\ntrain,b.png,"said ""five""","one, two"\nval,a.png,,three four\ntest,c.png,,six seven\n',
            ".tsv",
        ),
    ],
    ids=["comma", "windows", "semicolon", "tab", "jsonl", "json", "other-names"],
)
def test_a_captions_file_gives_captions_and_splits(tmp_path, captions, suffix):
    dataset = read_folder(tmp_path, captions, suffix, images="abc")
    assert [(r.image_id, r.file_name, r.captions, r.split) for r in dataset.records] == [
        (0, "a.png", ("three four",), "dev"),
        (1, "b.png", ("one, two", 'said "five"'), "train"),
        (2, "c.png", ("six seven",), "test"),
    ]
    assert [line for line in dataset.warnings if "empty captions" not in line] == []


def test_images_in_sub_folders_are_named_by_their_path(tmp_path):
    write_files(tmp_path, {"images/x/y/a.png": ""})
    dataset = read_folder(
        tmp_path, "image,caption,split\nx/y/a.png,a dog,train\n../captions.csv,no image,train\n", images=""
    )
    assert [(r.file_name, r.path) for r in dataset.records] == [("x/y/a.png", tmp_path / "images/x/y/a.png")]


def test_splits_are_drawn_by_image_whatever_the_order_and_the_missing_files(tmp_path):
    lines = [f"{name}.png,caption {k} of {name}\n" for name in "abcdefghij" for k in range(3)]
    drawn = {}
    for case in ("as is", "shuffled", "other seed"):
        random.Random(1).shuffle(lines)
        images = "bcdefghij" if case == "shuffled" else "abcdefghij"
        settings = {"dev_fraction": 0.2, "test_fraction": 0.3, "split_seed": int(case == "other seed")}
        dataset = read_folder(tmp_path / case, "image,caption\n" + "".join(lines), images=images, **settings)
        drawn[case] = {record.file_name: record.split for record in dataset.records}
    assert sorted(drawn["as is"].values()) == ["dev"] * 2 + ["test"] * 3 + ["train"] * 5
    assert drawn["shuffled"] == {name: split for name, split in drawn["as is"].items() if name != "a.png"}
    assert drawn["other seed"] != drawn["as is"]


def test_images_without_a_split_beside_others_are_reported(tmp_path):
    dataset = read_folder(tmp_path, "image,caption,split,mood\na.png,a dog,train,sad\nb.png,a cat,,\n", images="ab")
    assert [record.split for record in dataset.records] == ["train", ""]
    assert warning(dataset, "in no split").endswith("1, e.g. b.png")
    assert warning(dataset, "columns of captions.csv that are not read").endswith("mood")


@pytest.mark.parametrize(
    ("suffix", "captions", "message"),
    [
        (".csv", "image,mood\n", r"captions\.csv, line 1: expected a header"),
        (".csv", "image,caption,caption\n", "line 1: expected a header"),
        (".csv", "image,caption\na.png,fine here\nb.png,a dog, running\n", "line 3: 3 fields where the header names 2"),
        (".csv", 'image,caption\na.png,"two\nlines"\nb.png\n', "line 4: 1 fields"),
        (".csv", 'image,caption\na.png,fine here\nb.png,"never closed\nc.png,a cat\n', "line 3: .*double quotes"),
        (".csv", "image,caption\n ,a dog\n", "line 2: the image has no name"),
        (".csv", "image,caption\n", "holds no captions"),
        (
            ".csv",
            "image,caption,split\na.png,a dog,train\na.png,a dog,dev\n",
            r"line 3: a\.png is put in split dev, but",
        ),
        (".csv", "image,caption,split\na.png,a dog,trian\n", "line 2: split must be train.*'trian'"),
        (".csv", "image,caption\na.png,a dog\n", "too few to draw splits from"),
        (".csv", b"image,caption\na.png,caf\xe9\n", r"captions\.csv: not UTF-8 at byte 23"),
        (".jsonl", '{"image": "a.png", "caption": "a dog"}\n{"image": \n', r"captions\.jsonl, line 2: not valid JSON"),
        (".jsonl", '["a.png", "a dog"]\n', "line 1: expected an object"),
        (".jsonl", '{"image": 7, "caption": "a dog"}\n', "line 1: expected an object"),
        (".jsonl", '{"image": "a.png"}\n', 'line 1: give either "caption" or "captions"'),
        (".jsonl", '{"image": "a.png", "captions": "a dog"}\n', "line 1: .*a list of texts"),
        (".jsonl", '{"image": "a.png", "caption": null}\n', 'line 1: "caption" must be text'),
        (".jsonl", '{"image": "a.png", "caption": "a dog", "split": 1}\n', 'line 1: "split" must be text'),
        (".jsonl", '{"image": "a.png", "caption": "\\ud800"}\n', "line 1: not valid JSON"),
        (".xlsx", "image,caption\n", r"captions_file: .*must be a \.csv, \.tsv, \.txt, \.jsonl or \.json file"),
    ],
)
def test_broken_captions_files_are_named_with_their_line(tmp_path, suffix, captions, message):
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, captions, suffix)


def test_missing_folder_and_file_are_named(tmp_path):
    with pytest.raises(UserError, match="data_dir: there is no folder"):
        read_folder(tmp_path, CSV, images="")
    with pytest.raises(UserError, match=r"nothing\.csv: cannot be read"):
        datasets.load(Config(dataset="folder", data_dir=str(tmp_path), captions_file=str(tmp_path / "nothing.csv")))


def test_the_demo_is_read_like_any_folder(tmp_path, monkeypatch):
    def ensure(folder, images, seed, language):
        line = {"image": "0.png", "caption": f"{images} scenes of seed {seed} in {language}", "split": "train"}
        write_files(folder, {"images/0.png": "", "captions.jsonl": json.dumps(line)})

    monkeypatch.setattr(scenes, "ensure", ensure)
    dataset = datasets.load(
        Config(dataset="demo", data_dir=str(tmp_path), demo_images=20, split_seed=3, demo_language="hindi")
    )
    assert dataset.name == "demo"
    assert dataset.split("train")[0].captions == ("20 scenes of seed 3 in hindi",)
