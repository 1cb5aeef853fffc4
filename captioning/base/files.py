"""Files written whole or not at all, and locks that keep other processes away. No Keras."""

import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep other processes away from a file or folder meanwhile; wait for one that has it. Where it cannot be locked, don't."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path}: waiting for another process that is writing it", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # some network file systems lock no folders
            pass
        yield
    finally:
        os.close(handle)


def allocate(path: Path, dtype: str, shape: tuple[int, ...]) -> int:
    """Write a ``.npy`` file of zeros whose space is taken. Returns where its first row begins, in bytes. Raises OSError."""
    with open(path, "wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        # Claim the space now: a full disk is an error here, but a crash (SIGBUS) when a mapping meets it later.
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), offset, size)
        else:
            file.truncate(offset + size)
        os.fsync(file.fileno())
    return offset


def write_atomically(path: Path, text: str) -> None:
    """Write a whole text file or nothing: to a neighbour first, then renamed over ``path``."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a whole file or nothing: to a neighbour first, then renamed over ``path``."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what ``save_arrays`` wrote. Raises UserError when it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not the pretrained embedding of a run, or damaged ({error})") from None


def write(path: Path, text: str) -> None:
    """Write a text file, and its folder if there is none. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
