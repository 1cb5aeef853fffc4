"""Files written whole or not at all, and locks that keep other processes away. No Keras."""

import errno
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioning.base.archives import refuse_bombs
from captioning.base.errors import UserError, first_line
from captioning.base.project import NAME

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = ".lock"  # the name of the lock of a folder
_UNFINISHED = ".new-"  # begins the names of files that are being written


def cache_folder() -> Path:
    """Our folder among the user's caches, where the system wants them. Nothing is made there."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / NAME
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / NAME
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / NAME


@contextmanager
def alone_with(path: Path, refusal: str = "") -> Iterator[None]:
    """Keep other processes away from a file or folder that they would write too.

    Waits while another process has it, and says so on stderr. With a ``refusal`` it does not wait, and raises UserError
    with these words. The lock is an empty file: ``.lock`` in a folder, or ``.NAME.lock`` beside a file. It is removed
    afterwards. The operating system drops the lock of a killed process, and the empty file that such a process leaves
    is no obstacle. Where the file system has no locks, or the lock cannot be written, the work goes on without one.
    """
    from filelock import FileLock  # here, since most scripts need no lock

    target = path.resolve()  # so that all links to it share one lock
    place = target / LOCK if target.is_dir() else target.with_name(f".{target.name}.lock")
    lock = FileLock(place, fallback_to_soft=False)
    is_locked = _acquire(lock, path, refusal)
    try:
        yield
    finally:
        if is_locked:
            with suppress(OSError):  # Windows removes no open file; there the release does
                place.unlink()
            lock.release()


def _acquire(lock: "FileLock", path: Path, refusal: str) -> bool:
    """Get the lock on ``path``, as ``alone_with`` says. Returns False where it cannot be locked."""
    from filelock import Timeout

    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if refusal:
                raise UserError(f"{path}: {refusal}") from None
            print(f"{path}: waiting for another process that is writing it", file=sys.stderr)
            lock.acquire()
    except OSError:
        return False
    return True


@contextmanager
def replacing(path: Path, new: Path | None = None, sync: bool = True) -> Iterator[Path]:
    """Gives the path of a new file, which is renamed to ``path`` at the end. So ``path`` is whole at any moment.

    The new file is a hidden neighbour of ``path``, unless ``new`` names another place on the same disk. It is removed
    when the body fails. What a killed process leaves is written over the next time. With ``sync`` the new file is on
    the disk before it is renamed, so that ``path`` is whole after a power failure too.
    """
    new = new or path.with_name(_UNFINISHED + path.name)
    try:
        yield new
        if sync:
            with open(new, "r+b") as file:
                os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether ``path`` is what ``replacing`` left when its process was killed."""
    return path.name.startswith(_UNFINISHED)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    with replacing(path) as new:
        new.write_bytes(content)


def write_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all. Raises OSError.

    A file name that is not UTF-8 holds lone surrogates. They are written as escapes, which JSON reads back unchanged.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write(path: Path, text: str) -> None:
    """Write a text file, and its folder if there is none. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a .npz file, whole or not at all. Raises OSError."""
    with replacing(path) as new, open(new, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes an array for allow_pickle


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what ``save_arrays`` wrote. Raises UserError when it is missing or damaged, or larger than it says."""
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bombs(archive)
        # Opened here, because NumPy leaves a damaged file open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # zipfile and NumPy raise errors of many kinds on damaged files
        raise UserError(
            f"{path}: not the pretrained embedding of a run, or damaged ({error}); start a new run"
        ) from None


def map_array(path: Path, dtypes: Sequence[str], ndim: int) -> np.memmap:
    """An ``.npy`` file as a read-only mapping: an array of one of ``dtypes`` with ``ndim`` axes.

    Raises FileNotFoundError if it is missing, and ValueError if it is damaged, cut short or another array.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises errors of many kinds on a damaged header
        raise ValueError(f"{path.name}: {first_line(error)}") from None
    if not isinstance(found, np.memmap) or found.dtype.str[1:] not in dtypes or found.ndim != ndim:
        raise ValueError(f"{path.name}: holds {getattr(found, 'dtype', '?')} {getattr(found, 'shape', '?')}")
    if not found.flags.c_contiguous:
        raise ValueError(f"{path.name}: its rows are not in order")
    return found


def require_room(path: Path, size: int) -> None:
    """Raise OSError where a file ``path`` of ``size`` bytes would find no room. Nothing stays on the disk.

    For libraries that cannot cope with a full disk: HDF5 ends the process with a segmentation fault then.
    """
    probe = path.with_name(f"{_UNFINISHED}room-{path.name}")
    try:
        with open(probe, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(path.parent).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        probe.unlink(missing_ok=True)


def allocate(path: Path, dtype: str, shape: tuple[int, ...]) -> int:
    """Write a ``.npy`` file of zeros that has all its space. Returns the offset of its first row. Raises OSError."""
    with open(path, "wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        # Claim the space now. Here a full disk is an error; a mapping that met it later would crash (SIGBUS).
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), offset, size)
        else:
            file.truncate(offset + size)
        os.fsync(file.fileno())
    return offset
