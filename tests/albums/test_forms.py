"""Albums as CSV: spreadsheet programs and our own readers get back what was written, whatever happens on the way."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
from small_albums import SETTINGS, Killed, break_picture, caption, make_pictures, wanted

from captioning.albums import captions as albums
from captioning.albums.captions import list_pictures, read_lines
from captioning.albums.forms import form_of
from captioning.base.cells import cell, text_of
from captioning.base.errors import UserError
from captioning.data.caption_files import read_captions
from captioning.data.records import Warts

LINES = [
    {
        "image": "2019/=sea, or\nnot.jpg",
        "captions": [
            {"caption": 'a "dog"', "log_prob": -4.123456789, "score": -1.5, "confidence": 0.82, "unsure": False},
            {"caption": "-犬", "log_prob": -5.0, "score": -2.0, "confidence": 0.1, "unsure": True},
        ],
        "notes": ["a.jpg: damaged", "@b"],
    },
    {"image": "plain.jpg", "captions": [{"caption": "a cat", "log_prob": -1.0, "score": -1.0}]},
    {"image": "torn.jpg", "error": "+torn.jpg: cannot be read"},
]


def best_of(output):
    return {
        line["image"]: line["captions"][0]["caption"] if "captions" in line else None for line in read_lines(output)
    }


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl", "CAPTIONS.CSV"])
def test_what_was_written_is_read_again(tmp_path, name):
    output = tmp_path / name
    form = form_of(output, 2)
    output.write_bytes(form.encode(LINES[:1], True) + form.encode(LINES[1:], False))
    assert list(read_lines(output)) == LINES


def test_csv_is_as_spreadsheet_programs_want_it(tmp_path):
    data = form_of(tmp_path / "a.csv", 1).encode(LINES, True)
    assert data.startswith(
        b'\xef\xbb\xbf"image","caption","confidence","unsure","log_prob","score","error","notes"\r\n'
    )
    assert data.count(b"\r\n") == 1 + len(LINES), "and one inside a cell is no end of a row"
    rows = list(csv.DictReader(data.decode("utf-8-sig").splitlines(keepends=True)))
    assert [row["caption"] for row in rows] == ['a "dog"', "a cat", ""]
    assert rows[0]["unsure"] == "no"
    assert float(rows[0]["log_prob"]) == LINES[0]["captions"][0]["log_prob"], "a number below 0 stays a number"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "'=1", "''-x"])
def test_no_cell_is_a_formula(text):
    assert cell(text) == f"'{text}"
    assert text_of(cell(text)) == text
    line = {"image": text, "captions": [{"caption": text}], "notes": [text], "error": text}
    written = form_of(Path("a.csv"), 1).encode([line], True).decode("utf-8-sig")
    for row in list(csv.reader(written.splitlines(keepends=True)))[1:]:
        assert not any(found[:1] and found[0] in "=+-@\t\r\uff1d" for found in row), row


@pytest.mark.parametrize("text", ["dogs", "a=b", "'tis", "", os.fsdecode(b"latin-\xfc"), r"\udcfc", r"\u005cudcfc"])
def test_other_cells_stay_and_what_utf_8_cannot_hold_is_escaped(text):
    assert text_of(cell(text)) == text
    assert cell(text).encode().decode() == cell(text)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_of_any_kind_go_into_csv(tmp_path):
    folder = make_pictures(tmp_path / "album", 2)
    for i, name in enumerate(["=1.png", "a\nb.png", 'a"b;c.png', os.fsdecode(b"latin-\xfc.png"), "ü,犬.png"]):
        make_pictures(folder, 1, first=i + 20)
        (next(folder.rglob(f"{i + 20}.png"))).rename(folder / name)
    names = list_pictures(folder)
    output = tmp_path / "captions.csv"
    caption(folder, output)
    assert [line["image"] for line in read_lines(output)] == names
    before = output.read_bytes()
    caption(folder, output)
    assert output.read_bytes() == before, "each has a line"


@pytest.mark.parametrize("cut", [0, 1, 2, 25, 60])
def test_an_interrupted_table_goes_on_with_what_is_missing(tmp_path, cut):
    folder = make_pictures(tmp_path / "album", 10)
    break_picture(folder, "3.png")
    (folder / "4.png").rename(folder / "4\n.png")  # rows of several lines are cut at the right place too
    output = tmp_path / "captions.csv"
    appended = []

    def stop(*args):
        appended.append(args)
        if len(appended) == 3:
            raise Killed

    real = os.fsync
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: (real(handle), stop(handle)))
        with pytest.raises(Killed):
            caption(folder, output)
    os.truncate(output, output.stat().st_size - cut)
    assert caption(folder, output) == 1
    found = best_of(output)
    assert found.pop("3.png") is None
    assert found == {name: text for name, text in wanted(folder).items() if name != "3.png"} | {
        "4\n.png": "brightness 4"
    }
    assert output.read_bytes().count(b"\xef\xbb\xbf") == 1


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_a_cut_leaves_the_rows_that_are_whole(name):
    form, data, ends = form_of(Path(name), 2), b"", [0]
    for begins, lines in ((True, []), (False, LINES[:1]), (False, LINES[1:2]), (False, LINES[2:])):
        data += form.encode(lines, begins)
        ends.append(len(data))
    for cut in range(len(data) + 1):
        assert form.whole(data[:cut]) == max(end for end in ends if end <= cut)


def test_half_a_header_is_written_anew(tmp_path):
    folder = make_pictures(tmp_path / "album", 2)
    output = tmp_path / "captions.csv"
    caption(folder, output)
    whole = output.read_bytes()
    output.write_bytes(whole[:20])
    caption(folder, output)
    assert output.read_bytes() == whole


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_a_disk_that_fills_up_leaves_no_half_row(tmp_path, monkeypatch, name):
    folder = make_pictures(tmp_path / "album", 10)
    output = tmp_path / name
    real, calls = albums._append, []

    def half(file, lines, form):
        class Full:
            fileno = file.fileno

            def write(self, data):
                calls.append(data)
                if len(calls) == 3:
                    file.write(data[: len(data) // 2])
                    raise OSError(28, "No space left on device")
                return file.write(data[:100])  # as much as a system takes at once

        real(Full() if calls else file, lines, form)
        calls.append(None)

    monkeypatch.setattr(albums, "_append", half)
    with pytest.raises(UserError, match=r"No space left.*free some space"):
        caption(folder, output)
    data = output.read_bytes()
    assert form_of(output).whole(data) == len(data)
    assert 4 <= len(best_of(output)) < 10
    monkeypatch.setattr(albums, "_append", real)
    caption(folder, output)
    assert best_of(output) == wanted(folder)


@pytest.mark.parametrize(("line_end", "last"), [("\n", "\n"), ("\r\n", ""), ("\n", ""), ("\r", "\r"), ("\r", "")])
def test_a_table_that_a_spreadsheet_program_has_saved_goes_on(tmp_path, line_end, last):
    folder = make_pictures(tmp_path / "album", 3)
    output = tmp_path / "captions.csv"
    caption(folder, output)
    rows = list(csv.reader(output.read_text("utf-8-sig").splitlines()))
    rows[1][1] = "corrected,\r\nby hand "
    rows[-1][1] = "corrected too"
    rows.insert(2, [""] * len(rows[0]))
    with open(output, "w", newline="", encoding="utf-8") as file:  # no mark, no quotes, other line ends
        csv.writer(file, lineterminator=line_end).writerows(rows)
    os.truncate(output, output.stat().st_size - len(line_end) + len(last))
    make_pictures(folder, 2, first=3)
    caption(folder, output)
    assert best_of(output) == wanted(folder) | {rows[1][0]: "corrected, by hand", rows[-1][0]: "corrected too"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",", ";", "line 1: .*; restore image,caption,confidence.*, with commas"),
        ('"score"', '"rank"', "line 1: its columns are not those"),
        ('"1.png",', "", "line 2: not a picture .*remove the line"),
        ('"1.png"', '""', "line 2: .*names no image"),
        ('"brightness 1"', '""', "line 2: .*neither a caption nor an error"),
        ("-2.0", '"low"', "line 2: .*could not convert"),
        ('"1.png"', '"1"2.png', "line 2: .*expected after"),
        ('"brightness 1"', '"bright"ness 1"', "line 2: .*expected after"),
        ('"brightness 1"', '"brightness 1', "line 3: .*expected after"),
    ],
)
def test_rows_of_another_kind_are_named_and_nothing_is_lost(tmp_path, old, new, message):
    folder = make_pictures(tmp_path / "album", 3)
    output = tmp_path / "captions.csv"
    caption(folder, output)
    output.write_text(output.read_text("utf-8-sig").replace(old, new), newline="")
    before = output.read_bytes()
    with pytest.raises(UserError, match=rf"captions\.csv, {message}"):
        caption(folder, output)
    assert output.read_bytes() == before


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_that_was_saved_in_another_encoding_is_named(tmp_path, encoding):
    folder = make_pictures(tmp_path / "album", 3)
    output = tmp_path / "captions.csv"
    caption(folder, output)
    output.write_bytes(output.read_text("utf-8-sig").replace("brightness 2", "Größe").encode(encoding))
    before = output.read_bytes()
    with pytest.raises(UserError, match=r"captions\.csv: is not in UTF-8; save it as UTF-8 \(in Excel"):
        caption(folder, output)
    assert output.read_bytes() == before


def test_tables_are_not_mixed_either(tmp_path):
    folder = make_pictures(tmp_path / "album", 2)
    output = tmp_path / "captions.csv"
    caption(folder, output)
    with pytest.raises(UserError, match="begun with other settings"):
        caption(folder, output, settings=SETTINGS | {"beam_size": 5})
    assert json.loads((tmp_path / "captions.csv.settings.json").read_text()) == SETTINGS


def test_our_tables_are_captions_for_the_other_scripts(tmp_path):
    output, warts = tmp_path / "captions.csv", Warts()
    output.write_bytes(form_of(output, 2).encode(LINES, True))
    found = read_captions(output, warts)
    assert [(image.name, image.captions) for image in found] == [
        ("2019/=sea, or\nnot.jpg", ('a "dog"',)),
        ("plain.jpg", ("a cat",)),
    ]
    assert {what: examples for what, examples in warts.items() if examples} == {
        "lines of captions.csv about pictures that could not be read (left out)": ["torn.jpg"]
    }
