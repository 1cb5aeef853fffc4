"""A folder of images with a captions file, CSV or JSON lines: your own pictures, or the generated demo's."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from captioning.base.errors import UserError
from captioning.data.files import is_image, lines, read_text, scan
from captioning.data.records import SPLIT_NAMES, CaptionDataset, Warts, draw_splits, join
from config import DataSettings


def load(settings: DataSettings) -> CaptionDataset:
    """Read the images in ``data_dir`` with their captions in ``captions_file``. Raises UserError."""
    assert settings.captions_file is not None  # Config refuses dataset=folder without it
    return read("folder", Path(settings.data_dir), Path(settings.captions_file), settings)


def read(dataset: str, image_dir: Path, captions_file: Path, settings: DataSettings) -> CaptionDataset:
    """Read the captions in ``captions_file`` of the images in ``image_dir`` and its sub-folders.

    ``dataset`` is the name that the data set gets. Where the file names no splits, they are drawn. Raises UserError.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    if captions_file.suffix.lower() not in readers:
        raise UserError(f"captions_file: {captions_file} must be a .csv or .jsonl file, by its name")
    if not image_dir.is_dir():
        raise UserError(f"data_dir: there is no folder {image_dir}; it must be the folder that holds the images")
    warts = Warts()
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for number, name, found, split in readers[captions_file.suffix.lower()](captions_file, warts):
        where = f"{captions_file}, line {number}"
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
        raise UserError(f"{captions_file}: holds no captions")
    if splits:
        warts["images in no split, though others are in one"].extend(sorted(captions.keys() - splits.keys()))
    else:
        splits = draw_splits(sorted(captions), settings)
    return join(dataset, captions, splits, _list_images(image_dir), str(image_dir), warts)


def _list_images(image_dir: Path) -> dict[str, Path]:
    """The images in ``image_dir`` and its sub-folders, by their path relative to it, with slashes."""
    images: dict[str, Path] = {}
    folders = [image_dir]
    while folders:
        folder = folders.pop()
        for entry in scan(folder):
            if entry.is_dir(follow_symlinks=folder == image_dir):  # links further down could lead in circles
                folders.append(folder / entry.name)
            elif is_image(entry.name):
                path = folder / entry.name
                images[path.relative_to(image_dir).as_posix()] = path
    return images


# For each row: number of the line, image name, captions, and split ("" where none is given).
_Rows = Iterator[tuple[int, str, list[str], str]]


def _read_csv(path: Path, warts: Warts) -> _Rows:
    """Rows of a table with the columns image, caption and perhaps split, separated by commas, semicolons or tabs."""
    text = read_text(path)
    header = text.partition("\n")[0].lower()
    for delimiter in ",;\t":
        columns = [column.strip(' "') for column in header.split(delimiter)]
        if {"image", "caption"} <= set(columns) and len(set(columns)) == len(columns):
            break
    else:
        raise UserError(
            f"{path}, line 1: expected a header with the columns image,caption[,split]; found {header[:60]!r}"
        )
    warts[f"columns of {path.name} that are not read"].extend(
        column for column in columns if column not in ("image", "caption", "split", "image_id")
    )
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        next(rows)
        line = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(columns):
                raise UserError(
                    f"{path}, line {line}: {len(row)} fields where the header names {len(columns)}; put double quotes "
                    "around a caption that holds the delimiter"
                )
            if row:
                fields = dict(zip(columns, row, strict=True))
                yield line, fields["image"].strip(), [fields["caption"]], fields.get("split", "").strip()
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; check the double quotes from this line on") from None


def _read_jsonl(path: Path, warts: Warts) -> _Rows:
    """One object a line, with "image", with "caption" (text) or "captions" (list of texts), and perhaps "split"."""
    ignored: dict[str, None] = {}
    for number, line in lines(path):
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
            json.dumps(fields, ensure_ascii=False).encode()  # refuses half a surrogate pair, which no file can hold
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON: {error}") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
            raise UserError(f'{where}: expected an object with "image" as text; found {line[:60]!r}')
        if ("caption" in fields) == ("captions" in fields):
            raise UserError(f'{where}: give either "caption" or "captions"')
        captions = fields["captions"] if "captions" in fields else [fields["caption"]]
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise UserError(f'{where}: "caption" must be text, and "captions" a list of texts')
        split = fields.get("split") or ""
        if not isinstance(split, str):
            raise UserError(f'{where}: "split" must be text')
        ignored |= dict.fromkeys(fields.keys() - {"image", "caption", "captions", "split", "image_id"})
        yield number, fields["image"].strip(), captions, split.strip()
    warts[f"fields of {path.name} that are not read"].extend(sorted(ignored))
