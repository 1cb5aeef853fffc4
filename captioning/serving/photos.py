"""The photos of one folder: an index that is made in the background, searches by words, and copies for the page.

    search --queue--> worker: load the towers, bring the index up to date, answer searches --> Future[Found]

Only the worker touches the towers. While it makes the index, it answers the searches that wait after every batch, from
the photos that are embedded so far. When a search comes ``LOOK_AGAIN`` seconds or more after the last look at the
folder, the worker answers it and then looks for new, changed and vanished photos.

Callers name a photo by its id. Ids lead only to files of the index. Links that leave the folder are never followed.
This module needs no Keras and knows nothing about the web.
Legend: B photos, J size of the joint space.
"""

import hashlib
import io
import os
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import numpy as np

from captioning.base.errors import UserError
from captioning.base.texts import printable
from captioning.pictures.finding import Finder, no_pictures, unlisted
from captioning.pictures.loading import TooLargeImage, UnreadableImage, load_image
from captioning.reports.figures import read_picture
from captioning.retrieval.index import ImageIndex, update
from captioning.retrieval.index_types import attach, random_sentences
from captioning.retrieval.ranking import nearest
from captioning.serving.engine import MAX_MEMORY, TooLarge
from captioning.serving.worker import Worker

if TYPE_CHECKING:
    from captioning.retrieval.aligner import Aligner, Embedded
    from captioning.retrieval.approximate import Approximate

BATCH = 8  # photos that are embedded at a time; a search waits for one batch at most
LOOK_AGAIN = 60  # seconds from one look at the folder to the next
SIDES = {"small": 320, "large": 1600}  # pixels of the longer side of a copy
COPIES = 64 << 20  # bytes of the copies that stay in memory
CAPTIONS = 10_000  # captions that stay in memory

T = TypeVar("T")


class NoPhotos(UserError):
    """No folder of photos was named when the server was started."""

    def __init__(self) -> None:
        super().__init__("no folder of photos can be searched; start the server with: python app.py --photos DIR")


class Gone(UserError):
    """There is no such photo, or it has vanished."""


class BadQuery(UserError):
    """The model knows none of the words."""


class SearchFailed(UserError):
    """The towers or the index cannot be used."""


@dataclass(frozen=True)
class Progress:
    """How far the index is.

    ``indexed`` of ``total`` photos are done. ``unreadable`` of the done ones cannot be read. ``message``: what went
    wrong, or None.
    """

    state: Literal["loading", "indexing", "ready", "failed"] = "loading"
    indexed: int = 0
    total: int = 0
    unreadable: int = 0
    message: str | None = None


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    ``photo``: its id. ``name``: its path in the folder, printable. ``cosine``: how well it goes with the query.
    """

    photo: str
    name: str
    cosine: float


@dataclass(frozen=True)
class Found:
    """The photos for a query, best first. ``searched``: how many were compared. ``unknown``: unknown words."""

    hits: list[Hit]
    unknown: list[str]
    searched: int


class Recent(Generic[T]):
    """A cache of values by key. It keeps the last used values, as long as they weigh at most ``limit`` together."""

    def __init__(self, limit: int, weight: Callable[[T], int]):
        self._limit, self._weight, self._total = limit, weight, 0
        self._values: OrderedDict[object, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> T | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: object, value: T) -> None:
        with self._lock:
            if key in self._values:
                self._total -= self._weight(self._values.pop(key))
            self._values[key] = value
            self._total += self._weight(value)
            while self._total > self._limit:
                self._total -= self._weight(self._values.popitem(last=False)[1])


class _Part(NamedTuple):
    """Photos that can be searched: their names, and unit vectors float32 ``(B, J)``. Spare rows may follow.

    ``whole``: the index that they are all the photos of, if there is one. Then it searches them.
    """

    names: Sequence[str]
    vectors: np.ndarray
    whole: ImageIndex | None = None

    def search(self, query: np.ndarray, count: int) -> list[tuple[float, str]]:
        """The ``count`` photos that are nearest to ``query`` float32 ``(J,)``, best first: cosines and names."""
        if self.whole and self.whole.approximate:
            (rows,), (cosines,) = self.whole.search(query[None], count)
        else:
            everything = self.vectors[: len(self.names)] @ query
            rows = nearest(everything[None], count)[0]
            cosines = everything[rows]
        return [(float(cosine), self.names[row]) for row, cosine in zip(rows.tolist(), cosines, strict=True)]


class _Closing(Exception):
    """The worker is to end."""


@dataclass(frozen=True)
class _Query:
    """A search that waits for its answer."""

    text: str
    limit: int
    future: "Future[Found]"


class Photos(Worker[_Query]):
    """Searches the photos below a folder, for any number of threads.

    It is a context manager, and the worker runs inside its block.
    """

    def __init__(
        self,
        folder: Path,
        load: "Callable[[], Aligner]",
        place: Callable[[str], Path],
        look_again: float = LOOK_AGAIN,
        finder: Finder | None = None,
        index_type: str | None = None,
    ):
        """``load`` loads the towers. ``place`` gives the folder of the index for the fingerprint of the towers.

        ``look_again``: seconds from one look at the folder to the next. ``finder``: which pictures of it are searched.
        ``index_type``: how (see ``retrieval.index_types``).
        """
        super().__init__("searcher", patience=30)  # it may wait for another process that writes the same index
        self.folder, self.name = folder, printable(folder.resolve().name or str(folder.resolve()))
        self.progress = Progress()
        self.captions: Recent[str] = Recent(CAPTIONS, lambda caption: 1)
        self._root = folder.resolve()
        self._load, self._place, self._finder, self._look_again = load, place, finder or Finder(), look_again
        self._index_type = index_type
        self._approximate: Approximate | None = None
        self._left_out: list[str] = []
        self._aligner: Aligner | None = None
        self._parts: list[_Part] = []
        self._names: dict[str, str] = {}  # by id
        self._copies: Recent[bytes] = Recent(COPIES, len)

    def search(self, text: str, limit: int) -> "Future[Found]":
        """Queue a search for the ``limit`` photos that go best with ``text``. The future may hold a UserError.

        That is BadQuery or SearchFailed.
        """
        query = _Query(text, limit, Future())
        self._put([query])
        return query.future

    def key(self, photo: str) -> tuple[str, int, int]:
        """A key of a photo in its present state: its id, size in bytes and time of change. Raises Gone."""
        try:
            found = self._path(photo).stat()
        except OSError:
            raise Gone(self._gone(photo)) from None
        return photo, found.st_size, found.st_mtime_ns

    def pixels(self, photo: str, size: int) -> np.ndarray:
        """The RGB pixels of a photo for a captioner, uint8 ``(size, size, 3)``.

        Raises Gone, TooLarge or UnreadableImage.
        """
        return self._read(photo, lambda path: load_image(path, size, memory=MAX_MEMORY))

    def copy(self, photo: str, size: str) -> bytes:
        """A copy of a photo as JPEG, upright and without metadata. ``size`` is a name in ``SIDES``.

        Raises Gone, TooLarge or UnreadableImage.
        """
        key = (size, *self.key(photo))
        data = self._copies.get(key)
        if data is None:
            file = io.BytesIO()
            picture = self._read(photo, lambda path: read_picture(path, SIDES[size], MAX_MEMORY))
            picture.save(file, "JPEG", quality=85)
            data = file.getvalue()
            self._copies.put(key, data)
        return data

    def _read(self, photo: str, read: Callable[[Path], T]) -> T:
        """The result of ``read`` on the file of a photo. Raises Gone, TooLarge or UnreadableImage."""
        path = self._path(photo)
        name = printable(self._names[photo])
        try:
            return read(path)
        except UnreadableImage as error:  # callers get no path outside the folder
            kind = TooLarge if isinstance(error, TooLargeImage) else UnreadableImage
            raise kind(f"{name}: {str(error).removeprefix(printable(f'{path}: '))}") from None

    def _path(self, photo: str) -> Path:
        """The file of a photo of the index. Raises Gone."""
        name = self._names.get(photo)
        path = None if name is None else self._inside(name)
        if path is None:
            raise Gone(self._gone(photo))
        return path

    def _gone(self, photo: str) -> str:
        return f"{printable(self._names.get(photo, photo))}: there is no such photo, or it has vanished; search again"

    def _inside(self, name: str) -> Path | None:
        """The path of a file in the folder. None if it is missing, or if links lead out of the folder to it.

        Where links to folders are followed, they may lead out of it.
        """
        path = self.folder / name
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            return None
        is_inside = self._finder.follow_links or real.is_relative_to(self._root)
        return path if is_inside and real.is_file() else None

    # What follows runs in the worker.

    def _work(self) -> None:
        while not self._closed:
            try:
                if self._aligner is None:
                    import captioning.retrieval.searching  # noqa: F401  # takes seconds, and the first search needs it

                    self._aligner = self._load()
                    self._aligner.embed_texts(["a"])  # compiles
                self._bring_up_to_date(self._aligner)
            except _Closing:
                return
            except UserError as error:
                self._fail(str(error))
            except Exception:  # the worker must go on
                traceback.print_exc()
                self._fail("the search failed; the log of the server says why")
            self._answer_until_a_look_is_due()

    def _fail(self, message: str) -> None:
        message = printable(message)
        print(f"error: {message}", file=sys.stderr)
        self.progress = replace(self.progress, state="failed", message=message)

    def _list(self) -> dict[str, Path]:
        """The paths of the photos in the folder, by name. Raises UserError if there are none."""

        def report(error: OSError) -> None:
            print(f"left out: {unlisted(error)}", file=sys.stderr)

        paths = {name: self.folder / name for name in sorted(self._finder.names(self.folder, report))}
        paths = {name: path for name, path in paths.items() if not path.is_symlink() or self._inside(name)}
        if not paths:  # the index stays as it is, because the disk of the folder may come back
            raise no_pictures(self.folder, self._finder)
        if (left_out := self._finder.left_out()) != self._left_out:  # it is told once
            self._left_out = left_out
            for line in left_out:
                print(f"note: {line}", file=sys.stderr)
        return paths

    def _bring_up_to_date(self, aligner: "Aligner") -> None:
        """Bring the index up to date with the folder. Raises UserError."""
        paths, source = self._list(), str(self._root)
        place = self._place(aligner.fingerprint)
        if not self._parts and (place / "index.json").exists():
            known = ImageIndex(place)
            if (known.model, known.source) == (aligner.fingerprint, source):
                self._show([_Part(known.images, known.vectors, known)])
        self.progress = Progress("indexing", 0, len(paths))

        def embed(todo: Sequence[str]) -> "Iterator[Embedded]":
            return self._embed(aligner, todo, paths)

        index = update(place, aligner.fingerprint, source, paths, embed, aligner.config.joint_size)
        self._show([_Part(index.images, index.vectors, index)])
        done = len(index.images) + len(index.unreadable)
        self.progress = Progress("ready", done, done, len(index.unreadable))
        self._attach(index, aligner)

    def _attach(self, index: ImageIndex, aligner: "Aligner") -> None:
        """Let the index search as the user wants it. Searches are answered meanwhile. Raises UserError or _Closing."""

        def pause() -> None:
            self._answer()
            if self._closed:
                raise _Closing

        def sentences() -> dict[str, np.ndarray]:
            return {"words": aligner.embed_texts(random_sentences(aligner.vocabulary))}

        self._approximate = attach(index, self._index_type, sentences, pause, self._approximate)

    def _embed(self, aligner: "Aligner", todo: Sequence[str], paths: Mapping[str, Path]) -> "Iterator[Embedded]":
        """Embed the photos ``todo``. Searches find each photo as soon as it is embedded.

        Ends early when the context manager is left.
        """
        left = set(paths) - set(todo)
        kept = [_of_these(part, left) for part in self._parts]
        names: list[str] = []
        vectors = np.empty((len(todo), aligner.config.joint_size), dtype=np.float32)
        self._show([*kept, _Part(names, vectors)])
        self.progress = Progress("indexing", len(left), len(paths))
        for batch, found, reasons in aligner.embed_files(todo, paths, BATCH, aligner.config.workers):
            vectors[len(names) : len(names) + len(found)] = found
            readable = [name for name in batch if name not in reasons]
            self._names |= {_id_of(name): name for name in readable}
            names += readable
            before = self.progress
            self.progress = replace(
                before, indexed=before.indexed + len(batch), unreadable=before.unreadable + len(reasons)
            )
            yield batch, found, reasons
            self._answer()
            if self._closed:
                return

    def _show(self, parts: list[_Part]) -> None:
        """Make the photos of ``parts`` the ones that searches find."""
        self._names |= {_id_of(name): name for part in parts for name in part.names}
        self._parts = parts

    def _answer_until_a_look_is_due(self) -> None:
        """Answer searches until one comes ``look_again`` seconds or more after now, or until the worker is closed."""
        begun = time.monotonic()
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
            self._answer()
            if time.monotonic() - begun >= self._look_again:
                return

    def _answer(self) -> None:
        """Answer the searches that wait."""
        while self._jobs and not self._closed:
            query = self._jobs.popleft()
            if not query.future.set_running_or_notify_cancel():
                continue
            try:
                query.future.set_result(self._find(query.text, query.limit))
            except BaseException as error:  # the caller must learn of any error, and the worker must go on
                query.future.set_exception(error)

    def _find(self, text: str, limit: int) -> Found:
        """The photos for a query. Raises BadQuery or SearchFailed."""
        from captioning.retrieval.searching import unknown_words

        if self._aligner is None or (self.progress.state == "failed" and not self._parts):
            raise SearchFailed(self.progress.message or "the towers are not loaded; try again")
        try:
            unknown = unknown_words(text, self._aligner.vocabulary)
        except UserError as error:
            raise BadQuery(str(error)) from None
        query = self._aligner.embed_texts([text])[0]
        searched, count = sum(len(part.names) for part in self._parts), limit
        while True:
            nearest = sorted(
                (hit for part in self._parts for hit in part.search(query, count)), key=lambda hit: -hit[0]
            )
            hits = [hit for hit in nearest[:count] if self._inside(hit[1])]  # others have vanished
            if len(hits) >= limit or count >= searched:
                break
            count *= 2
        found = [Hit(_id_of(name), printable(name), cosine) for cosine, name in hits[:limit]]
        return Found(found, unknown, searched)


def _id_of(name: str) -> str:
    """The id of a photo: 16 hex digits of a hash of its name."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _of_these(part: _Part, names: set[str]) -> _Part:
    """The photos of ``part`` that are in ``names``."""
    rows = [row for row, name in enumerate(part.names) if name in names]
    if len(rows) == len(part.names):
        return part
    return _Part([part.names[row] for row in rows], part.vectors[rows])
