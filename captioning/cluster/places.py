"""Folders and buckets, read and written in one way: through ``pyarrow.fs``. No Keras.

A place is a folder, or all below an address such as ``s3://bucket/photos`` or ``gs://bucket/photos``. Settings in an
address are those of pyarrow: ``s3://bucket/photos?endpoint_override=http://localhost:9000``.

A file is written under a name that begins with ``.new-``, and gets its own name when it is whole. So nobody sees a half
of one, and an error leaves an earlier file as it was. S3 renames no files above 5 GB. Those are copied through this
machine, and an error during the copy leaves a part under the file's own name. A killed worker may leave a file
``.new-...`` in a bucket, which nothing reads.
"""

import io
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from captioning.base.errors import UserError, first_line
from captioning.base.files import replacing
from captioning.base.texts import printable
from captioning.pictures.finding import Finder, no_pictures, report_unlisted
from captioning.pictures.loading import UnreachableImage

INSTALL = 'pip install -e ".[cluster]"'
_SCHEMES = ("s3://", "gs://", "gcs://")
# An address that is none of these, such as S3://, s3:/ or http://. A drive of Windows has one letter.
_MISTYPED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|(?:s3a?|s3n|gs|gcs):", re.IGNORECASE)
_CHUNK = 8 << 20  # bytes that are copied at a time
_NEW = ".new-"  # begins the names of files that are being written
_MOVABLE = 5 * 10**9  # bytes of the largest file that moves inside S3, rounded down from 5 GiB
# What the libraries of buckets say when nobody has told them who asks.
_DENIED = (
    *("ACCESS_DENIED", "AccessDenied", "credential", "Credential", "InvalidAccessKeyId", "INVALID_ACCESS_KEY_ID"),
    *("SignatureDoesNotMatch", "SIGNATURE_DOES_NOT_MATCH", "Forbidden", "HTTP status 403", "PermissionDenied"),
)


def is_bucket(address: str) -> bool:
    """Whether ``address`` names a place in a bucket. Otherwise it is a path."""
    return address.startswith(_SCHEMES)


class Place:
    """A folder or a place in a bucket, which is reached when it is opened.

    folder: the folder, or None for a bucket. shown: its address without settings, for messages and records.
    """

    def __init__(self, address: str, option: str):
        """``option``: what names it, for errors.

        Raises UserError if it cannot be reached, is an address of another kind, or pyarrow is missing.
        """
        if _MISTYPED.match(address) and not is_bucket(address):
            raise UserError(
                f"{option}: {printable(address.partition('?')[0])}: there are no places of this kind; give "
                "s3://BUCKET/PLACE, gs://BUCKET/PLACE, or the path of a folder"
            )
        self.address, self.option = address, option
        self.folder = None if is_bucket(address) else Path(os.path.abspath(address))
        self.shown = printable(address.partition("?")[0].rstrip("/") if is_bucket(address) else str(self.folder))
        with self._telling("cannot be reached"):
            fs = _pyarrow_fs(option)
            if self.folder is not None:
                self.files, self.path = fs.LocalFileSystem(), str(self.folder)
            else:
                self.files, self.path = fs.FileSystem.from_uri(address)
                self._require_bucket(fs)

    def _require_bucket(self, fs: Any) -> None:
        bucket = self.path.split("/")[0]
        if self.files.get_file_info(bucket).type == fs.FileType.NotFound:
            raise UserError(f"{self.option}: {self.shown}: there is no bucket {bucket}; make it, or name another")

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Let errors of the file system become one UserError. ``what``: what cannot be done."""
        try:
            yield
        except (OSError, ValueError) as error:
            said = printable(first_line(error))
            advice = "check the address and the network"
            if any(sign in str(error) for sign in _DENIED):
                advice = (
                    "its credentials are missing or do not suffice; set those of the bucket, such as AWS_ACCESS_KEY_ID "
                    "and AWS_SECRET_ACCESS_KEY, on every machine"
                )
            elif self.folder is not None:
                said, advice = printable(str(getattr(error, "strerror", None) or error)), "choose another folder"
            raise UserError(f"{self.option}: {self.shown}: {what} ({said}); {advice}") from None

    def names(self) -> dict[str, int]:
        """The sizes of the files in this place, by name, without those of places below it."""
        return {os.path.basename(found.path): found.size for found in self._infos(self.path) if found.is_file}

    def _infos(self, path: str) -> list[Any]:
        fs = _pyarrow_fs(self.option)
        with self._telling("cannot be listed"):
            return self.files.get_file_info(fs.FileSelector(path, allow_not_found=True))

    def pictures(self, finder: Finder) -> Iterator[tuple[str, int, None]]:
        """The names and sizes in bytes of all pictures below this place, in the order of an album (``Listed``).

        Only one folder at a time is held in memory. A link that leads nowhere has the size 0. Raises UserError if there
        is no such place.
        """
        if self.folder is not None:
            for name in finder.names(self.folder, report_unlisted):
                size = 0
                with suppress(OSError):
                    size = (self.folder / name).stat().st_size
                yield name, size, None
            return
        below = [Path()]
        while below:
            here = below.pop()
            found = self._infos(os.path.join(self.path, here.as_posix()) if here.parts else self.path)
            sizes: dict[str, int] = {}
            folders = []
            while found:  # each is dropped when it is read, because a folder may hold millions
                each = found.pop()
                if each.is_file:
                    sizes[os.path.basename(each.path)] = each.size
                else:
                    folders.append(os.path.basename(each.path.rstrip("/")))
            for name in finder.chosen(here, folders, list(sizes)):
                yield name, sizes[os.path.basename(name)], None
            below += [here / name for name in reversed(folders)]

    def require_pictures(self, finder: Finder) -> None:
        """Raise UserError if there are no pictures here. Stops at the first."""
        if next(self.pictures(finder), None) is None:
            raise no_pictures(f"{self.option}: {self.shown}", finder)
        finder.left_out()

    def picture(self, name: str) -> Path | BinaryIO:
        """What Pillow can open: the path of a picture, or what is in the bucket. Raises UnreachableImage."""
        if self.folder is not None:
            return self.folder / name
        try:
            with self.files.open_input_stream(f"{self.path}/{name}") as file:
                found = io.BytesIO(file.read())
        except (OSError, ValueError) as error:
            reason = "No such file or directory" if isinstance(error, FileNotFoundError) else first_line(error)
            raise UnreachableImage(printable(f"{self.shown}/{name}: cannot be read as a picture: {reason}")) from None
        found.name = f"{self.shown}/{name}"  # messages name it
        return found

    def open(self, name: str) -> Any:
        """A file for reading at any position. Raises UserError."""
        with self._telling(f"{name} cannot be read"):
            return self.files.open_input_file(f"{self.path}/{name}")

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a file, part by part. Raises UserError."""
        with self._telling(f"{name} cannot be read"), self.files.open_input_stream(f"{self.path}/{name}") as file:
            while part := file.read(_CHUNK):
                yield part

    def publish(self, name: str, content: Iterable[bytes]) -> None:
        """Write a file, whole or not at all, in place of one that may be there. Raises UserError."""
        with self._telling(f"{name} cannot be written"):
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                with replacing(self.folder / name, self.folder / _new_name(name)) as path, open(path, "wb") as file:
                    file.writelines(content)
                return
            self._upload(name, content)

    def _upload(self, name: str, content: Iterable[bytes]) -> None:
        new, path = f"{self.path}/{_new_name(name)}", f"{self.path}/{name}"
        try:
            size = self._write(new, content)
            if size <= _MOVABLE:
                self.files.move(new, path)
                return
            with self.files.open_input_stream(new) as file:
                self._write(path, iter(partial(file.read, _CHUNK), b""))
            self.files.delete_file(new)
        except BaseException:
            with suppress(OSError):
                self.files.delete_file(new)
            raise

    def _write(self, path: str, content: Iterable[bytes]) -> int:
        """Write a file of a bucket. Returns its size. An error leaves a part of it, and pyarrow offers no way out."""
        size = 0
        with self.files.open_output_stream(path) as file:
            for part in content:
                file.write(part)
                size += len(part)
        return size

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises UserError."""
        with self._telling(f"{name} cannot be removed"), suppress(FileNotFoundError):
            self.files.delete_file(f"{self.path}/{name}")

    def entries(self) -> list[str]:
        """The names of the files and folders in this place."""
        return [os.path.basename(found.path.rstrip("/")) for found in self._infos(self.path)]

    def sweep(self) -> None:
        """Remove what killed jobs left. Nobody else may write here now."""
        for path in self.folder.glob(f"{_NEW}*") if self.folder else ():
            path.unlink(missing_ok=True)


def _new_name(name: str) -> str:
    """What a file is called until it is whole. Two workers may write the same file."""
    return f"{_NEW}{name}-{uuid.uuid4().hex[:8]}"


def parts_of(path: Path) -> Iterator[bytes]:
    """The content of a file on this machine, part by part. Raises OSError."""
    with open(path, "rb") as file:
        while part := file.read(_CHUNK):
            yield part


def _pyarrow_fs(option: str) -> Any:
    try:
        import pyarrow.fs
    except ImportError:
        raise UserError(
            f"{option}: reads folders and buckets with pyarrow, which is not installed; {INSTALL}"
        ) from None
    return pyarrow.fs
