"""Captions in text files beside pictures: ``photo.txt`` beside ``photo.jpg``, as trainers of image generators want it.

Such a file holds the caption and nothing else, so it cannot say itself whose it is. Each folder has a record of ours:

    .captioning-texts.jsonl     {"text": "photo.txt", "sha256": "9f86d0..."}
                                one line for each text that we wrote, in the order of writing; ``sha256`` is the digest
                                of all its bytes

A text is ours while its bytes are those of a line about it. Any other is somebody's, and so is one of ours that
somebody has edited. A line is written before its text, so a text of ours is never without one. Needs no Keras.
"""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Literal

from captioning.base.json_files import from_json
from captioning.pictures.extra_formats import HEIF_SUFFIXES, RAW_SUFFIXES
from captioning.pictures.finding import SUFFIXES
from captioning.pictures.metadata import Slot, has_namesake, put, unwritable_if_failing
from captioning.pictures.opening import open_regular

RECORD = ".captioning-texts.jsonl"
_LONGEST = 1 << 16  # bytes of a text that may be ours
_LARGEST = 1 << 28  # bytes of a record that are read


class TextFiles:
    """Writes captions into text files. Several threads may use it."""

    def __init__(self) -> None:
        self._records: dict[Path, _Record] = {}
        self._lock = threading.Lock()

    def write(self, picture: Path, caption: str) -> Literal["text", "kept"]:
        """Write ``caption`` into ``photo.txt`` beside ``photo.jpg``, unless somebody else has written a text there.

        Where another picture has the same name but for its suffix, the file is ``photo.jpg.txt``, because ``photo.txt``
        would be that of both. A text of ours under the name that is not used is removed. A file is replaced whole or
        not at all. Returns "kept" where somebody's text stays. Raises UnwritableMetadata. Raises UserError when the
        disk is full or read-only.
        """
        plain, full = picture.with_suffix(".txt"), Path(f"{picture}.txt")
        others = SUFFIXES | HEIF_SUFFIXES | RAW_SUFFIXES
        content = f"{caption}\n".encode()
        with unwritable_if_failing(picture):
            os.stat(picture)  # no text for a picture that has vanished
            used, unused = (full, plain) if has_namesake(picture, others) else (plain, full)
            record = self._record_of(picture.parent)
            found = {path: _content(path) for path in (used, unused)}
            capital = picture.with_suffix(".TXT")
            if os.path.lexists(capital) and not (plain.exists() and plain.samefile(capital)):
                found[capital] = _content(capital)
            if found[used] != content:
                if any(text is not None and not record.has(path.name, text) for path, text in found.items()):
                    return "kept"
                old = found[used] or b""
                record.add(used.name, content)
                put(used, Slot(0, len(old), old, bytes, _LONGEST), content, keep_times=False)
            text = found[unused]
            if text is not None and record.has(unused.name, text):
                unused.unlink(missing_ok=True)
        return "text"

    def _record_of(self, folder: Path) -> "_Record":
        with self._lock:
            if folder not in self._records:
                self._records[folder] = _Record(folder / RECORD)
            return self._records[folder]


def _content(path: Path) -> bytes | None:
    """The first bytes of a text, enough to know whether it may be ours; None where there is no such file."""
    if not os.path.lexists(path):
        return None
    try:
        with open_regular(path) as file:
            return file.read(_LONGEST + 1)
    except (FileNotFoundError, ValueError):  # a link to nothing, a folder or a device
        return b""


class _Record:
    """Which texts of one folder we wrote."""

    def __init__(self, path: Path):
        """Read the record ``path``, if there is one. A damaged line says nothing. Raises OSError."""
        self.path, self._lock = path, threading.Lock()
        self._digests: dict[str, set[str]] = {}
        written = b""
        if path.exists():
            with open_regular(path) as file:
                written = file.read(_LARGEST)
        for line in written.splitlines():
            try:
                found = from_json(line, dict)
                self._digests.setdefault(str(found["text"]), set()).add(str(found["sha256"]))
            except (ValueError, KeyError):  # cut short when a process was killed
                continue
        self._is_cut = bool(written) and not written.endswith(b"\n")

    def has(self, name: str, content: bytes) -> bool:
        """Whether we wrote this ``content`` into the text ``name``."""
        return _digest(content) in self._digests.get(name, ())

    def add(self, name: str, content: bytes) -> None:
        """Remember that we write this. It is on the disk afterwards. Raises OSError."""
        line = json.dumps({"text": name, "sha256": _digest(content)}) + "\n"
        with self._lock, open(self.path, "ab") as file:
            file.write(("\n" + line if self._is_cut else line).encode())
            file.flush()
            os.fsync(file.fileno())
            self._is_cut = False
            self._digests.setdefault(name, set()).add(_digest(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
