"""A whole folder of pictures captioned into one file, batch by batch. A later run goes on with the file.

    captions.jsonl or .csv         one line for each picture, in UTF-8; "image" is its path in the folder
        {"image": "2019/sea.jpg", "captions": [{"caption": "two dogs run", "log_prob": -4.1, "score": -1.0}]}
        {"image": "2019/torn.jpg", "error": "photos/2019/torn.jpg: cannot be read as a picture: ..."}
                                   with a confidence each caption also has "confidence", and "unsure": true or false
                                   ``forms`` says what a line is in CSV
    captions.jsonl.settings.json   the folder, the models and the decoding that made all the lines

Captioning can be killed at any moment. Lines reach the disk one batch at a time. The next run drops a line that was cut
short, and captions the pictures that have no line. The captioner is given, so this module needs no Keras.
"""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from captioning.albums.forms import Form, form_of
from captioning.base.errors import UserError
from captioning.base.files import alone_with, write_atomically
from captioning.base.json_files import as_written, load_json
from captioning.base.progress import Progress
from captioning.base.trained import bundle_of
from captioning.pictures.finding import Finder, no_pictures, report_unlisted
from captioning.pictures.loading import (
    PREPROCESSING,
    UnreachableImage,
    UnreadableImage,
    behind,
    load_ahead,
    load_image,
)
from captioning.search.captions import Caption, PictureCaptioner
from config import Config, DecodingSettings


def list_pictures(folder: Path, finder: Finder | None = None) -> list[str]:
    """The paths of all pictures below ``folder``, relative to it. Subfolders that cannot be listed are reported.

    ``finder`` says which pictures are wanted. Raises UserError if it is not a folder or holds no pictures.
    """
    if not folder.is_dir():
        raise UserError(f"--output: captions one folder of pictures, and {folder} is not a folder; name a folder")
    finder = finder or Finder()
    names = list(finder.names(folder, report_unlisted))
    if not names:
        raise no_pictures(folder, finder)
    return names


def made_with(
    folder: Path | str,
    models: Sequence[Path],
    decoding: DecodingSettings,
    best: int,
    views: int = 1,
    precision: str = "float32",
) -> dict[str, Any]:
    """All that decides the lines of an album.

    It is the folder (or its address, as text), the models, the number of captions, views, the precision of the encoder,
    and decoding. ``models`` are bundles or run folders.
    """
    digests = []
    for path in models:
        with open(bundle_of(path), "rb") as bundle:
            digests.append(hashlib.file_digest(bundle, "sha256").hexdigest()[:20])
    return {
        "folder": folder if isinstance(folder, str) else str(folder.resolve()),
        "models": digests,
        "preprocessing": PREPROCESSING,
        "best": best,
        "views": views,
        "precision": precision,
        **decoding.decoding(),
    }


def entry(image: str, captions: Sequence[Caption]) -> dict[str, Any]:
    """The captions of a picture as a JSON object: a line of an album."""
    return {"image": image, "captions": [_caption_entry(caption) for caption in captions]}


def _caption_entry(caption: Caption) -> dict[str, Any]:
    found: dict[str, Any] = {"caption": caption.text, "log_prob": caption.log_prob, "score": caption.score}
    if caption.confidence is not None:
        found |= {"confidence": round(caption.confidence, 4), "unsure": caption.unsure}
    return found


def _noted(notes: list[str]) -> dict[str, list[str]]:
    return {"notes": notes} if notes else {}


def caption_album(
    folder: Path,
    names: Sequence[str],
    output: Path,
    settings: dict[str, Any],
    captioner: PictureCaptioner,
    config: Config,
    best: int = 1,
    opened: Callable[[str], str | Path | BinaryIO] | None = None,
) -> int:
    """Write a line for each of the pictures ``names`` in ``folder`` into the file ``output``, unless it has one.

    A line has the ``best`` captions of its picture. Pictures that cannot be read get a line with the error, and are
    reported on stderr. Files that cannot be opened are reported and get no line, so the next run tries them again. The
    line of a damaged picture that was read all the same has ``notes``, which are printed too. ``settings`` (see
    ``made_with``) must be the ones that the file was begun with. ``opened`` gives what is read for a name, where that
    is no file in ``folder``.

    Returns how many of the pictures cannot be read. Raises UserError if the file cannot be written, for example because
    the disk is full. Finished lines stay.
    """
    form = form_of(output, best)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, which would be written once more when a full disk has refused it.
        with open(output, "ab", buffering=0) as file, alone_with(output):
            _begin(output, settings, form)
            done = {line["image"]: "error" in line for line in read_lines(output)}
            _end_line(output)
            unreadable = sum(done.get(name, False) for name in names)
            todo = [name for name in names if name not in done]
            notes: dict[str, list[str]] = {}
            with (
                Progress("captions", len(names), done=len(names) - len(todo)) as progress,
                closing(_captioned(opened or folder.joinpath, todo, captioner, config, notes)) as batches,
            ):
                for batch, found, reasons in batches:
                    lines = [
                        {"image": name, "error": str(reasons[i])}
                        if i in reasons
                        else entry(name, found[i][:best]) | _noted(notes.pop(name, []))
                        for i, name in enumerate(batch)
                        if not isinstance(reasons.get(i), UnreachableImage)
                    ]
                    _append(file, lines, form)
                    for reason in reasons.values():
                        tqdm.write(f"error: {reason}", file=sys.stderr)
                    unreadable += len(reasons)
                    progress.update(len(batch))
    except OSError as error:
        advice = "run the same command to go on"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"free some space, then {advice}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR):
            advice = "choose a file that can be written"
        raise UserError(f"--output: {output}: cannot be written: {error.strerror}; {advice}") from None
    return unreadable


def _captioned(
    opened: Callable[[str], str | Path | BinaryIO],
    names: Sequence[str],
    captioner: PictureCaptioner,
    config: Config,
    notes: dict[str, list[str]],
) -> Generator[tuple[Sequence[str], list[list[Caption]], dict[int, UnreadableImage]], None, None]:
    """Caption pictures batch by batch. Yields for each batch the names, the captions, and why some cannot be read.

    ``opened`` gives what is read for a name, or raises UnreadableImage. There are captions for every position of the
    batch. The reasons are by position. While ``workers`` threads read a batch, the encoder computes the one before, and
    the search runs on the one before that. A captioner with several lanes encodes and captions as many batches at a
    time instead, each in a thread of its own. ``notes`` gets what a user should know of damaged pictures that were read
    all the same, by name.
    """
    size = min(config.extract_batch_size, max(1, len(names)))
    batches = [names[i : i + size] for i in range(0, len(names), size)]

    def note(name: str, found: str) -> None:
        tqdm.write(f"note: {found}", file=sys.stderr)
        notes.setdefault(name, []).append(found)

    def load(name: str) -> np.ndarray:
        return load_image(opened(name), config.image_size, partial(note, name))

    def whole(pixels: np.ndarray, names: Sequence[str]) -> list[list[Caption]]:
        return captioner.caption(captioner.encode(pixels), config, names=names)

    lanes = captioner.lanes
    with ThreadPoolExecutor(config.workers) as pool, ThreadPoolExecutor(lanes) as searchers:

        def start(pixels: np.ndarray, names: Sequence[str]) -> Future[list[list[Caption]]]:
            if lanes > 1:
                return searchers.submit(whole, pixels, names)
            return searchers.submit(captioner.caption, captioner.encode(pixels), config, names=names)

        ahead = load_ahead(pool, batches, load, config.image_size, size)
        searches = (
            (batch, start(pixels, _filled(batch, len(pixels))), reasons)
            for batch, (pixels, reasons) in zip(batches, ahead, strict=True)
        )
        for batch, search, reasons in behind(searches, lanes):
            yield batch, search.result(), reasons


def _filled(names: Sequence[str], size: int) -> list[str]:
    """``names``, and the last one for each row that only fills a batch up."""
    return [*names, *[names[-1]] * (size - len(names))]


def _former_settings() -> dict[str, Any]:
    """What was done before there were the settings that a file does not name: their defaults."""
    return {"views": 1, "precision": "float32", **as_written(Config().decoding())}


def begun_with(output: Path, name: str) -> Any:
    """The setting ``name`` that an album was begun with, or None if there is no such album yet."""
    try:
        return (_former_settings() | load_json(Path(f"{output}.settings.json"), dict)).get(name)
    except (OSError, ValueError):  # ``caption_album`` says what is wrong
        return None


def read_lines(output: Path) -> Iterator[dict[str, Any]]:
    """The lines of an album's file. Raises UserError if one is not a picture with its captions."""
    return form_of(output).read(output)


def _begin(output: Path, settings: dict[str, Any], form: Form) -> None:
    """Begin a file, or go on with one: check that its lines were made with ``settings``, and drop an incomplete line.

    Raises UserError.
    """
    beside = Path(f"{output}.settings.json")
    written = output.read_bytes()
    if not written:
        write_atomically(beside, json.dumps(settings, indent=2))
        return
    try:
        begun = _former_settings() | load_json(beside, dict)
        settings = as_written(settings)
        changes = [
            f"{name} was {begun.get(name)}, now {value}" for name, value in settings.items() if begun.get(name) != value
        ]
    except FileNotFoundError:
        raise UserError(
            f"--output: {output} exists, but {beside.name}, which says what made it, is missing; name another file"
        ) from None
    except ValueError as error:
        raise UserError(f"{beside}: damaged ({error}); name another --output") from None
    if changes:
        raise UserError(
            f"--output: {output} was begun with other settings ({'; '.join(changes)}). Use those, or name another "
            f"file. If only the folder has moved, change its path in {beside.name}"
        )
    os.truncate(output, form.whole(written))


def _end_line(output: Path) -> None:
    """Add the last line end, if a spreadsheet program has left it out."""
    with open(output, "r+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\r\n")


def _append(file: FileIO, lines: Sequence[dict[str, Any]], form: Form) -> None:
    """Write all of ``lines`` to the end of the file, or none of them. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    left = memoryview(form.encode(lines, begins=not size))
    try:
        while left:
            left = left[file.write(left) or 0 :]
        os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            os.truncate(file.fileno(), size)
        raise
