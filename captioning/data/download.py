"""Fetch files over HTTP(S): with a progress bar, resumed after a break, verified before they take their final name.

While a file is fetched, ``NAME.part`` and ``NAME.part.json`` lie at its destination. The JSON object holds "size"
(bytes of the whole file) and "validator" (the server's ETag or Last-Modified, or null). They tell a later call that it
resumes the same file. A .part file without a ``NAME.part.json`` is fetched from its start.
"""

import errno
import hashlib
import http.client
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import requests
import urllib3

from captioning.base.addresses import Lost, NoAddress, Unfetched, open_address, refusal, within
from captioning.base.errors import UserError
from captioning.base.json_files import load_json, take
from captioning.base.progress import Progress
from captioning.data import datasets
from config import DataSettings

_PAUSES = (1, 2, 4)  # seconds before each further try; after a try that gained bytes they start anew
_TIMEOUTS = (10, 60)  # seconds to connect, and between two pieces of an answer
_HEADER_SECONDS = 120  # in which an answer must begin, with all redirects
_PACE, _WINDOW = 1000, 60  # bytes a second that must come at least, on average over so many seconds
_PIECE = 1 << 14  # bytes that are read at most at a time
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that are worth another try


class DownloadError(UserError):
    """The address gives no file: it is unreachable, refuses, or breaks off again and again."""


class _Broken(Exception):
    """The connection failed, but another try may succeed."""


def fetchable(data_sets: Sequence[DataSettings]) -> list[DataSettings]:
    """Those of several data sets that can be fetched. If none can, all of them, so that fetching says why."""
    found = [each for each in data_sets if hasattr(datasets.layout(each.dataset), "published")]
    return found or list(data_sets)


def fetch_archives(settings: DataSettings) -> None:
    """Fetch the archives of a data set to where its layout reads them. Archives that are there are only verified.

    Raises UserError: a data set that cannot be fetched, an unreachable address, a wrong checksum, a full disk.
    """
    layout = datasets.layout(settings.dataset)
    if hasattr(layout, "SOURCE"):
        raise UserError(f"--download: {settings.dataset} cannot be downloaded. {layout.SOURCE}")
    if not hasattr(layout, "published"):
        raise UserError(
            f"--download: only {_fetchable()} can be downloaded, and dataset is {settings.dataset}; leave --download "
            "out"
        )
    folder, published = layout.published(settings)
    wanted: Mapping[str, str | None] = published
    if settings.download_urls:
        checksums = settings.download_checksums or (None,) * len(settings.download_urls)
        wanted = dict(zip(settings.download_urls, checksums, strict=True))
    for url, checksum in wanted.items():
        # A single archive is known by its published name, whatever address it comes from.
        name = _file_name(next(iter(published)) if len(published) == 1 else url)
        if not name.lower().endswith(".zip") or Path(name).name != name:
            raise UserError(f"download_urls: {url} must end in the name of a .zip file")
        try:
            fetch(url, folder / name, checksum)
        except DownloadError as error:
            raise UserError(
                f"{error}\nTo go on without this address, put {' and '.join(map(_file_name, published))}, or what they "
                f"contain, into {folder} by hand, or name another address with --download-urls."
            ) from None


def _fetchable() -> str:
    """The data sets that can be fetched, as a list in words."""
    *names, last = (name for name in datasets.layout_names() if hasattr(datasets.layout(name), "published"))
    return f"{', '.join(names)} and {last}"


def _file_name(url: str) -> str:
    return unquote(PurePosixPath(url.partition("?")[0]).name)


def fetch(url: str, dest: Path, checksum: str | None = None) -> None:
    """Fetch ``url`` to ``dest``; resume what an earlier call left. ``checksum``: "md5:HEX", "sha256:HEX" or None.

    A file that is already at ``dest`` is verified and kept. A fetched file of another checksum becomes ``NAME.bad``.
    Raises DownloadError when the address gives no file. Raises UserError for a wrong checksum or a disk problem.
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
                f"{url}: the checksum of what came is {found}, not {checksum}: it is damaged, or another file. "
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
    """Bring ``part`` to its full size. Tries again as long as tries gain bytes or pauses are left."""
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
    """Make one request for what ``part`` lacks. Raises _Broken when another may help, DownloadError when none will."""
    have, note = _size(part), _read_note(part)
    if note and have == note["size"]:
        return
    headers = {"Accept-Encoding": "identity"}  # offsets must count the bytes of the file itself
    if note and have:
        headers["Range"] = f"bytes={have}-"
        if note["validator"]:
            headers["If-Range"] = note["validator"]
    try:
        answer = within(_HEADER_SECONDS, lambda: open_address(url, headers, _TIMEOUTS))
    except (Lost, NoAddress) as error:
        raise DownloadError(f"{url}: {error}") from None
    except Unfetched as error:
        reason = re.split(r"\] |: ", str(error))[-1].rstrip("\"')")  # the innermost of nested messages
        raise _Broken(f"no connection: {reason}") from None
    with answer:
        if answer.status_code in _PASSING:
            raise _Broken(f"the server answers {answer.status_code} {answer.reason}")
        continued = f"bytes {have}-{note['size'] - 1}/{note['size']}" if note else None
        resumed = answer.status_code == 206 and continued and answer.headers.get("Content-Range") == continued
        if answer.status_code in (206, 416) and not resumed:
            _note(part).unlink(missing_ok=True)
            raise _Broken("the file there has changed meanwhile; starting over")
        if answer.status_code not in (200, 206):
            raise DownloadError(f"{url}: cannot be fetched: {refusal(answer)}")
        have, size = (have, note["size"]) if note and resumed else (0, _begin(part, answer.headers))
        free = shutil.disk_usage(part.parent).free
        if size is not None and size - have > free:
            raise UserError(
                f"{part}: needs {size - have:,} bytes more, and its disk has {free:,} free. Make room there"
            )
        print(f"{url}: {'resuming at byte ' + format(have, ',') if resumed else 'fetching'}", file=sys.stderr)
        bar = Progress(part.stem, size, "B", have)
        try:
            with bar, part.open("ab") as file:
                for piece in _pieces(answer):
                    file.write(piece)
                    bar.update(len(piece))
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ConnectionError):
            raise _Broken(f"the connection broke off after {_size(part):,} bytes") from None
    if size is not None and _size(part) != size:
        raise _Broken(f"the connection broke off after {_size(part):,} of {size:,} bytes")


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    """The body of an answer as it comes. Raises _Broken when less comes than ``_PACE`` for a minute."""
    came, since = 0, time.monotonic()
    while piece := answer.raw.read1(_PIECE):
        yield piece
        came += len(piece)
        if (now := time.monotonic()) - since >= _WINDOW:
            if came < _PACE * _WINDOW:
                raise _Broken(f"the server sends fewer than {_PACE:,} bytes a second")
            came, since = 0, now


def _begin(part: Path, headers: Mapping[str, str]) -> int | None:
    """Empty ``part`` and note what will arrive there, so that it can be resumed. Returns its size, None if unknown."""
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
    """What is known of the whole file that ``part`` begins; None where it cannot be resumed."""
    try:
        note = load_json(_note(part), dict)
        size = take(note, "size", int, lambda size: size >= 0)
        return {"size": size, "validator": note["validator"] and take(note, "validator", str)}
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
