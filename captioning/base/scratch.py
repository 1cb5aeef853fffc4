"""Folders and files for work in progress, and what killed processes leave of them. No Keras.

A process holds a lock on its own scratch folder or file (``flock``). The operating system drops the lock when the
process ends, also when it is killed. So the next process that does the same work knows what nobody needs any more.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captioning.base.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Where there are no such locks, a leftover is removed when it has been left alone for so long.
_FORGOTTEN = 24 * 3600  # seconds
_YOUNG = 2  # seconds; a process needs less between making something and locking it
# Begins the names of scratch folders in the folder for temporary files. Nobody else may give such a name to a file of
# theirs, because what nobody holds is removed.
TEMPORARY = ".keras-image-captioning-parts-"


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Gives a new folder in ``parent``, which is removed at the end. Raises OSError.

    Its name begins with ``prefix``. Folders of this prefix that killed processes left are removed first.
    """
    sweep(parent, prefix)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix, ignore_cleanup_errors=True) as name, held(Path(name)):
        yield Path(name)


@contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """Gives a new folder among the temporary files of the system, which is removed at the end.

    Raises UserError, which says that ``what`` needs room there, if the folder cannot be made. Writing into it is for
    the caller to guard with ``no_room``.
    """
    try:
        parent = Path(tempfile.gettempdir())
        sweep(parent, TEMPORARY)
        folder = tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True)
    except OSError as error:
        raise no_room(what, error) from None
    with folder as name, held(Path(name)):
        yield Path(name)


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Let Python's ``tempfile`` make its files in ``folder`` until the end, also those of libraries.

    Libraries name their files as they like, and nobody removes them after a kill. In a scratch folder they are swept.
    """
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def no_room(what: str, error: OSError) -> UserError:
    """The error of a folder for temporary files that is too small, or that cannot be used. ``what`` should go there."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        folder = "the folder for temporary files"
    return UserError(
        f"{folder}: no room for {what} ({error.strerror or error}); make room there, or name another folder with the "
        "environment variable TMPDIR"
    )


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let ``sweep`` of other processes spare ``path``, a folder or a file, until the end."""
    opened = _open(path)
    try:
        if opened is not None:
            with suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        if opened is not None:
            os.close(opened)


def sweep(parent: Path, prefix: str) -> None:
    """Remove the folders and files in ``parent`` that killed processes left. What cannot be removed stays.

    Their names begin with ``prefix``.
    """
    try:
        names = [name for name in os.listdir(parent) if name.startswith(prefix)]
    except OSError:
        return
    for path in (parent / name for name in names):
        if not path.is_symlink() and _abandoned(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _abandoned(path: Path) -> bool:
    """Whether no living process holds ``path``."""
    try:
        found = path.stat()
    except OSError:
        return False
    age = time.time() - found.st_mtime
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return False
    if age <= _YOUNG:  # its process may be about to lock it, and must not find a lock of ours there
        return False
    opened = _open(path)
    if opened is None:
        return age > _FORGOTTEN
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return age > _FORGOTTEN
    finally:
        os.close(opened)
    return True


def _open(path: Path) -> int | None:
    """A file descriptor of ``path`` that can be locked; None where there is no such thing."""
    if fcntl is None:
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
