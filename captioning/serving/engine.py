"""Serving: many callers, one thread that captions; pictures that come together are captioned together.

    place --> read_picture --> submit --queue--> worker: encode, greedy and beam search, once per batch --> Future[Result]

The worker alone touches the captioners. It waits ``WINDOW`` seconds for more pictures of the same model and decoding, and
fills every batch up to one of ``BATCHES``, so that nothing is compiled anew under load. Whoever wants something takes a
place first; when all are taken the answer is Busy at once, so that neither queue nor memory grow with the crowd.

Needs no Keras and knows nothing of the web: each model says how it is loaded.
"""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from captioning.base.errors import UserError
from captioning.pictures.loading import UnreadableImage, load_image
from captioning.reports.figures import grid_side
from config import Config

if TYPE_CHECKING:
    from model import Caption, Captioner

# Encoder and search see batches of these sizes only.
BATCHES = (1, 2, 4, 8, 16)
WINDOW = 0.01  # seconds that a picture waits for others
PLACES = 64  # pictures that are being received, decoded, waiting or captioned
KEPT = 2  # captioners in memory, the last ones used
MAX_BEAM = 10  # each beam size is a compilation of its own
# Half a kilobyte of PNG can hold any number of equal pixels; 50 megapixels are what the largest phones take.
MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class Busy(Exception):
    """All places are taken. ``retry_after``: seconds after which it is worth another try."""

    def __init__(self, retry_after: int):
        super().__init__(f"too many pictures at once; try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The engine has been stopped."""


class TooLarge(UserError):
    """A picture with more pixels than are decoded for a stranger."""


class WrongType(UserError):
    """Not a picture, or of a format that is not read."""


class Decoding(NamedTuple):
    """What a caller may choose; everything else of the search is the model's own."""

    beam_size: int
    length_penalty: float


@dataclass(frozen=True)
class Model:
    """A captioner that can be chosen. ``config``: its settings; ``attends``: whether it has attention to show."""

    name: str
    config: Config
    attends: bool
    load: Callable[[], "Captioner"]

    def decoding(self, beam_size: int | None = None, length_penalty: float | None = None) -> Decoding:
        """The decoding a caller asks for, by default the model's own. Raises UserError."""
        chosen = {
            "beam_size": min(self.config.beam_size, MAX_BEAM) if beam_size is None else beam_size,
            "length_penalty": self.config.length_penalty if length_penalty is None else length_penalty,
        }
        if chosen["beam_size"] > MAX_BEAM:
            raise UserError(f"beam_size: at most {MAX_BEAM} here, got {beam_size}")
        self.config.with_overrides(chosen, "the request")
        return Decoding(**chosen)

    def search(self, decoding: Decoding) -> Config:
        """The model's settings with this decoding."""
        return self.config.with_overrides(decoding._asdict())


@dataclass(frozen=True)
class Attention:
    """Where the decoder looked for each of T words.

    ``weights`` float32 ``(T, side * side)``, row by row of the grid that covers the picture; ``sentinel`` float32
    ``(T,)``, the share that went to no region at all, of decoders that have one.
    """

    side: int
    weights: np.ndarray
    sentinel: np.ndarray | None


@dataclass(frozen=True)
class Result:
    """The captions of a picture: the greedy one, and those of the beam, best first; with attention in the same order."""

    greedy: "Caption"
    captions: list["Caption"]
    greedy_attention: Attention | None = None
    attention: list[Attention] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    model: Model
    decoding: Decoding
    attention: bool
    pixels: np.ndarray
    future: Future


class Engine:
    """Captions pictures for any number of threads. A context manager: the worker lives as long as the block."""

    def __init__(self, models: Sequence[Model], places: int = PLACES, window: float = WINDOW):
        """``models``: what can be chosen, the default first."""
        self.models = {model.name: model for model in models}
        self.default = models[0]
        self._places, self._taken, self._window = places, 0, window
        self._pace = 0.1  # seconds per picture, a moving average
        self._captioners: OrderedDict[str, Captioner] = OrderedDict()
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="captioner")

    def __enter__(self) -> "Engine":
        self._worker.start()
        return self

    def __exit__(self, *_) -> None:
        """Finish the batch at hand and refuse what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while a picture is received and captioned. Raises Busy when all are taken."""
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
        """Queue one picture, uint8 RGB ``(S, S, 3)`` of the model's image size. The future may hold any error."""
        (future,) = self._submit(model, [pixels], decoding, attention)
        return future

    def warm_up(self) -> None:
        """Load the default model and compile its own decoding for every size of batch. Raises UserError."""
        model = self.default
        black = np.zeros((model.config.image_size, model.config.image_size, 3), np.uint8)
        for size in BATCHES:
            for future in self._submit(model, [black] * size, model.decoding(), model.attends):
                future.result()

    def _submit(
        self, model: Model, pictures: Sequence[np.ndarray], decoding: Decoding, attention: bool
    ) -> list[Future]:
        jobs = [_Job(model, decoding, attention and model.attends, pixels, Future()) for pixels in pictures]
        with self._changed:
            if self._closed:
                raise Closed("the server is stopping")
            self._jobs.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def _work(self) -> None:
        while batch := self._next_batch():
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if not batch:
                continue
            began = time.monotonic()
            try:
                results = self._caption(batch)
            except BaseException as error:  # whatever it is, the callers must hear of it and the worker live on
                for job in batch:
                    job.future.set_exception(error)
                continue
            self._pace += 0.2 * ((time.monotonic() - began) / len(batch) - self._pace)
            for job, result in zip(batch, results, strict=True):
                job.future.set_result(result)
        for job in self._jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Closed("the server is stopping"))

    def _next_batch(self) -> list[_Job]:
        """The oldest job and those that can be done with it; none once the engine is closed."""
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
            self._look(captioner, features, results, wanted)
        return results

    def _look(self, captioner: "Captioner", features: np.ndarray, results: list[Result], wanted: list[int]) -> None:
        """Put the attention of all their captions into the results ``wanted``."""
        try:
            side = grid_side(captioner.decoder.sizes["regions"])
        except UserError:
            return  # no square grid: there is nothing that could be laid over a picture
        told = [(i, caption.text) for i in wanted for caption in (results[i].greedy, *results[i].captions)]
        weights = iter(captioner.attend(features[[i for i, _ in told]], [text for _, text in told]))
        for i in wanted:
            first, *others = (
                _attention(next(weights)[:-1], side) for _ in range(1 + len(results[i].captions))
            )  # without that of the end
            results[i] = Result(results[i].greedy, results[i].captions, first, others)

    def _captioner(self, model: Model) -> "Captioner":
        """The model's captioner, loaded if need be; of the others the last used stay in memory."""
        if model.name not in self._captioners:
            while len(self._captioners) >= KEPT:
                self._captioners.popitem(last=False)
            self._captioners[model.name] = model.load()
        self._captioners.move_to_end(model.name)
        return self._captioners[model.name]


def _attention(weights: np.ndarray, side: int) -> Attention:
    regions = side * side
    return Attention(side, weights[:, :regions], weights[:, regions] if weights.shape[1] > regions else None)


def read_picture(file: BinaryIO, name: str, size: int) -> np.ndarray:
    """The pixels of a stranger's picture, uint8 RGB ``(size, size, 3)``, as training saw them.

    Raises WrongType for what is none of ``FORMATS``, TooLarge above ``MAX_PIXELS`` (before they are decoded) and
    UnreadableImage for a damaged one.
    """
    try:
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
    except UnidentifiedImageError:
        raise WrongType(f"{name}: not a picture of a kind that is read here; send {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise TooLarge(_too_large(name)) from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged files.
        raise UnreadableImage(f"{name}: cannot be read as a picture: {error}") from None
    if width * height > MAX_PIXELS:
        raise TooLarge(_too_large(name))
    file.seek(0)
    try:
        return load_image(file, size)
    except UnreadableImage as error:
        # A file without a name of its own leads the message with something else.
        raise UnreadableImage(f"{name}: {str(error).partition(': ')[2]}") from None


def _too_large(name: str) -> str:
    return f"{name}: more than {MAX_PIXELS // 10**6} megapixels; send a smaller copy (captions need no more than one)"
