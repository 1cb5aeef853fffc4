"""The forms of an album's file: JSON lines and CSV. Each picture has one line, which is a dict as ``captions`` has it.

CSV follows RFC 4180. It begins with a byte order mark, by which spreadsheet programs know UTF-8. All texts stand in
quotes, and none of them begins a formula (``base.cells``). Its columns are these:

    image                                                       the path in the folder
    caption, confidence, unsure, log_prob, score                of the best caption; ``unsure`` is yes or no
    caption_2, confidence_2, unsure_2, log_prob_2, score_2      of the second one, and so on
    error                                                       why the picture cannot be read
    notes                                                       what is damaged in it, a line each
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from captioning.base.cells import cell, text_of
from captioning.base.errors import UserError
from captioning.base.json_files import from_json

CSV = ".csv"
SUFFIXES = (".jsonl", ".ndjson", CSV)

_PARTS = ("caption", "confidence", "unsure", "log_prob", "score")
_BOM = "\ufeff"


class Form(Protocol):
    """How the lines of an album are written and read."""

    def encode(self, lines: Sequence[dict[str, Any]], begins: bool) -> bytes:
        """The bytes of ``lines``. ``begins``: they are the first ones of their file."""

    def whole(self, written: bytes) -> int:
        """How many of the bytes of a file stay. A killed process may leave a part of a line behind them."""

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """The lines of a file. Raises UserError that names a line which is not a picture with its captions."""


def form_of(output: Path, best: int = 1) -> Form:
    """The form of the file ``output``, by its suffix. CSV has columns for the ``best`` captions of each picture."""
    return _Table(best) if output.suffix.lower() == CSV else _JsonLines()


class _JsonLines:
    def encode(self, lines: Sequence[dict[str, Any]], begins: bool) -> bytes:
        # A file name that is not UTF-8 holds lone surrogates. They are written as escapes, which JSON reads back
        # unchanged.
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return text.encode("utf-8", "backslashreplace")

    def whole(self, written: bytes) -> int:
        return written.rfind(b"\n") + 1

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        with open(path, "rb") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = from_json(text, dict)
                    texts = [line["image"], *(found["caption"] for found in line.get("captions", []))]
                    if not all(isinstance(part, str) for part in texts):
                        raise TypeError("image and caption must be texts")
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise _no_line(path, number, error) from None
                yield line


class _Table:
    def __init__(self, best: int):
        self.best = best

    def encode(self, lines: Sequence[dict[str, Any]], begins: bool) -> bytes:
        text = io.StringIO(_BOM if begins else "", newline="")
        text.seek(0, io.SEEK_END)
        # Also texts without commas stand in quotes: where the list separator is another one, they are not cut there.
        writer = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC)
        if begins:
            writer.writerow(_columns(self.best))
        for line in lines:
            writer.writerow([_cell(value) for value in self._row(line)])
        return text.getvalue().encode()

    def _row(self, line: dict[str, Any]) -> Iterator[str | float | bool | None]:
        captions = line.get("captions", [])
        yield line["image"]
        for i in range(self.best):
            yield from (captions[i].get(part) if i < len(captions) else None for part in _PARTS)
        yield line.get("error")
        yield "\n".join(line.get("notes", []))

    def whole(self, written: bytes) -> int:
        # A line end inside quotes does not end a row. A quote inside quotes is doubled, so their number is even
        # outside.
        at = end = quotes = 0
        for row in written.splitlines(keepends=True):
            at += len(row)
            quotes += row.count(b'"')
            if quotes % 2 == 0 and row.endswith(b"\n"):
                end = at
        return end if _is_cut(written[end:]) else len(written)

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            try:
                columns, best = self._header(rows, path)
                for row in rows:
                    if any(row):
                        yield _line(dict(zip(columns, row, strict=True)), best)
            except UnicodeDecodeError:
                raise UserError(
                    f'{path}: is not in UTF-8; save it as UTF-8 (in Excel "CSV UTF-8"), or name another file'
                ) from None
            except (ValueError, csv.Error) as error:
                raise _no_line(path, rows.line_num, error) from None

    def _header(self, rows: Iterator[list[str]], path: Path) -> tuple[list[str], int]:
        """The names of the columns, and for how many captions there are some. Raises UserError."""
        try:
            columns = next(rows, _columns(self.best))
        except csv.Error:  # other separators between cells in quotes
            columns = []
        best = sum(bool(re.fullmatch(r"caption(_\d+)?", name)) for name in columns)
        if columns != _columns(best):
            raise UserError(
                f"{path}, line 1: its columns are not those that were written; restore {','.join(_columns(self.best))}, "
                "with commas between all cells, or name another file"
            )
        return columns, best


def _is_cut(rest: bytes) -> bool:
    """Whether ``rest``, which ends no row, is a row of ours that was cut short.

    All rows of ours begin with a quote. Others are of a program that leaves out the last line end, or ends lines in
    another way. If further rows follow, somebody has damaged the quotes of this one. Nothing of theirs is dropped.
    """
    mark = _BOM.encode()
    is_ours = mark.startswith(rest) or rest.removeprefix(mark).startswith(b'"')
    return is_ours and not re.search(rb'\n"[^"]', rest)


def _columns(best: int) -> list[str]:
    numbered = (f"{part}_{number}" for number in range(2, best + 1) for part in _PARTS)
    return ["image", *(_PARTS if best else ()), *numbered, "error", "notes"]


def _cell(value: str | float | bool | None) -> str | float:
    if isinstance(value, bool):
        return "yes" if value else "no"  # the words for true and false depend on the language of a spreadsheet program
    return "" if value is None else cell(value) if isinstance(value, str) else value


def _line(cells: dict[str, str], best: int) -> dict[str, Any]:
    """A row as a line. Raises ValueError."""
    if not cells["image"]:
        raise ValueError("it names no image")
    line: dict[str, Any] = {"image": text_of(cells["image"])}
    if cells["error"]:
        line["error"] = text_of(cells["error"])
    if captions := [found for i in range(best) if (found := _caption(cells, f"_{i + 1}" if i else ""))]:
        line["captions"] = captions
    elif not cells["error"]:
        raise ValueError("it has neither a caption nor an error")
    if cells["notes"]:
        line["notes"] = text_of(cells["notes"]).splitlines()
    return line


def _caption(cells: dict[str, str], number: str) -> dict[str, Any] | None:
    # People may have broken a caption into lines. Metadata and texts hold it in one.
    if not (text := " ".join(text_of(cells[f"caption{number}"].strip()).split())):
        return None
    found: dict[str, Any] = {"caption": text}
    for part in ("log_prob", "score", "confidence"):
        if written := cells[f"{part}{number}"]:
            found[part] = float(written.replace(",", "."))  # as programs write it in many countries
    if written := cells[f"unsure{number}"]:
        found["unsure"] = written == "yes"
    return found


def _no_line(path: Path, number: int, error: Exception) -> UserError:
    return UserError(f"{path}, line {number}: not a picture with its captions ({error!r}); remove the line")
