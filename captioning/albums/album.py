"""Albums: a whole folder of pictures captioned into one file, batch by batch, and from there into the pictures' metadata.

    captions.jsonl                 a line for each picture that the system gives, in UTF-8; "image" is its path in the folder
        {"image": "2019/sea.jpg", "captions": [{"caption": "two dogs run", "log_prob": -4.1, "score": -1.0}]}
        {"image": "2019/torn.jpg", "error": "photos/2019/torn.jpg: cannot be read as a picture: ..."}
    captions.jsonl.settings.json   the folder, the models and the decoding that all the lines are made with

Captioning can be killed at any moment. Lines reach the disk a batch at a time, one that was cut short is dropped, and a
picture that has a line is not captioned again. Needs no Keras: the captioner is given.
"""

import errno
import hashlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from tqdm import tqdm

from captioning.base.errors import UserError
from captioning.base.files import alone_with, write_atomically
from captioning.base.script import hide_progress
from captioning.pictures.loading import (
    PREPROCESSING,
    SUFFIXES,
    UnreachableImage,
    image_names,
    load_ahead,
    load_image,
    one_behind,
)
from captioning.pictures.metadata import UnwritableMetadata, write_caption
from config import Config

if TYPE_CHECKING:
    from model import Caption, Captioner

# Seconds between two reports of progress where there is no terminal.
_REPORT_EVERY = 60
# What files from before there was such a setting do not name.
_FORMER_SETTINGS = {"views": 1, "consensus": False}


def list_pictures(folder: Path) -> list[str]:
    """The paths of all pictures in ``folder``, relative to it. Reports subfolders that cannot be listed on stderr.

    Raises UserError when it is no folder or holds no pictures.
    """

    def report(error: OSError) -> None:
        print(f"error: {error.filename}: cannot be listed: {error.strerror}", file=sys.stderr)

    if not folder.is_dir():
        raise UserError(f"--output: captions one folder of pictures, and {folder} is none")
    names = list(image_names(folder, report))
    if not names:
        raise UserError(f"{folder}: holds no pictures (by suffix: {', '.join(sorted(SUFFIXES))})")
    return names


def made_with(folder: Path, models: Sequence[Path], config: Config, best: int, views: int = 1) -> dict[str, Any]:
    """All that decides what an album's lines say: its folder, ``models`` (bundles or run folders), views and the decoding."""
    digests = []
    for path in models:
        with open(path / "captioner.zip" if path.is_dir() else path, "rb") as bundle:
            digests.append(hashlib.file_digest(bundle, "sha256").hexdigest()[:20])
    return {
        "folder": str(folder.resolve()),
        "models": digests,
        "preprocessing": PREPROCESSING,
        "best": best,
        "views": views,
        **config.decoding(),
    }


def entry(image: str, captions: "Sequence[Caption]") -> dict[str, Any]:
    """A picture's captions as one JSON object."""
    found = [{"caption": c.text, "log_prob": c.log_prob, "score": c.score} for c in captions]
    return {"image": image, "captions": found}


def caption_album(
    folder: Path,
    names: Sequence[str],
    output: Path,
    settings: dict[str, Any],
    captioner: "Captioner",
    config: Config,
    best: int = 1,
) -> int:
    """Give each of the pictures ``names`` in ``folder`` a line in ``output``, where it has none yet.

    A batch of ``extract_batch_size`` pictures is decoded by ``workers`` threads while the one before it is encoded and the
    search is at the one before that.
    ``settings`` (see ``made_with``) must be those that the file was begun with. Unreadable pictures get a line too and
    are reported on stderr; those whose file the system does not give get none, so that the next run tries again.
    Returns how many of ``names`` are unreadable. Raises UserError, also when the disk is full; what is done stays.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "ab") as file, alone_with(output):
            _begin(output, settings)
            done = {line["image"]: "error" in line for line in read_lines(output)}
            unreadable = sum(done.get(name, False) for name in names)
            todo = [name for name in names if name not in done]
            size = min(config.extract_batch_size, max(1, len(todo)))
            batches = [todo[i : i + size] for i in range(0, len(todo), size)]

            def load(name: str) -> np.ndarray:
                return load_image(folder / name, config.image_size)

            with (
                ThreadPoolExecutor(config.workers) as pool,
                ThreadPoolExecutor(1) as searcher,
                _progress("captions", len(names) - len(todo), len(names)) as advance,
            ):
                ahead = load_ahead(pool, batches, load, config.image_size, size)
                searches = (
                    (batch, reasons, searcher.submit(captioner.caption, captioner.encode(pixels), config))
                    for batch, (pixels, reasons) in zip(batches, ahead, strict=True)
                )
                for batch, reasons, search in one_behind(searches):
                    found = search.result()
                    lines = [
                        {"image": name, "error": str(reasons[i])} if i in reasons else entry(name, found[i][:best])
                        for i, name in enumerate(batch)
                        if not isinstance(reasons.get(i), UnreachableImage)
                    ]
                    _append(file, lines)
                    for reason in reasons.values():
                        tqdm.write(f"error: {reason}", file=sys.stderr)
                    unreadable += len(reasons)
                    advance(len(batch))
    except OSError as error:
        advice = "run the same command to go on"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"free some space, then {advice}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR):
            advice = "choose a file that can be written"
        raise UserError(f"--output: {output}: cannot be written: {error.strerror}; {advice}") from None
    return unreadable


def write_metadata(
    folder: Path, names: Sequence[str], output: Path, embed: bool, overwrite: bool, workers: int
) -> Counter[str]:
    """Write the best caption of each of the pictures ``names`` from ``output`` into its metadata (``xmp.write_caption``).

    Returns how many captions are "embedded" or in a "sidecar", how many pictures were "kept" as they were because of
    their own description, are "unreadable", or have "failed", which are reported on stderr.
    """
    wanted = set(names)
    lines = (line for line in read_lines(output) if line["image"] in wanted)

    def attempt(line: dict[str, Any]) -> str | UnwritableMetadata:
        if not line.get("captions"):
            return "unreadable"
        try:
            return write_caption(folder / line["image"], line["captions"][0]["caption"], embed, overwrite)
        except UnwritableMetadata as error:
            return error

    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(workers) as pool, _progress("metadata", 0, len(wanted)) as advance:
        while group := list(islice(lines, 64)):
            for outcome in pool.map(attempt, group):
                if isinstance(outcome, UnwritableMetadata):
                    tqdm.write(f"error: {outcome}", file=sys.stderr)
                outcomes["failed" if isinstance(outcome, UnwritableMetadata) else outcome] += 1
            advance(len(group))
    return outcomes


def coco_ids(names: Sequence[str]) -> dict[str, int]:
    """The image ids of pictures that are named as MS-COCO names its own: the number at the end, COCO_test2014_000000000001.jpg.

    Raises UserError for a name without a number, and for two pictures with one id.
    """
    ids: dict[str, int] = {}
    for name in names:
        number = re.search(r"(\d+)\.\w+$", name)
        if not number:
            raise UserError(f"--coco-results: {name} does not end in a number, which would be its image id in MS-COCO")
        ids[name] = int(number[1])
    if len(set(ids.values())) < len(ids):
        twice = next(found for found, times in Counter(ids.values()).items() if times > 1)
        raise UserError(
            f"--coco-results: {twice} is the number of more than one picture; caption each part of COCO by itself"
        )
    return ids


def coco_results(names: Sequence[str], output: Path) -> list[dict[str, Any]]:
    """The best captions of the pictures ``names`` in ``output`` as COCO's evaluation server takes them, by image id."""
    ids = coco_ids(names)
    lines = (line for line in read_lines(output) if line["image"] in ids and line.get("captions"))
    found = [{"image_id": ids[line["image"]], "caption": line["captions"][0]["caption"]} for line in lines]
    return sorted(found, key=lambda entry: entry["image_id"])


def read_lines(output: Path) -> Iterator[dict[str, Any]]:
    """The lines of an album's file. Raises UserError when one is not of its kind."""
    with open(output, "rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                texts = [line["image"], *(found["caption"] for found in line.get("captions", []))]
                if not all(isinstance(part, str) for part in texts):
                    raise TypeError("neither image nor caption may be anything but text")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{output}, line {number}: no picture with its captions ({error!r}); remove the line"
                ) from None
            yield line


def _begin(output: Path, settings: dict[str, Any]) -> None:
    """See that the file's lines were made with ``settings``, and drop one that was cut short."""
    beside = Path(f"{output}.settings.json")
    written = output.read_bytes()
    if not written:
        write_atomically(beside, json.dumps(settings, indent=2))
        return
    try:
        begun = json.loads(beside.read_text(encoding="utf-8"))
        for name, value in _FORMER_SETTINGS.items():
            begun.setdefault(name, value)
        changes = [
            f"{name} was {begun.get(name)}, now {value}" for name, value in settings.items() if begun.get(name) != value
        ]
    except FileNotFoundError:
        raise UserError(
            f"--output: {output} exists, but {beside.name}, which would say what made it, does not; name another file"
        ) from None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{beside}: damaged ({error}); name another --output") from None
    if changes:
        raise UserError(
            f"--output: {output} was begun with other settings ({'; '.join(changes)}). Keep to them or name another file; "
            f"if the folder has only moved, change it in {beside.name}"
        )
    os.truncate(output, written.rfind(b"\n") + 1)


def _append(file: BinaryIO, lines: Sequence[dict[str, Any]]) -> None:
    # Names that are not UTF-8 hold lone surrogates, which become escapes and are read back as they were.
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write(text.encode("utf-8", "backslashreplace"))
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _progress(what: str, done: int, total: int) -> Iterator[Callable[[int], None]]:
    """Gives ``advance(pictures)``. Tells count, speed and time left: by a bar in a terminal, by a line now and then elsewhere."""
    begun = told = time.monotonic()
    count = 0
    with tqdm(desc=what, initial=done, total=total, unit=" pictures", disable=hide_progress()) as bar:

        def advance(pictures: int) -> None:
            nonlocal told, count
            count += pictures
            bar.update(pictures)
            now = time.monotonic()
            left = total - done - count
            if bar.disable and (not left or now - told >= _REPORT_EVERY):
                told, rate = now, count / (now - begun)
                print(
                    f"{what}: {done + count:,} of {total:,} pictures, {rate:,.1f} a second, "
                    f"{tqdm.format_interval(left / rate)} left",
                    file=sys.stderr,
                )

        yield advance
