"""Fetch files over HTTP(S): with a progress bar, resumed after a break, verified before they take their final name.

A half-fetched ``NAME.part`` lies next to its destination with ``NAME.part.json``, an object of "size" (bytes of the
whole file) and "validator" (the server's ETag or Last-Modified, or null), by which a later call knows that it resumes
the same file. Without that object a .part file is fetched from its start.
"""

import errno
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import requests
from tqdm import tqdm

from captioning.base.errors import UserError
from captioning.base.script import hide_progress
from config import Config

_PAUSES = (1, 2, 4)  # seconds before each further try; a try that gained bytes starts the count anew
_TIMEOUTS = (10, 60)  # seconds to connect, and between two pieces of an answer
_PIECE = 1 << 14  # bytes; when a connection breaks, requests loses the piece it was reading
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that are worth another try

_FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
_COCO = "http://images.cocodataset.org"
# Addresses and checksums of what data sets are published as. COCO and Karpathy publish no checksums; these are TensorFlow
# Datasets'.
ARCHIVES = {
    "flickr8k": {
        f"{_FLICKR8K}/Flickr8k_Dataset.zip": "md5:f18a1e2920de5bd84dae7cf08ec78978",
        f"{_FLICKR8K}/Flickr8k_text.zip": "md5:bf6c1abcb8e4a833b7f922104de18627",
    },
    "coco2014": {
        f"{_COCO}/annotations/annotations_trainval2014.zip": "sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        f"{_COCO}/zips/val2014.zip": "sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        f"{_COCO}/zips/train2014.zip": "sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    },
    "coco2017": {
        f"{_COCO}/annotations/annotations_trainval2017.zip": "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        f"{_COCO}/zips/val2017.zip": "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        f"{_COCO}/zips/train2017.zip": "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    },
    "karpathy": {
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip": "sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
    },
}


class DownloadError(UserError):
    """The address gives no file: unreachable, refused, or broken off again and again."""


class _Broken(Exception):
    """The connection failed in a way that another try may mend."""


def fetch_archives(config: Config) -> None:
    """Fetch the archives of ``config.dataset`` into ``config.data_dir``; those that are there are verified, not fetched.

    Karpathy's splits come to lie beside ``config.captions_file``.

    Raises UserError: a data set that is not in ARCHIVES, unreachable, a wrong checksum, a full disk.
    """
    published = ARCHIVES.get(f"coco{config.coco_year}" if config.dataset == "coco" else config.dataset)
    if not published:
        raise UserError(f"--download: knows flickr8k, coco and karpathy, and dataset is {config.dataset}")
    folder = Path(config.captions_file).parent if config.dataset == "karpathy" else Path(config.data_dir)
    wanted = published
    if config.download_urls:
        checksums = config.download_checksums or (None,) * len(config.download_urls)
        wanted = dict(zip(config.download_urls, checksums, strict=True))
    for url, checksum in wanted.items():
        name = _file_name(url)
        if config.dataset == "karpathy":
            name = "caption_datasets.zip"  # the reader knows it by this name
        if not name.lower().endswith(".zip") or Path(name).name != name:
            raise UserError(f"download_urls: {url} must end in the name of a .zip file")
        try:
            fetch(url, folder / name, checksum)
        except DownloadError as error:
            raise UserError(
                f"{error}\nTo go on without this address, put {' and '.join(map(_file_name, published))}, or what they "
                f"contain, into {folder} by hand, or name another address with --download-urls."
            ) from None


def _file_name(url: str) -> str:
    return unquote(PurePosixPath(url.partition("?")[0]).name)


def fetch(url: str, dest: Path, checksum: str | None = None) -> None:
    """Fetch ``url`` to ``dest``, resuming what an earlier call left. ``checksum``: "md5:HEX", "sha256:HEX" or None.

    A file already at ``dest`` is verified and kept. A fetched file of the wrong checksum is set aside as ``NAME.bad``.
    Raises DownloadError when the address gives no file, other UserError for a wrong checksum or a disk problem.
    """
    part = dest.with_name(dest.name + ".part")
    try:
        if dest.exists():
            found = _digest(dest, checksum)
            if checksum and found != checksum.lower():
                raise UserError(
                    f"{dest}: its checksum is {found}, not {checksum}. Move it away to fetch it again, or correct "
                    "--download-checksums"
                )
            print(f"{dest}: already there, {found}", file=sys.stderr)
            return
        dest.parent.mkdir(parents=True, exist_ok=True)
        _fetch_part(url, part)
        found = _digest(part, checksum)
        if checksum and found != checksum.lower():
            bad = dest.with_name(dest.name + ".bad")
            part.replace(bad)
            _note(part).unlink(missing_ok=True)
            raise UserError(
                f"{url}: the checksum of what came is {found}, not {checksum}: it is damaged, or not the expected file. "
                f"It was set aside as {bad}. Try again, or correct --download-urls or --download-checksums"
            )
        part.replace(dest)
        _note(part).unlink(missing_ok=True)
        print(f"{dest}: fetched, {found}", file=sys.stderr)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{dest}: the disk is full. Make room and try again; what has come is kept") from None
        raise UserError(f"{error.filename or dest}: cannot be written or read: {error.strerror or error}") from None


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _digest(path: Path, checksum: str | None) -> str:
    """Checksum of a file as "ALGORITHM:hex", by the algorithm of ``checksum``, or SHA-256 where that is None."""
    algorithm = checksum.partition(":")[0] if checksum else "sha256"
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _fetch_part(url: str, part: Path) -> None:
    """Bring ``part`` to its full size, trying again as long as tries gain bytes or pauses are left."""
    pauses = list(_PAUSES)
    most = _size(part)
    while True:
        try:
            return _try(url, part)
        except _Broken as error:
            if _size(part) > most:
                most = _size(part)
                pauses = list(_PAUSES)
            if not pauses:
                kept = "; what came is kept, and the next run resumes it" if _size(part) and _read_note(part) else ""
                raise DownloadError(f"{url}: cannot be fetched: {error}{kept}") from None
            print(f"{url}: {error}; next try in {pauses[0]} s", file=sys.stderr)
            time.sleep(pauses.pop(0))


def _try(url: str, part: Path) -> None:
    """One request, for what ``part`` lacks. Raises _Broken when another may help, DownloadError when none will."""
    have, note = _size(part), _read_note(part)
    if note and have == note["size"]:
        return
    headers = {"Accept-Encoding": "identity"}  # offsets must count the bytes of the file itself
    if note and have:
        headers["Range"] = f"bytes={have}-"
        if note["validator"]:
            headers["If-Range"] = note["validator"]
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUTS)
    except ValueError:  # requests' errors for malformed addresses
        raise DownloadError(f"{url}: not an http:// or https:// address") from None
    except requests.RequestException as error:
        reason = re.split(r"\] |: ", str(error))[-1].rstrip("\"')")  # the innermost of the nested messages
        raise _Broken(f"no connection: {reason}") from None
    with answer:
        if answer.status_code in _PASSING:
            raise _Broken(f"the server answers {answer.status_code} {answer.reason}")
        continued = f"bytes {have}-{note['size'] - 1}/{note['size']}" if note else ""
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range") == continued
        if answer.status_code in (206, 416) and not resumed:
            _note(part).unlink(missing_ok=True)
            raise _Broken("the file there has changed since; starting over")
        if answer.status_code not in (200, 206):
            raise DownloadError(f"{url}: cannot be fetched: the server answers {answer.status_code} {answer.reason}")
        have, size = (have, note["size"]) if resumed else (0, _begin(part, answer.headers))
        free = shutil.disk_usage(part.parent).free
        if size is not None and size - have > free:
            raise UserError(
                f"{part}: needs {size - have:,} bytes more, and its disk has {free:,} free. Make room there"
            )
        print(f"{url}: {'resuming at byte ' + format(have, ',') if resumed else 'fetching'}", file=sys.stderr)
        bar = tqdm(total=size, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=hide_progress())
        try:
            with bar, part.open("ab") as file:
                for piece in answer.iter_content(_PIECE):
                    file.write(piece)
                    bar.update(len(piece))
        except requests.RequestException:
            raise _Broken(f"the connection broke off after {_size(part):,} bytes") from None
    if size is not None and _size(part) != size:
        raise _Broken(f"the connection broke off after {_size(part):,} of {size:,} bytes")


def _begin(part: Path, headers: Mapping[str, str]) -> int | None:
    """Empty ``part`` and note what arrives there, so that it can be resumed. Returns its size, None where unknown."""
    _note(part).unlink(missing_ok=True)
    part.write_bytes(b"")
    if "Content-Length" not in headers:
        return None
    etag = headers.get("ETag", "")
    # A weak ETag (W/"...") does not promise equal bytes.
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    size = int(headers["Content-Length"])
    _note(part).write_text(json.dumps({"size": size, "validator": validator}), encoding="utf-8")
    return size


def _read_note(part: Path) -> dict[str, Any] | None:
    """What is known of the file that ``part`` is the beginning of; None where it cannot be resumed."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        return {"size": int(note["size"]), "validator": note["validator"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
