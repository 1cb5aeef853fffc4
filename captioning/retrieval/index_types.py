"""How pictures are searched: ``--index-type exact``, ``hnsw`` or ``ivfpq``, and the files of the last two.

Three files lie beside ``index.json``, here those of hnsw:

    hnsw.json     {"format": 1, "version": N, "vectors": fingerprint of the index, "settings": {...},
                  "made_for": I, "effort": E, "measured": M, "recall": {"photos": R, "words": R},
                  "files": {"faiss": [name, bytes, SHA-256], "npy": [name, bytes, SHA-256]}}
    hnsw-N.faiss  what faiss writes
    hnsw-N.npy    uint64 (2, P): for each position in faiss the key of its vector, and its row or ``GONE``

``approximate.Approximate`` says what made_for, effort, measured and recall are. The recall is {} as long as faiss has
not learned all pictures. ``hnsw.json`` is written last, and replaced as a whole. So the three are valid at any moment.
faiss reads its file only if size and SHA-256 are right. What is damaged or of other settings is built again.

New pictures are added. The positions of pictures that are gone stay, until they are a fifth of all.
"""

import errno
import hashlib
import importlib.util
import json
import re
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captioning.base.errors import UserError, first_line
from captioning.base.files import alone_with, map_array, replacing, write_atomically
from captioning.base.json_files import as_written, load_json, take
from captioning.base.progress import Progress
from captioning.base.texts import printable
from captioning.retrieval.approximate import KINDS, QUERIES, Approximate, keys_of
from captioning.retrieval.index import ImageIndex
from captioning.words.vocabulary import SPECIALS, Vocabulary

TYPES = ("exact", *KINDS)
EXACT_UP_TO = 1_000_000  # pictures that are searched exactly, unless the user wants it otherwise
LEAST = 1_000  # pictures below which faiss gains nothing
FORMAT = 1
GONE = 2**64 - 1  # the row of a picture that is gone

_CHUNK = 1024  # vectors that faiss learns at a time
_SAVE_EVERY = 300  # seconds from one version on the disk to the next, while faiss learns
_MOST_GONE = 0.2  # of all positions; with more, faiss begins anew
_MEASURE_AGAIN = 1.05  # times as many pictures as when the recall was measured

Sorts = Callable[[], dict[str, np.ndarray]]  # more queries for ``Approximate.measure``; only called when it is measured


def add_index_type(parser: ArgumentParser) -> None:
    """Offer ``--index-type`` to a script that searches pictures."""
    parser.add_argument(
        "--index-type",
        choices=TYPES,
        help="how pictures are searched. exact: all are compared with the query; hnsw: few are, along a graph of near "
        "vectors, which is faster among many pictures and may miss some; ivfpq: as hnsw, with less memory and more misses. "
        f"The last two need the extra faiss [default: exact up to {EXACT_UP_TO:,} pictures, hnsw above]",
    )


def require_faiss(index_type: str | None) -> None:
    """Raise UserError if ``index_type`` needs faiss, and it is not installed."""
    if index_type in KINDS and not _has_faiss():
        raise UserError(f'--index-type {index_type}: faiss is not installed; pip install -e ".[faiss]"')


def random_sentences(vocabulary: Vocabulary) -> list[str]:
    """Sentences of random words that the model knows, the same ones every time: queries to measure the recall by."""
    rng = np.random.default_rng(3)
    words = vocabulary.words[len(SPECIALS) :]
    return [" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(QUERIES)]


def attach(
    index: ImageIndex,
    index_type: str | None,
    sorts: Sorts = dict,
    pause: Callable[[], None] = lambda: None,
    before: Approximate | None = None,
) -> Approximate | None:
    """Let ``index.search`` work as ``index_type`` says. None: the default. Returns the searcher, None if it is exact.

    The files of faiss are brought up to date. ``sorts`` gives further queries, by which the recall is measured.
    ``pause`` is called now and then meanwhile. ``before``: a searcher, which serves again if the pictures are the same.
    Raises UserError.
    """
    kind = _chosen(index_type, len(index.images))
    if kind == "exact":
        return None
    if before and (before.kind, before.fingerprint) == (kind, index.fingerprint):
        before.vectors = index.vectors
        found = before
    else:
        found = _up_to_date(index, kind, sorts, pause)
    index.approximate = found
    return found


def _chosen(index_type: str | None, pictures: int) -> str:
    """The type of search for so many ``pictures``. What the user would not expect is said on stderr."""
    if index_type in KINDS and pictures < LEAST:
        _note(f"--index-type {index_type} gains nothing below {LEAST:,} pictures, so all {pictures:,} are compared")
        return "exact"
    if index_type is None and pictures > EXACT_UP_TO:
        if _has_faiss():
            return "hnsw"
        _note(
            f"all {pictures:,} pictures are compared with the query; with faiss (pip install -e '.[faiss]') a search takes "
            "less than a tenth of the time"
        )
    return index_type or "exact"


def _has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def _note(text: str) -> None:
    print(printable(f"note: {text}"), file=sys.stderr)


def _up_to_date(index: ImageIndex, kind: str, sorts: Sorts, pause: Callable[[], None]) -> Approximate:
    """The searcher of ``index``, read, brought up to date or built. Raises UserError if it cannot be written."""
    try:
        with alone_with(index.folder):
            files = _Files(index, kind)
            searcher = files.read()
            if searcher and searcher.fingerprint == index.fingerprint and searcher.recall:
                return searcher
            return _brought_up(searcher, files, sorts, pause)
    except MemoryError:
        smaller = "ivfpq or exact" if kind == "hnsw" else "exact"
        raise UserError(f"{index.folder}: there is too little memory for --index-type {kind}; take {smaller}") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            f"{index.folder}: the files of --index-type {kind} cannot be written: {error.strerror or error}; "
            f"{'make room' if full else 'name another --index'}, or take --index-type exact"
        ) from None


def _brought_up(searcher: Approximate | None, files: "_Files", sorts: Sorts, pause: Callable[[], None]) -> Approximate:
    """``searcher`` with all pictures of the index, or a new one. It is saved, now and then before it is complete."""
    vectors, kind = files.index.vectors, files.kind
    keys = keys_of(vectors)
    if searcher:
        new = searcher.place(keys)
        if len(vectors) > KINDS[kind].growth * searcher.made_for or (searcher.rows < 0).mean() > _MOST_GONE:
            searcher = None
    if searcher is None:
        searcher, new = Approximate.made(kind, vectors), np.arange(len(vectors))
    searcher.fingerprint = files.index.fingerprint
    recall, searcher.recall = searcher.recall, {}  # what is saved before the end is not complete
    saved = time.monotonic()
    with Progress(f"index of type {kind}", len(vectors), "images", len(vectors) - len(new)) as bar:
        for start in range(0, len(new), _CHUNK):
            rows = new[start : start + _CHUNK]
            searcher.add(rows, keys[rows])
            bar.update(len(rows))
            pause()
            if time.monotonic() - saved >= _SAVE_EVERY:
                files.save(searcher, is_longer=True)
                saved = time.monotonic()
    if recall and len(vectors) <= _MEASURE_AGAIN * searcher.measured:
        searcher.recall = recall
    else:
        searcher.measure(sorts())
        found = ", ".join(f"{value:.3f} for {sort}" for sort, value in searcher.recall.items())
        print(f"recall@10 of {kind} against exact search: {found}", file=sys.stderr)
    files.save(searcher, is_longer=bool(len(new)))
    return searcher


class _Files:
    """The three files of one kind in the folder of an index."""

    def __init__(self, index: ImageIndex, kind: str):
        self.index, self.kind = index, kind
        self.about = index.folder / f"{kind}.json"
        self.version = 0
        self.written: dict[str, list] = {}  # [name, bytes, SHA-256] of "faiss" and "npy"

    def read(self) -> Approximate | None:
        """What the files hold; None if there are none, or if all is to be made anew. A note names damage."""
        try:
            return self._read(load_json(self.about, dict))
        except FileNotFoundError as error:
            if self.about.exists():
                _note(f"{self.about}: damaged ({Path(error.filename).name} is missing); it is built again")
        except (OSError, ValueError) as error:
            _note(f"{self.about}: damaged ({error}); it is built again")
        return None

    def _read(self, about: dict[str, Any]) -> Approximate | None:
        """Raises FileNotFoundError, OSError or ValueError."""
        if take(about, "format", int) != FORMAT or take(about, "settings", dict) != as_written(
            KINDS[self.kind].settings
        ):
            return None  # of another release
        version = take(about, "version", int, lambda version: version > 0)
        written = take(about, "files", dict)
        paths = {end: self._path_of(written, end) for end in ("faiss", "npy")}
        for end, path in paths.items():
            if written[end][1:] != _sum_of(path):
                raise ValueError(f"{path.name} is not what was written")
        table = map_array(paths["npy"], ("u8",), 2)
        if len(table) != 2:
            raise ValueError(f"{paths['npy'].name} has another shape")
        keys, rows = np.array(table[0]), table[1].astype(np.int64)  # GONE becomes -1
        found = _read_faiss(paths["faiss"], self.kind, len(keys), self.index.vectors.shape[1])
        fingerprint, recall = take(about, "vectors", str), take(about, "recall", dict)
        there = rows[rows >= 0]
        if fingerprint == self.index.fingerprint and (
            len(np.unique(there)) != len(there) or there.max(initial=-1) >= len(self.index.images)
        ):
            raise ValueError(f"{paths['npy'].name} names other pictures")
        if not all(isinstance(value, int | float) for value in recall.values()):
            raise ValueError("a recall is no number")
        made_for, measured = (take(about, name, int, lambda count: count >= 0) for name in ("made_for", "measured"))
        effort = take(about, "effort", int, (0, *KINDS[self.kind].efforts).__contains__)
        self.version, self.written = version, written
        counts = made_for, effort, measured
        return Approximate(self.kind, found, keys, rows, self.index.vectors, *counts, recall, fingerprint)

    def _path_of(self, written: dict[str, Any], end: str) -> Path:
        """The file with this ending. Raises ValueError if the description names none in this folder."""
        line = take(written, end, list, lambda line: len(line) == 3)
        if not (isinstance(line[0], str) and re.fullmatch(rf"{self.kind}-[1-9][0-9]*\.{end}", line[0])):
            raise ValueError(f"it names no file {self.kind}-N.{end}")
        return self.index.folder / line[0]

    def save(self, searcher: Approximate, is_longer: bool) -> None:
        """Write the searcher. ``is_longer``: faiss has learned pictures since it was read. Raises OSError."""
        self.version += 1
        name = f"{self.kind}-{self.version}"
        if is_longer or not self.written:
            self.written["faiss"] = _write(self.index.folder / f"{name}.faiss", partial(_write_faiss, searcher.found))
        table = np.stack([searcher.keys, searcher.rows.astype(np.uint64)])  # -1 becomes GONE
        self.written["npy"] = _write(
            self.index.folder / f"{name}.npy", lambda file: np.save(file, table, allow_pickle=False)
        )
        about = {"format": FORMAT, "version": self.version, "vectors": searcher.fingerprint}
        about |= {"settings": KINDS[self.kind].settings, "made_for": searcher.made_for, "effort": searcher.effort}
        about |= {"measured": searcher.measured, "recall": searcher.recall, "files": self.written}
        write_atomically(self.about, json.dumps(about, indent=1) + "\n")
        names = {line[0] for line in self.written.values()}
        for path in self.index.folder.glob(f"{self.kind}-*"):
            if path.name not in names:
                with suppress(OSError):  # Windows: another process has it open
                    path.unlink()


def _write(path: Path, write: Callable[[BinaryIO], None]) -> list:
    """Write a file, whole or not at all. Returns its name, bytes and SHA-256. Raises OSError."""
    with replacing(path) as new:
        with open(new, "wb") as file:
            write(file)
        return [path.name, *_sum_of(new)]


def _sum_of(path: Path) -> list:
    """Bytes and SHA-256 of a file. Raises OSError."""
    with open(path, "rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _write_faiss(found: Any, file: BinaryIO) -> None:
    import faiss

    faiss.write_index(found, faiss.PyCallbackIOWriter(file.write))


def _read_faiss(path: Path, kind: str, positions: int, size: int) -> Any:
    """The faiss index of this kind in a file that is not damaged. Raises ValueError if it is another one."""
    import faiss

    try:
        found = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path.name}: {first_line(error)}") from None
    is_right = (
        isinstance(found, getattr(faiss, KINDS[kind].type_name)) and found.metric_type == faiss.METRIC_INNER_PRODUCT
    )
    if not is_right or (found.ntotal, found.d) != (positions, size):
        raise ValueError(f"{path.name} holds something else")
    return found
