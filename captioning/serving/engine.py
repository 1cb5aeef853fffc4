"""The engine of the server: one thread captions for many callers. It captions pictures together that arrive together.

    place --> read_upload --> submit --queue--> worker: encode, greedy and beam search, once per batch -->
    Future[Result]

Only the worker touches the captioners. It waits ``WINDOW`` seconds for more pictures of the same model and decoding.
Every batch is filled up to one of the sizes in ``BATCHES``, so nothing is compiled under load. A caller takes a place
first. When all places are taken, the caller gets Busy at once, so neither the queue nor memory grows with the number of
callers.

This module needs no Keras, because each model says how it is loaded. It knows nothing about the web.
Legend: S pixels per side, T words.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from captioning.base.errors import UserError
from captioning.base.texts import printable
from captioning.pictures.loading import TooLargeImage, UnknownFormat, UnreadableImage, load_image, measure
from captioning.pictures.opening import Tell
from captioning.reports.figures import grid_side
from captioning.search.captions import Caption, PictureCaptioner
from captioning.serving.worker import Worker
from config import Config

BATCHES = (1, 2, 4, 8, 16)  # the only sizes of batches that encoder and search see
WINDOW = 0.01  # seconds that a picture waits for others
PLACES = 64  # pictures in work at a time: received, decoded, waiting or captioned
KEPT = 2  # captioners that stay in memory, the last used
MAX_BEAM = 10  # largest beam size; each size is compiled at its first use
# A PNG of a few kilobytes can hold very many equal pixels. Phones take pictures of up to 50 megapixels.
MAX_PIXELS = 50_000_000
# A picture may take this many bytes while it is decoded. Above SMALL it waits for other large ones.
MAX_MEMORY = 400 << 20
SMALL = 64 << 20
_ANY = 1 << 60
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_SMALLER = "send a smaller copy (one megapixel is enough for captions)"


class Busy(Exception):
    """All places are taken. ``retry_after``: seconds to wait before another try."""

    def __init__(self, retry_after: int):
        super().__init__(f"too many pictures at once; try again in {retry_after} s")
        self.retry_after = retry_after


class TooLarge(UserError):
    """A picture with more than ``MAX_PIXELS`` pixels, or one that would take more than ``MAX_MEMORY``."""


class WrongType(UserError):
    """Not a picture, or a picture in a format that is not read."""


class Decoding(NamedTuple):
    """The decoding settings that a caller may choose. All others are the model's own."""

    beam_size: int
    length_penalty: float


@dataclass(frozen=True)
class Model:
    """A captioner that callers can choose.

    ``config``: its settings. ``attends``: whether it has attention to show. ``load``: how to load it. ``graphs``: the
    folder of its ONNX export, if visitors' browsers caption by it.
    """

    name: str
    config: Config
    attends: bool
    load: Callable[[], PictureCaptioner]
    graphs: Path | None = None

    def decoding(self, beam_size: int | None = None, length_penalty: float | None = None) -> Decoding:
        """The decoding that a caller asks for. None takes the model's own value. Raises UserError for a bad value."""
        chosen = Decoding(
            min(self.config.beam_size, MAX_BEAM) if beam_size is None else beam_size,
            self.config.length_penalty if length_penalty is None else length_penalty,
        )
        if chosen.beam_size > MAX_BEAM:
            raise UserError(f"beam_size: at most {MAX_BEAM} here, got {beam_size}")
        self.config.with_overrides(chosen._asdict(), "the request")
        return chosen

    def search(self, decoding: Decoding) -> Config:
        """The model's settings, changed to this decoding."""
        return self.config.with_overrides(decoding._asdict())


@dataclass(frozen=True)
class Attention:
    """Where the decoder looked for each of T ``words``.

    ``weights`` float32 ``(T, side * side)``: shares of the attention. The columns go through the grid row by row, and
    the grid covers the whole picture. ``sentinel`` float32 ``(T,)``: the share that went to no region. It is None for
    decoders without a sentinel.
    """

    words: list[str]
    side: int
    weights: np.ndarray
    sentinel: np.ndarray | None


@dataclass(frozen=True)
class Result:
    """The captions of a picture: the greedy caption, and the captions of the beam, best first.

    ``attention`` is for the captions of the beam, in the same order. It is empty if the caller did not ask for it.
    """

    greedy: Caption
    captions: list[Caption]
    greedy_attention: Attention | None = None
    attention: list[Attention] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """A picture that waits for its captions. ``pixels``: uint8 RGB ``(S, S, 3)``."""

    model: Model
    decoding: Decoding
    attention: bool
    pixels: np.ndarray
    future: "Future[Result]"


class Engine(Worker[_Job]):
    """Captions pictures for any number of threads. It is a context manager, and the worker runs inside its block."""

    def __init__(self, models: Sequence[Model], places: int = PLACES, window: float = WINDOW):
        """``models``: the captioners to choose from, the default first."""
        super().__init__("captioner")
        self.models = {model.name: model for model in models}
        self.default = models[0]
        self._places, self._taken, self._window = places, 0, window
        self._pace = 0.1  # seconds per picture, a moving average
        self._captioners: OrderedDict[str, PictureCaptioner] = OrderedDict()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while a picture is received and captioned. Raises Busy if all places are taken."""
        with self._changed:
            if self._taken >= self._places:
                raise Busy(min(60, math.ceil(self._taken * self._pace)))
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1

    def submit(self, model: Model, pixels: np.ndarray, decoding: Decoding, attention: bool = False) -> "Future[Result]":
        """Queue one picture, RGB uint8 ``(S, S, 3)``. S is the model's image size. The future may hold any error."""
        (future,) = self._submit(model, [pixels], decoding, attention)
        return future

    def warm_up(self) -> None:
        """Load the default model and compile its own decoding for every size of batch.

        Raises UserError if the model cannot be loaded.
        """
        model = self.default
        black = np.zeros((model.config.image_size, model.config.image_size, 3), np.uint8)
        for size in BATCHES:
            for future in self._submit(model, [black] * size, model.decoding(), model.attends):
                future.result()

    @property
    def places(self) -> tuple[int, int]:
        """The places that are taken, and all places."""
        return self._taken, self._places

    def leave_out(self, model: Model) -> None:
        """Offer ``model`` no more. If it was the default, the next one is. There must be another one."""
        del self.models[model.name]
        self.default = next(iter(self.models.values()))

    def _submit(
        self, model: Model, pictures: Sequence[np.ndarray], decoding: Decoding, attention: bool
    ) -> "list[Future[Result]]":
        jobs = [_Job(model, decoding, attention and model.attends, pixels, Future()) for pixels in pictures]
        self._put(jobs)
        return [job.future for job in jobs]

    def _work(self) -> None:
        while batch := self._next_batch():
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if not batch:
                continue
            began = time.monotonic()
            try:
                results = self._caption(batch)
            except BaseException as error:  # the callers must learn of any error, and the worker must go on
                for job in batch:
                    job.future.set_exception(error)
                continue
            self._pace += 0.2 * ((time.monotonic() - began) / len(batch) - self._pace)
            for job, result in zip(batch, results, strict=True):
                job.future.set_result(result)

    def _next_batch(self) -> list[_Job]:
        """The oldest job, and others with the same model and decoding. Empty once the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return []
            key = self._jobs[0].model.name, self._jobs[0].decoding

            def alike() -> list[_Job]:
                return [job for job in self._jobs if (job.model.name, job.decoding) == key][: BATCHES[-1]]

            self._changed.wait_for(lambda: self._closed or len(alike()) == BATCHES[-1], self._window)
            batch = alike()
            chosen = set(map(id, batch))
            self._jobs = deque(job for job in self._jobs if id(job) not in chosen)
            return batch

    def _caption(self, batch: list[_Job]) -> list[Result]:
        """The result of each job. All jobs have the same model and decoding."""
        model, decoding = batch[0].model, batch[0].decoding
        captioner = self._captioner(model)
        size = next(size for size in BATCHES if size >= len(batch))
        pixels = np.zeros((size, *batch[0].pixels.shape), np.uint8)
        for row, job in zip(pixels, batch, strict=False):
            row[:] = job.pixels
        features = captioner.encode(pixels)
        greedy = captioner.caption(features, model.search(decoding._replace(beam_size=1)))
        beams = greedy
        if decoding.beam_size > 1:
            beams = captioner.caption(features, model.search(decoding))
        results = [Result(alone[0], found) for alone, found in zip(greedy, beams, strict=True)][: len(batch)]
        wanted = [i for i, job in enumerate(batch) if job.attention]
        if wanted:
            self._add_attention(captioner, features, results, wanted)
        return results

    def _add_attention(
        self, captioner: PictureCaptioner, features: np.ndarray, results: list[Result], wanted: list[int]
    ) -> None:
        """Add the attention of all captions to the results whose numbers are ``wanted``."""
        try:
            side = grid_side(captioner.regions)
        except UserError:
            return  # the regions are no square grid, so nothing can be laid over a picture
        captions = [(i, caption.text) for i in wanted for caption in (results[i].greedy, *results[i].captions)]
        weights = captioner.attend(features[[i for i, _ in captions]], [text for _, text in captions])
        split = captioner.vocabulary.split
        # The last row of the weights is that of <end>, which is no word.
        looks = iter(
            [_attention(split(text), found[:-1], side) for (_, text), found in zip(captions, weights, strict=True)]
        )
        for i in wanted:
            first, *others = (next(looks) for _ in range(1 + len(results[i].captions)))
            results[i] = Result(results[i].greedy, results[i].captions, first, others)

    def _captioner(self, model: Model) -> PictureCaptioner:
        """The captioner of ``model``. Loading it may remove the least recently used captioner from memory."""
        if model.name not in self._captioners:
            while len(self._captioners) >= KEPT:
                self._captioners.popitem(last=False)
            self._captioners[model.name] = model.load()
        self._captioners.move_to_end(model.name)
        return self._captioners[model.name]


def _attention(words: list[str], weights: np.ndarray, side: int) -> Attention:
    """The attention for T ``words``.

    ``weights`` float32 ``(T, side * side)``, or with one more column, the sentinel.
    """
    regions = side * side
    return Attention(words, side, weights[:, :regions], weights[:, regions] if weights.shape[1] > regions else None)


def memory_for(file: BinaryIO, name: str, size: int) -> int:
    """About how many bytes it takes to read an uploaded picture for ``size`` pixels. Only its header is read.

    ``name`` is for messages. Raises WrongType if it is in none of ``FORMATS``, TooLarge if it has more than
    ``MAX_PIXELS`` pixels, too long a side, or would take more than ``MAX_MEMORY``, and UnreadableImage if it is
    damaged.
    """
    with _named(name):
        needed, (width, height) = measure(file, size, FORMATS, _ANY)
    if width * height > MAX_PIXELS:
        raise TooLarge(f"{printable(name)}: more than {MAX_PIXELS // 10**6} megapixels; {_SMALLER}")
    if needed > MAX_MEMORY:
        raise TooLarge(f"{printable(name)}: its format needs {needed >> 20:,} MiB for so many pixels; {_SMALLER}")
    return needed


def read_upload(file: BinaryIO, name: str, size: int, tell: Tell | None = None) -> np.ndarray:
    """The RGB pixels of an uploaded picture, uint8 ``(size, size, 3)``, made as in training. ``name`` is for messages.

    ``tell`` gets what the sender should know of a damaged picture that was read all the same. Raises what
    ``memory_for`` does, before the pixels are decoded.
    """
    memory_for(file, name, size)

    def told(note: str) -> None:
        if tell is not None:
            tell(f"{printable(name)}: {_without_name(note)}")

    with _named(name):
        return load_image(file, size, told, FORMATS, MAX_MEMORY)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn the errors of reading a picture into those that callers get. The file has no name of its own."""
    name = printable(name)
    try:
        yield
    except UnknownFormat:
        raise WrongType(
            f"{name}: not a picture in a format that this server reads; send {', '.join(FORMATS)}"
        ) from None
    except TooLargeImage as error:
        reason = _without_name(_without_name(str(error))).partition("; ")[0]
        raise TooLarge(f"{name}: {reason}; {_SMALLER}") from None
    except UnreadableImage as error:
        raise UnreadableImage(f"{name}: {_without_name(str(error))}") from None


def _without_name(message: str) -> str:
    """A message without what it begins with, up to the colon."""
    return message.partition(": ")[2]
