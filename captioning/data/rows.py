"""Captions files with a row or a line for each image: tables (.csv, .tsv, .txt) and JSON lines (.jsonl).

Each row names an image and has captions, and perhaps a split. Columns have different names in different places, so
these are known:

    image       image, file_name, filename, image_name, image_path, file, path, or else image_id
    captions    caption, captions, text, description, prompt, sentence, comment; or numbered ones, such as caption_0
    split       split
"""

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from captioning.base.cells import text_of
from captioning.base.errors import UserError
from captioning.data.files import lines, read_text
from captioning.data.records import SPLIT_NAMES, Warts

IMAGE_NAMES = ("image", "file_name", "filename", "image_name", "image_path", "file", "path", "image_id")
_CAPTION_NAMES = ("caption", "captions", "text", "description", "prompt", "sentence", "comment")
# The columns of test.py --output FILE.csv, which say nothing of the best caption.
_OURS = re.compile(r"(confidence|unsure|log_prob|score|caption)(_\d+)?|error|notes")
TABLES, LINES = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson")

# For each row: number of the line, image name, captions, and split ("" where none is given).
Rows = Iterator[tuple[int, str, list[str], str]]


def read_rows(path: Path, warts: Warts, mend_commas: bool = False) -> Rows:
    """The rows of the table or of the JSON lines in ``path``, as its name ends.

    ``mend_commas``: where the caption is the last column, a caption may hold delimiters without quotes around it.
    Raises UserError that names the line.
    """
    if path.suffix.lower() in LINES:
        return _read_lines(path, warts)
    if path.suffix.lower() in TABLES:
        return _read_table(path, warts, mend_commas)
    raise UserError(f"captions_file: {path} must be a .csv, .tsv, .txt, .jsonl or .json file, by its name")


def gather(path: Path, rows: Rows) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The captions and the split of each image, by its name, from the ``rows`` of ``path``.

    Images without a split are not among the splits. Raises UserError: no name, an unknown split, two splits, no rows.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for number, name, found, split in rows:
        where = f"{path}, line {number}"
        if not name:
            raise UserError(f"{where}: the image has no name")
        captions.setdefault(name, []).extend(found)
        if not split:
            continue
        if split.lower() not in SPLIT_NAMES:
            raise UserError(f"{where}: split must be train, dev (or val) or test; found {split!r}")
        if splits.setdefault(name, SPLIT_NAMES[split.lower()]) != SPLIT_NAMES[split.lower()]:
            raise UserError(f"{where}: {name} is put in split {split}, but before in split {splits[name]}; choose one")
    if not captions:
        raise UserError(f"{path}: holds no captions")
    return captions, splits


def image_column(columns: Collection[str]) -> str | None:
    """The column that names the image."""
    return next((name for name in IMAGE_NAMES if name in columns), None)


def caption_columns(columns: Collection[str]) -> list[str]:
    """The columns that hold the captions: one, or several that are numbered."""
    for name in _CAPTION_NAMES:
        if name in columns:
            return [name]
    for name in _CAPTION_NAMES:
        numbered = [(int(found[1]), column) for column in columns if (found := re.fullmatch(rf"{name}_?(\d+)", column))]
        if numbered:
            return [column for _, column in sorted(numbered)]
    return []


def _read_table(path: Path, warts: Warts, mend_commas: bool) -> Rows:
    """Rows of a table separated by commas, semicolons, tabs or bars. Its header names the columns."""
    text = read_text(path)
    header = text.partition("\n")[0].lower()
    for delimiter in ",;\t|":
        columns = [column.strip(' "') for column in header.split(delimiter)]
        image, spoken = image_column(columns), caption_columns(columns)
        if image and spoken and len(set(columns)) == len(columns):
            break
    else:
        raise UserError(
            f"{path}, line 1: expected a header with the columns image,caption[,split]; found {header[:60]!r}"
        )
    ours = {"log_prob", "score", "error"} <= set(columns)  # written by test.py --output
    warts[f"columns of {path.name} that are not read"].extend(
        column
        for column in columns
        if column not in (image, *spoken, "split", "image_id") and not (ours and _OURS.fullmatch(column))
    )
    mends = mend_commas and spoken == columns[-1:]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        next(rows)
        line = rows.line_num + 1
        for row in rows:
            if mends and len(row) > len(columns):
                warts[f"captions of {path.name} with {delimiter!r} and without quotes (mended)"].append(row[0])
                row = [*row[: len(columns) - 1], delimiter.join(row[len(columns) - 1 :])]
            if row and len(row) != len(columns):
                raise UserError(
                    f"{path}, line {line}: {len(row)} fields where the header names {len(columns)}; put double quotes "
                    "around a caption that holds the delimiter"
                )
            fields = dict(zip(columns, map(text_of, row) if ours else row, strict=True)) if row else {}
            if ours and fields.get("error"):
                warts[_unreadable(path)].append(fields[image])
            elif row:
                yield line, fields[image].strip(), [fields[name] for name in spoken], fields.get("split", "").strip()
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; check the double quotes from this line on") from None


def read_objects(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of each line of a file of JSON lines. Raises UserError that names a line that is not JSON."""
    for number, line in lines(path):
        try:
            fields = json.loads(line)
            json.dumps(fields, ensure_ascii=False).encode()  # refuses half a surrogate pair, which no file can hold
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON: {error}") from None
        yield number, fields


def _read_lines(path: Path, warts: Warts) -> Rows:
    """One object a line, such as {"image": "a.jpg", "captions": ["A dog."], "split": "train"}."""
    ignored: dict[str, None] = {}
    for number, fields in read_objects(path):
        where = f"{path}, line {number}"
        image = image_column(fields) if isinstance(fields, dict) else None
        if image is None or not isinstance(fields[image], str):
            raise UserError(f'{where}: expected an object with "image" as text; found {str(fields)[:60]!r}')
        if "error" in fields and not caption_columns(fields):  # written by test.py --output
            warts[_unreadable(path)].append(fields[image])
            continue
        split = fields.get("split") or ""
        if not isinstance(split, str):
            raise UserError(f'{where}: "split" must be text')
        spoken = caption_columns(fields)
        ignored |= dict.fromkeys(fields.keys() - {image, *spoken, "split", "image_id"})
        yield number, fields[image].strip(), captions_in(fields, where), split.strip()
    warts[f"fields of {path.name} that are not read"].extend(sorted(ignored))


def _unreadable(path: Path) -> str:
    return f"lines of {path.name} about pictures that could not be read (left out)"


def captions_in(fields: Mapping[str, Any], where: str) -> list[str]:
    """The captions of a JSON object: texts, lists of texts, or lists of objects with "caption". Raises UserError."""
    spoken = caption_columns(fields)
    if not spoken or {"caption", "captions"} <= fields.keys():
        raise UserError(f'{where}: give either "caption" or "captions"')
    captions: list[str] = []
    for name in spoken:
        found = fields[name]
        if isinstance(found, list):
            found = [part.get("caption") if isinstance(part, dict) else part for part in found]
        elif name != "captions":
            found = [found]
        if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
            raise UserError(f'{where}: "{name}" must be text, or a list of texts')
        captions += found
    return captions
