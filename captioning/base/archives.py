"""Zip archives of others: what they may unpack to is bounded before anything is unpacked. No Keras.

Weights hardly shrink when they are packed. So a member that unpacks to many times its packed size is none of ours.
"""

import os
import zipfile

_RATIO = 4  # a member may unpack to so many times the bytes that it has in the archive
_ALWAYS = 1 << 20  # bytes that any member may unpack to
_MOST = 10_000  # members


def refuse_bombs(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if ``archive``, a file on disk or in memory, would unpack to far more than it holds."""
    if len(archive.infolist()) > _MOST:
        raise ValueError(f"it holds {len(archive.infolist())} files")
    assert archive.fp is not None
    here = archive.fp.tell()
    held = archive.fp.seek(0, os.SEEK_END)
    archive.fp.seek(here)
    for member in archive.infolist():
        packed = min(member.compress_size, held)  # the archive itself says how large its members are
        if member.file_size > max(_RATIO * packed, _ALWAYS):
            raise ValueError(f"{member.filename[:50]} would unpack to {member.file_size:,} bytes from {packed:,}")
