"""What the layouts do with files: list folders, read text and JSON, unpack archives."""

import codecs
import os
import reprlib
import shutil
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator
from pydantic_core.core_schema import CoreConfig

from captioning.base.errors import UserError
from captioning.base.progress import track
from captioning.base.scratch import scratch_folder
from captioning.data.records import Warts
from captioning.pictures.finding import SUFFIXES

# Names of folders in which people keep the Flickr images, in lower case. Flickr8k's publishers spell theirs "Flicker".
IMAGE_FOLDERS = ("flicker8k_dataset", "flickr8k_dataset", "flickr30k-images", "flickr30k_images", "images")

Layout = TypeVar("Layout")


def scan(folder: Path) -> list[os.DirEntry]:
    """The entries of ``folder``, sorted by name, without hidden ones and folders that operating systems add.

    A missing folder has none. Raises UserError when the folder cannot be listed.
    """
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


def is_image(name: str) -> bool:
    """Whether a file name ends like that of a picture."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def list_images(folder: Path) -> dict[str, Path]:
    """The images in ``folder`` itself, by file name."""
    return {entry.name: folder / entry.name for entry in scan(folder) if is_image(entry.name)}


def list_images_below(image_dir: Path) -> dict[str, Path]:
    """The images in ``image_dir`` and its sub-folders, by their path relative to it, with slashes."""
    return {name: path for name, path in list_files_below(image_dir).items() if is_image(name)}


def list_files_below(top: Path) -> dict[str, Path]:
    """The files in ``top`` and its sub-folders, by their path relative to it, with slashes."""
    found: dict[str, Path] = {}
    folders = [top]
    while folders:
        folder = folders.pop()
        for entry in scan(folder):
            if entry.is_dir(follow_symlinks=folder == top):  # links further down could lead in circles
                folders.append(folder / entry.name)
            else:
                path = folder / entry.name
                found[path.relative_to(top).as_posix()] = path
    return found


def find(data_dir: Path, wanted: Collection[str], warts: Warts) -> tuple[dict[str, Path], dict[str, Path]]:
    """The paths of the ``wanted`` files, and of the images in IMAGE_FOLDERS, both by file name.

    They are looked for in ``data_dir`` and in folders up to two levels below it. Where a name occurs twice, the file in
    the higher folder counts, then the one whose folder comes first by name.
    """
    texts: dict[str, Path] = {}
    images: dict[str, Path] = {}
    folders = [data_dir]
    for _ in range(3):
        below = []
        for folder in folders:
            holds_images = folder != data_dir and folder.name.lower() in IMAGE_FOLDERS
            for entry in scan(folder):
                if entry.is_dir():
                    below.append(Path(entry.path))
                elif holds_images and is_image(entry.name):
                    if entry.name in images:
                        used = images[entry.name].parent
                        warts[f"images in {folder} not used, as {used} has files of these names"].append(entry.name)
                    else:
                        images[entry.name] = folder / entry.name
                elif entry.name in wanted:
                    texts.setdefault(entry.name, folder / entry.name)
        folders = below
    return texts, images


def unzip(archive: Path, folder: Path, choose: Callable[[PurePosixPath], str | None]) -> bool:
    """Unpack some members of a zip file into ``folder``. Returns False when there are none to unpack.

    ``choose`` gives the path below ``folder`` that a member gets, or None for a member that is not unpacked. Each file
    or folder that is new in ``folder`` appears there whole or not at all. One that is there already stays as it is.
    Raises UserError: a damaged archive, a full disk.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {}
            for member in opened.infolist():
                path = PurePosixPath(member.filename)
                if member.is_dir() or "__MACOSX" in path.parts or path.name.startswith("."):
                    continue
                if name := choose(path):
                    members[member] = name
            if not members:
                return False
            folder.mkdir(parents=True, exist_ok=True)
            with scratch_folder(folder, ".unzip-") as scratch:
                for member, name in track(members.items(), f"unpacking {archive.name}", "files"):
                    copied = scratch / name
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(member) as source, copied.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
                for whole in scratch.iterdir():
                    if not (folder / whole.name).exists():  # another process may have been faster
                        whole.rename(folder / whole.name)
            return True
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{archive}: cannot be unpacked ({error}); it is damaged or not a zip file. Delete it and fetch it again"
        ) from None
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked into {folder}: {error.strerror or error}") from None


def _read(path: Path) -> tuple[bytes, int]:
    """The content of ``path`` without its byte order mark, and the length of that mark in bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    mark = len(codecs.BOM_UTF8) * data.startswith(codecs.BOM_UTF8)
    return (data[mark:] if mark else data), mark


def read_text(path: Path) -> str:
    """The text of ``path``, without byte order mark and with "\\n" as every line end. Raises UserError.

    It is UTF-8, or UTF-16 with a byte order mark, as Windows' PowerShell writes it.
    """
    data, mark = _read(path)
    try:
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start + mark}; save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and stripped text of each line of ``path`` that is not blank. Raises UserError."""
    # splitlines() would also break a caption at rare characters such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path, layout: type[Layout], expected: str) -> Layout:
    """The JSON file ``path`` as the dataclass ``layout``. Fields that the dataclass lacks are skipped.

    Raises UserError, which says what was ``expected`` and where the file first differs from it.
    """
    # Pydantic builds no objects for skipped fields, which make up most of these files. It would keep 16,000 texts for
    # later, and each would hold on to the memory around it.
    validator = SchemaValidator(TypeAdapter(layout).core_schema, CoreConfig(cache_strings=False))

    def parse() -> Layout:
        return validator.validate_json(_read(path)[0], strict=True)

    try:
        # What a thread of its own has used goes back to the operating system when it ends. For COCO that is 180 MB.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(parse).result()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        found = reprlib.repr(first["input"])
        raise UserError(f"{path}: expected {expected}; {where or 'the file'}: {first['msg']}, found {found}") from None
