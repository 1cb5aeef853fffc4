"""Captions in files of all layouts, without pictures: what people bring to be scored, and what it is scored against.

.json      COCO's captions, TextCaps' or Karpathy's file; a list of {"image_id", "caption"}; {"a.jpg": ["A dog."]}
.jsonl     an object a line: {"image", "captions"}, {"file_name", "text"}, {"image_id", "caption"}, lines of test.py
.token     NAME#NUMBER, a tab and a caption, as Flickr has them; also in .txt
.csv       a table with a header, as ``rows.py`` reads it; also .tsv and .txt
a folder   with metadata.jsonl or metadata.csv, or with a text for each picture
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.base.json_files import from_json
from captioning.data import cocostyle, flickr8k, flickr30k, imagefolder, karpathy, sidecars
from captioning.data.files import lines, list_files_below, read_text
from captioning.data.markup import clean
from captioning.data.records import FOLDER_NAMES, ImageRecord, Warts
from captioning.data.rows import (
    LINES,
    Rows,
    caption_columns,
    captions_in,
    gather,
    image_column,
    read_objects,
    read_rows,
)


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """What a file says of one image.

    name: of the image file; empty where there are ids only. id: as text; empty where there is none.
    captions: in order. ranked: they are captions of one captioner, the best one first. split: "train", "dev", "test" or
    "".
    """

    name: str
    id: str
    captions: tuple[str, ...]
    ranked: bool = False
    split: str = ""

    @property
    def key(self) -> str:
        return self.name or self.id


def read_captions(path: Path, warts: Warts) -> list[CaptionedImage]:
    """The images of ``path`` in order, each with its captions, without markup. An image may occur several times.

    Raises UserError: a missing or damaged file, or one of another layout.
    """
    found: list[CaptionedImage] = []
    for image in _read(path, warts):
        texts = tuple(clean(caption) for caption in image.captions)
        cleaned = [text for text, caption in zip(texts, image.captions, strict=True) if text is not caption]
        warts[f"captions of {path.name} with markup, such as <start>, &amp; or <br> (cleaned)"].extend(cleaned)
        found.append(replace(image, captions=texts))
    if not found:
        raise UserError(f"{path}: holds no captions")
    return found


def caption_rows(path: Path, warts: Warts) -> Rows:
    """The images of ``path`` as rows, each with its number from 1. Raises UserError."""
    for number, image in enumerate(read_captions(path, warts), 1):
        yield number, image.key, list(image.captions), image.split


def read_references(path: Path, warts: Warts) -> list[ImageRecord]:
    """The images of ``path`` with all captions of each, as records without pictures. Raises UserError.

    Where the file gives no numbers as ids, an id is the position among the sorted names, as in a data set.
    """
    together: dict[str, list[CaptionedImage]] = {}
    for image in read_captions(path, warts):
        together.setdefault(image.key, []).append(image)
    ids = [images[0].id for images in together.values()]
    numbered = all(re.fullmatch(r"-?\d{1,18}", each) for each in ids) and len({*map(int, ids)}) == len(ids)
    position = {key: place for place, key in enumerate(sorted(together))}
    records = []
    for (key, images), identifier in zip(together.items(), ids, strict=True):
        texts = [text.strip() for image in images for text in image.captions]
        if kept := tuple(text for text in texts if text):
            number = int(identifier) if numbered else position[key]
            records.append(ImageRecord(number, key, Path(key), kept, images[0].split))
        else:
            warts[f"images of {path.name} without captions (left out)"].append(key)
    if not records:
        raise UserError(f"{path}: holds no captions")
    return records


def _read(path: Path, warts: Warts) -> Iterable[CaptionedImage]:
    if path.is_dir():
        return _read_folder(path, warts)
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_json(path, warts)
    if suffix in LINES:
        where = f"{path}, line "
        return [_of_object(fields, f"{where}{number}") for number, fields in read_objects(path) if not _failed(fields)]
    _, first = next(lines(path), (0, ""))
    if re.match(r".+#\d+\t", first):
        return _named(flickr8k.read_tokens(path, warts))
    if re.match(r"image_name\|", first):
        return _named(flickr30k.read_table(path, warts))
    captions, splits = gather(path, read_rows(path, warts))
    return _named(captions, splits)


def _read_folder(path: Path, warts: Warts) -> Iterator[CaptionedImage]:
    files = list_files_below(path)
    if any(found.name in imagefolder.METADATA for found in files.values()):
        return _named(*imagefolder.read(path, files, warts))
    if captions := sidecars.captions_below(path):
        return _named(captions)
    raise UserError(f"{path}: holds no metadata.jsonl, no metadata.csv and no texts; name a file of captions")


def _named(captions: Mapping[str, Sequence[str]], splits: Mapping[str, str] | None = None) -> Iterator[CaptionedImage]:
    for name, texts in captions.items():
        yield CaptionedImage(name, "", tuple(text.strip() for text in texts), split=(splits or {}).get(name, ""))


def _read_json(path: Path, warts: Warts) -> Iterator[CaptionedImage]:
    try:
        content = from_json(read_text(path), object)
    except ValueError as error:
        raise UserError(
            f"{path}: expected JSON with captions, and it is not valid JSON ({error}); mend the file"
        ) from None
    if _is_karpathys(content):
        for image in karpathy.read(path):
            texts = tuple(sentence.raw for sentence in image.sentences)
            identifier = "" if image.cocoid is None else str(image.cocoid)
            yield CaptionedImage(image.filename, identifier, texts, split=karpathy.SPLITS[image.split])
        return
    if isinstance(content, dict) and {"images", "data"} & content.keys():
        for found in cocostyle.read(path, warts):
            yield CaptionedImage(found.name, str(found.id), tuple(found.captions), split=found.split)
        return
    if isinstance(content, dict):
        content = [
            {"image_id": name, "captions" if isinstance(text, list) else "caption": text}
            for name, text in content.items()
        ]
    if not isinstance(content, list):
        raise UserError(
            f'{path}: expected a JSON list of {{"image_id": ..., "caption": ...}}; found {str(content)[:60]!r}'
        )
    for number, fields in enumerate(content):
        if not _failed(fields):
            yield _of_object(fields, f"{path}, entry {number}")


def _is_karpathys(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    return bool(isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0])


def _failed(fields: Any) -> bool:
    """Whether a line of test.py says that its picture could not be read."""
    return isinstance(fields, dict) and "error" in fields and not caption_columns(fields)


def _of_object(fields: Any, where: str) -> CaptionedImage:
    """The image of a JSON object. Raises UserError: no image, or no captions."""
    named = image_column(fields) if isinstance(fields, dict) else None
    if named is None or not isinstance(fields[named], str | int) or isinstance(fields[named], bool):
        raise UserError(
            f'{where}: expected an object with "image", "file_name" or "image_id", and "caption"; found {str(fields)[:60]!r}'
        )
    captions = captions_in(fields, where)
    identifier, split = fields.get("image_id", ""), fields.get("split") or ""
    ranked = isinstance(fields.get("captions"), list) and all(isinstance(part, dict) for part in fields["captions"])
    name = fields[named] if isinstance(fields[named], str) else ""
    split = FOLDER_NAMES.get(split.lower(), "") if isinstance(split, str) else ""
    return CaptionedImage(name.strip(), str(identifier).strip(), tuple(captions), ranked, split)
