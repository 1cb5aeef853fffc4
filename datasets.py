"""Captioned image data sets: one reader per layout on disk, all giving the same record and the same three splits.

The readers repair what they safely can and say so in ``CaptionDataset.warnings``; whatever they cannot decide is a
UserError that names the file and line. No image is opened here, and no caption is cleaned beyond its outer white space.
"""

import codecs
import csv
import io
import json
import os
import random
import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from config import Config, UserError, hide_progress
from images import SUFFIXES

_SUFFIXES = tuple(sorted(SUFFIXES))
SPLITS = ("train", "dev", "test")
_SPLIT_NAMES = {"train": "train", "dev": "dev", "val": "dev", "validation": "dev", "test": "test"}

# The names of Flickr8k's own files; its publishers spell the image folder "Flicker".
_FLICKR8K_IMAGES = ("flicker8k_dataset", "flickr8k_dataset", "images")
_FLICKR8K_CAPTIONS = "Flickr8k.token.txt"
_FLICKR8K_SPLITS = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}
_FLICKR8K_TEXTS = (_FLICKR8K_CAPTIONS, *_FLICKR8K_SPLITS.values())

# What was wrong, in words, to the examples of it: one warning line each.
_Warts = defaultdict[str, list[str]]


@dataclass(frozen=True)
class ImageRecord:
    """One image with its captions.

    image_id: position, from 0, among the sorted file names of the captions file. A file missing on disk shifts no id.
    file_name: as the captions file spells it; unique; the key in the feature store.
    captions: one or more, in the order of the captions file, stripped of outer white space only.
    split: "train", "dev", "test", or "" for an image in no split.
    """

    image_id: int
    file_name: str
    path: Path
    captions: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class CaptionDataset:
    """All usable images, sorted by file name, and one line for each kind of wart that was met in reading them."""

    name: str
    records: tuple[ImageRecord, ...]
    warnings: tuple[str, ...]

    def split(self, name: str) -> list[ImageRecord]:
        """The records of "train", "dev" (or "val", "validation") or "test". Raises UserError: unknown or empty."""
        found = [record for record in self.records if record.split == _SPLIT_NAMES.get(name)]
        if not found:
            sizes = Counter(record.split for record in self.records)
            there = (
                ", ".join(f"{split} ({sizes[split]} images)" for split in SPLITS if sizes[split]) or "no split at all"
            )
            raise UserError(f"split: data set {self.name} has no images in split {name!r}; it has {there}")
        return found


def load(config: Config) -> CaptionDataset:
    """Read the data set that ``config.dataset`` names; unpack or generate it first where that is needed.

    Raises UserError: missing, unreadable or broken files, an image in two splits, or no image left.
    """
    data_dir = Path(config.data_dir)
    if config.dataset == "flickr8k":
        return _load_flickr8k(data_dir)
    if config.dataset == "demo":
        import demo  # here, because it draws with Pillow, which no other data set needs

        demo.ensure(data_dir, config.demo_images, config.split_seed)
        return _load_folder("demo", data_dir / "images", data_dir / "captions.jsonl", config)
    return _load_folder("folder", data_dir, Path(config.captions_file), config)


# Flickr8k ------------------------------------------------------------------------------------------------------------


def _load_flickr8k(data_dir: Path) -> CaptionDataset:
    """Read Flickr8k as published: images in one folder or several, captions by ``name#number``, three lists of names."""
    warts: _Warts = defaultdict(list)
    texts, images = _find_flickr8k(data_dir, warts)
    if _unzip_flickr8k(data_dir, texts, images):
        warts.clear()
        texts, images = _find_flickr8k(data_dir, warts)
    absent = [name for name in _FLICKR8K_TEXTS if name not in texts] + ["Flicker8k_Dataset/*.jpg"] * (not images)
    if absent:
        raise UserError(
            f"data_dir: Flickr8k is not complete in {data_dir}: {', '.join(absent)} not found. Put Flickr8k_Dataset.zip "
            "and Flickr8k_text.zip there, or what they contain, or run: python preprocessing.py --download"
        )
    captions = _read_tokens(texts[_FLICKR8K_CAPTIONS], warts)
    splits: dict[str, str] = {}
    for split, name in _FLICKR8K_SPLITS.items():
        for number, line in _lines(texts[name]):
            if line not in captions:
                raise UserError(f"{texts[name]}, line {number}: {line} has no captions in {texts[_FLICKR8K_CAPTIONS]}")
            if splits.get(line, split) != split:
                raise UserError(
                    f"{texts[name]}, line {number}: {line} is in split {splits[line]} too; remove it from one"
                )
            if line in splits:
                warts[f"images listed more than once in {name}"].append(line)
            splits[line] = split
    return _dataset("flickr8k", captions, splits, images, str(data_dir), warts)


def _find_flickr8k(data_dir: Path, warts: _Warts) -> tuple[dict[str, Path], dict[str, Path]]:
    """Text files and images by name, from folders at most two levels below ``data_dir``, each listed once.

    Where a name occurs twice the shallower folder counts, then the first by name.
    """
    texts: dict[str, Path] = {}
    images: dict[str, Path] = {}
    folders = [data_dir]
    for _ in range(3):
        below = []
        for folder in folders:
            holds_images = folder != data_dir and folder.name.lower() in _FLICKR8K_IMAGES
            for entry in _scan(folder):
                if entry.is_dir():
                    below.append(Path(entry.path))
                elif holds_images and entry.name.lower().endswith(_SUFFIXES):
                    if entry.name in images:
                        used = images[entry.name].parent
                        warts[f"images in {folder} not used, as {used} has files of these names"].append(entry.name)
                    else:
                        images[entry.name] = folder / entry.name
                elif entry.name in _FLICKR8K_TEXTS:
                    texts.setdefault(entry.name, folder / entry.name)
        folders = below
    return texts, images


def _unzip_flickr8k(data_dir: Path, texts: dict[str, Path], images: dict[str, Path]) -> bool:
    """Unpack the zip files in ``data_dir`` that hold Flickr8k files not found so far; True when any is unpacked.

    ``NAME.zip`` becomes the folder ``unzipped-NAME``, whole or not at all. Only known names are unpacked, under their
    last part, so no path inside an archive can lead elsewhere.
    """
    unpacked = False
    for entry in _scan(data_dir):
        archive = data_dir / entry.name
        target = data_dir / f"unzipped-{archive.stem}"
        if archive.suffix.lower() != ".zip":
            continue
        if target.exists():  # perhaps since the folders were listed, by another process
            unpacked = True
            continue
        try:
            with zipfile.ZipFile(archive) as opened:
                members = {}
                for member in opened.infolist():
                    path = PurePosixPath(member.filename)
                    if member.is_dir() or "__MACOSX" in path.parts or path.name.startswith("."):
                        continue
                    if path.name in _FLICKR8K_TEXTS:
                        members[member] = path.name
                    elif path.suffix.lower() in _SUFFIXES and path.parent.name.lower() in _FLICKR8K_IMAGES:
                        members[member] = f"Flicker8k_Dataset/{path.name}"
                if all(Path(name).name in texts or Path(name).name in images for name in members.values()):
                    continue
                with tempfile.TemporaryDirectory(dir=data_dir, prefix=".unzip-") as scratch:
                    folder = Path(scratch, target.name)
                    for member, name in tqdm(
                        members.items(), f"unpacking {archive.name}", unit="file", disable=hide_progress()
                    ):
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        with opened.open(member) as source, (folder / name).open("wb") as copy:
                            shutil.copyfileobj(source, copy)
                    if not target.exists():  # another process may have been faster
                        folder.rename(target)
                unpacked = True
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(
                f"{archive}: cannot be unpacked ({error}); it is damaged or not a zip file. Delete it and fetch it again"
            ) from None
        except OSError as error:
            raise UserError(f"{archive}: cannot be unpacked into {data_dir}: {error.strerror or error}") from None
    return unpacked


def _read_tokens(path: Path, warts: _Warts) -> dict[str, list[str]]:
    """Captions by image name, from lines of ``name#number<tab>caption``. Raises UserError naming file and line."""
    captions: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, line in _lines(path):
        parts = re.fullmatch(r"((.+)#\d+)(?:\t(.*))?", line)
        if not parts:
            raise UserError(f"{path}, line {number}: expected NAME#NUMBER, a tab and a caption; found {line[:60]!r}")
        key, name, caption = parts.groups(default="")
        if key in seen:
            warts[f"captions in {path.name} with a number used before (kept)"].append(key)
        seen.add(key)
        # The published file has 2258277193_586949ec62.jpg.1#0, a caption of 2258277193_586949ec62.jpg.
        if re.search(r"\.jpg\.\d+$", name):
            warts[
                f"captions in {path.name} with a number after .jpg (given to the image of the name without it)"
            ].append(key)
            name = name.rpartition(".")[0]
        captions.setdefault(name, []).append(caption)
    return captions


# A folder of images with a captions file -----------------------------------------------------------------------------


def _load_folder(dataset: str, image_dir: Path, captions_file: Path, config: Config) -> CaptionDataset:
    """Read captions from ``captions_file`` for the images in ``image_dir``, in sub-folders too; draw missing splits."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    if captions_file.suffix.lower() not in readers:
        raise UserError(f"captions_file: {captions_file} must be a .csv or .jsonl file, by its name")
    if not image_dir.is_dir():
        raise UserError(f"data_dir: there is no folder {image_dir}; it must be the folder that holds the images")
    warts: _Warts = defaultdict(list)
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for number, name, found, split in readers[captions_file.suffix.lower()](captions_file, warts):
        where = f"{captions_file}, line {number}"
        if not name:
            raise UserError(f"{where}: the image has no name")
        captions.setdefault(name, []).extend(found)
        if not split:
            continue
        if split.lower() not in _SPLIT_NAMES:
            raise UserError(f"{where}: split must be train, dev (or val) or test; found {split!r}")
        if splits.setdefault(name, _SPLIT_NAMES[split.lower()]) != _SPLIT_NAMES[split.lower()]:
            raise UserError(f"{where}: {name} is put in split {split}, but before in split {splits[name]}; choose one")
    if not captions:
        raise UserError(f"{captions_file}: holds no captions")
    if splits:
        warts["images in no split, though others are in one"].extend(sorted(captions.keys() - splits.keys()))
    else:
        splits = _draw_splits(sorted(captions), config)
    images: dict[str, Path] = {}
    folders = [image_dir]
    while folders:
        folder = folders.pop()
        for entry in _scan(folder):
            if entry.is_dir(follow_symlinks=folder == image_dir):  # links further down could lead in circles
                folders.append(folder / entry.name)
            elif entry.name.lower().endswith(_SUFFIXES):
                path = folder / entry.name
                images[path.relative_to(image_dir).as_posix()] = path
    return _dataset(dataset, captions, splits, images, str(image_dir), warts)


# Number of the line, image name, its captions and its split ("" where none is given).
_Rows = Iterator[tuple[int, str, list[str], str]]


def _read_csv(path: Path, warts: _Warts) -> _Rows:
    """Rows of a table with the columns image, caption and perhaps split, parted by commas, semicolons or tabs."""
    text = _read_text(path)
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


def _read_jsonl(path: Path, warts: _Warts) -> _Rows:
    """Objects, one a line, with "image", "caption" (text) or "captions" (list of texts), and perhaps "split"."""
    ignored: dict[str, None] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
            json.dumps(fields, ensure_ascii=False).encode()  # half a surrogate pair could not be written again
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


def _draw_splits(names: list[str], config: Config) -> dict[str, str]:
    """Splits of the sorted ``names``. All captioned images take part, also those missing on disk, so that a missing
    file moves no other image from one split to another."""
    shuffled = names.copy()
    random.Random(config.split_seed).shuffle(shuffled)
    splits = {}
    for split, fraction in (("dev", config.dev_fraction), ("test", config.test_fraction)):
        for _ in range(max(1, round(fraction * len(names))) if fraction else 0):
            if len(shuffled) == 1:
                raise UserError(
                    f"captions_file: {len(names)} images are too few to draw splits from; add images, give a split for "
                    "each, or set dev_fraction and test_fraction to 0"
                )
            splits[shuffled.pop()] = split
    return splits | dict.fromkeys(shuffled, "train")


# Shared --------------------------------------------------------------------------------------------------------------


def _dataset(
    dataset: str,
    captions: dict[str, list[str]],
    splits: dict[str, str],
    images: dict[str, Path],
    folder: str,
    warts: _Warts,
) -> CaptionDataset:
    """Join captions, splits and image paths, all by file name, and note what does not fit. Raises UserError if nothing does."""
    records = []
    for image_id, name in enumerate(sorted(captions)):
        kept = [caption.strip() for caption in captions[name] if caption.strip()]
        warts["empty captions (dropped)"].extend([name] * (len(captions[name]) - len(kept)))
        repeated = [caption for caption, times in Counter(kept).items() for _ in range(times - 1)]
        warts["captions that repeat another of the same image (kept)"].extend(f"{name}: {text}" for text in repeated)
        warts["captions of a single word (kept)"].extend(f"{name}: {text}" for text in kept if len(text.split()) == 1)
        split = splits.get(name, "")
        if not kept:
            warts["images with empty captions only (dropped)"].append(name)
        elif name not in images:
            where = f"of split {split}" if split else "in no split"
            warts[f"images {where} with captions but no file in {folder} (dropped)"].append(name)
        else:
            records.append(ImageRecord(image_id, name, images[name], tuple(kept), split))
    if not records:
        raise UserError(
            f"data_dir: {folder} holds {len(images)} images, and none of the {len(captions)} that have captions is "
            f"among them with a caption that is not empty; the first one looked for is {min(captions, default='')!r}"
        )
    warts[f"images in {folder} without captions (left out)"].extend(sorted(images.keys() - captions.keys()))
    warnings = [
        f"{what}: {len(examples)}, e.g. {'; '.join(examples[:3])}" for what, examples in warts.items() if examples
    ]
    return CaptionDataset(dataset, tuple(records), tuple(warnings))


def _scan(folder: Path) -> list[os.DirEntry]:
    """What ``folder`` holds, sorted by name, without hidden files and the folders that systems add."""
    try:
        with os.scandir(folder) as entries:
            shown = [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name not in ("__MACOSX", "lost+found")
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror}") from None
    return sorted(shown, key=lambda entry: entry.name)


def _read_text(path: Path) -> str:
    """The UTF-8 text of ``path``, without byte order mark and with "\\n" for every line end."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    marked = data.startswith(codecs.BOM_UTF8)
    try:
        text = data[len(codecs.BOM_UTF8) * marked :].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + len(codecs.BOM_UTF8) * marked
        raise UserError(f"{path}: not UTF-8 at byte {offset}; save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and stripped text of the lines of ``path`` that are not blank."""
    # splitlines() would also part a caption at rare characters such as U+2028.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
