"""Read pictures into RGB arrays of a fixed size, in one way for training and inference. Needs no Keras."""

import errno
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageEnhance, UnidentifiedImageError

from captioning.base.errors import UserError, first_line
from captioning.base.texts import printable
from captioning.pictures.decoding import decode, needed_for
from captioning.pictures.extra_formats import is_raw, no_preview, raw_preview
from captioning.pictures.finding import is_address
from captioning.pictures.opening import FORMATS, MAX_MEMORY, Tell, TooLargeError, file_of

# The name of what load_image and load_varied do, in the fingerprints of feature stores. Change the version whenever
# their pixels change. Pictures that were refused or black before, such as damaged ones, do not count.
PREPROCESSING = "exif-rgb-squash-bicubic-v1"

# The ways in which ``view`` shows a picture.
VIEWS = ("whole", "mirrored", "middle", "middle-mirrored")
MIRRORED = VIEWS.index("mirrored")

T = TypeVar("T")

# A picture from the web may have this many bytes.
_MAX_DOWNLOAD = 50 << 20
_DOWNLOAD_SECONDS = 60  # in which it must arrive


class UnreadableImage(UserError):
    """A file that is no readable picture. The message names the file and the reason."""


class UnknownFormat(UnreadableImage):
    """A file that is no picture, or one in a format that is not read."""


class TooLargeImage(UnreadableImage):
    """A picture that would take too much memory or time. It was not decoded."""


class UnreachableImage(UnreadableImage):
    """A file that could not be opened or read (no permission, a failing disk, a missing file). It may work later."""


def load_image(
    source: str | Path | BinaryIO,
    size: int,
    tell: Tell | None = None,
    formats: Sequence[str] = FORMATS,
    memory: int = MAX_MEMORY,
) -> np.ndarray:
    """Decode a picture and resize it to ``size`` x ``size`` pixels, whatever its proportions.

    ``source`` is a path or a binary file object. Resampling is Pillow's antialiased bicubic. A picture that has this
    size is not resampled. ``tell``, ``formats`` and ``memory``: see ``open_picture``.

    Returns uint8 ``(size, size, 3)``, RGB 0-255. Raises UnreadableImage.
    """
    image = open_picture(source, size, tell, formats, memory)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image)


def load_varied(
    source: str | Path | BinaryIO,
    size: int,
    crop: float,
    colour_jitter: float,
    rng: np.random.Generator,
    tell: Tell | None = None,
    erase: float = 0.0,
) -> np.ndarray:
    """For training: a random crop of a picture in randomly changed colours, resized to ``size`` x ``size`` pixels.

    The crop keeps a share of the area between ``crop`` and 1. It is up to a third wider or narrower than the picture
    (Szegedy et al., 2015, https://arxiv.org/abs/1409.4842). Brightness, contrast and saturation are each multiplied by
    a factor between ``1 - colour_jitter`` and ``1 + colour_jitter``. ``tell``: see ``open_picture``. ``erase``: the
    probability that a part is erased (``erase_rectangle``).

    Returns uint8 ``(size, size, 3)``, RGB 0-255. Raises UnreadableImage.
    """
    image = open_picture(source, round(size / crop**0.5), tell)
    area = rng.uniform(crop, 1)
    aspect = np.exp(rng.uniform(-1, 1) * min(np.log(4 / 3), -np.log(area)))
    width, height = (area * aspect) ** 0.5, (area / aspect) ** 0.5
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    scale = np.asarray([image.width, image.height] * 2)
    box = tuple(np.asarray([left, top, left + width, top + height]) * scale)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - colour_jitter, 1 + colour_jitter))
    pixels = np.array(image)
    # Nothing is drawn without erasing, so the pixels are those of before then.
    return erase_rectangle(pixels, rng) if erase and rng.random() < erase else pixels


def erase_rectangle(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture in which a random rectangle is noise: random erasing.

    This is algorithm 1 of Zhong et al. (2020, https://arxiv.org/abs/1708.04896) with the ranges of the paper. The
    rectangle has 2% to 40% of the area. Its height is 0.3 to 1 / 0.3 times its width. Rectangles are drawn until one
    lies inside the picture. Each of its numbers is drawn between 0 and 255 ("RE-R" in the paper).

    ``pixels`` are uint8 ``(S, S, 3)``, and so is the result.
    """
    size = len(pixels)
    while True:
        area, aspect = rng.uniform(0.02, 0.4) * size * size, rng.uniform(0.3, 1 / 0.3)
        height, width = max(1, round((area * aspect) ** 0.5)), max(1, round((area / aspect) ** 0.5))
        top, left = rng.integers(0, size, 2)
        if top + height <= size and left + width <= size:
            break
    erased = pixels.copy()
    erased[top : top + height, left : left + width] = rng.integers(0, 256, (height, width, 3))
    return erased


def view(pixels: np.ndarray, number: int) -> np.ndarray:
    """One of four views of a picture. Training may use mirrored ones; captioning may average over all four.

    ``pixels`` are uint8 ``(S, S, 3)``, and so is the view. ``number`` is the place of the view in ``VIEWS``. Mirrored:
    left and right are swapped. Middle: 85% of both sides, enlarged to ``S``.
    """
    if number >= 2:
        size = len(pixels)
        margin = 0.075 * size
        box = (margin, margin, size - margin, size - margin)
        pixels = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1] if number % 2 else pixels


def open_picture(
    source: str | Path | BinaryIO,
    size: int,
    tell: Tell | None = None,
    formats: Sequence[str] = FORMATS,
    memory: int = MAX_MEMORY,
) -> Image.Image:
    """Decode a picture that will be resized to ``size`` pixels. It is upright, RGB and in its own proportions.

    EXIF orientation is applied, and transparency is laid over white. Greyscale and colours of more than 8 bits are
    scaled by the values that are there. An animation gives its first frame that shows something. A damaged picture
    gives what is there of it, if that is a quarter at least, and damaged metadata is ignored. ``tell`` gets what a user
    should know of such a picture, with its name. RAW files give the preview that the camera has put into them.

    Only ``formats`` are read, and only pictures that take at most ``memory`` bytes. Raises UnreadableImage.
    """
    name = _name(source)

    def tell_of(found: str) -> None:
        if tell is not None:
            tell(f"{name}: {printable(found)}")

    with _unreadable_if_failing(name), file_of(source) as file:
        if is_raw(name):
            preview, orientation = raw_preview(file)
            try:
                return decode(preview, size, tell_of, formats, memory, orientation)
            except (TooLargeError, MemoryError, Image.DecompressionBombError):
                raise
            except Exception as error:  # of a file that is cut off, LibRaw gives random memory as the rest of a preview
                raise no_preview(_reason(error)) from None
        return decode(file, size, tell_of, formats, memory)


def measure(
    source: str | Path | BinaryIO, size: int, formats: Sequence[str] = FORMATS, memory: int = MAX_MEMORY
) -> tuple[int, tuple[int, int]]:
    """About how many bytes ``open_picture`` would take, and the width and height.

    Decodes nothing, and raises what it would.
    """
    with _unreadable_if_failing(_name(source)), file_of(source) as file:
        return needed_for(file, size, formats, memory)


def _name(source: str | Path | BinaryIO) -> str:
    """What messages call a picture."""
    return printable(str(source if isinstance(source, str | Path) else getattr(source, "name", "the given image data")))


@contextmanager
def _unreadable_if_failing(name: str) -> Iterator[None]:
    """Turn any error into UnreadableImage, which has the ``name`` of the picture."""
    try:
        yield
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged files
        raise _kind(error)(f"{name}: cannot be read as a picture: {printable(_reason(error))}") from None


def load_ahead(
    pool: Executor,
    batches: Iterable[Sequence[str]],
    load: Callable[[str], np.ndarray],
    image_size: int,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, dict[int, UnreadableImage]]]:
    """The pixels of each batch of names, and the errors of unreadable pictures by their position in the batch.

    The threads of ``pool`` decode one batch ahead. ``load(name)`` gives uint8 pixels ``(S, S, 3)`` or raises
    UnreadableImage. The pixels of a batch are uint8 ``(batch_size, S, S, 3)`` with ``S = image_size``. They are zeros
    where there is no picture, so that an encoder sees one shape only.
    """

    def attempt(name: str) -> np.ndarray | UnreadableImage:
        try:
            return load(name)
        except UnreadableImage as error:
            return error

    for futures in behind([pool.submit(attempt, name) for name in batch] for batch in batches):
        results = [future.result() for future in futures]
        reasons = {j: result for j, result in enumerate(results) if isinstance(result, UnreadableImage)}
        pixels = np.zeros((batch_size, image_size, image_size, 3), dtype=np.uint8)
        for j, result in enumerate(results):
            if not isinstance(result, UnreadableImage):
                pixels[j] = result
        yield pixels, reasons


def behind(items: Iterable[T], count: int = 1) -> Iterator[T]:
    """The items. Each is given only when the next ``count`` of them have been started."""
    held: deque[T] = deque()
    for item in items:
        held.append(item)
        if len(held) > count:
            yield held.popleft()
    yield from held


def open_source(source: str) -> str | io.BytesIO:
    """What Pillow can open: a path as it is, or the bytes behind a web address. Raises UnreadableImage."""
    if not is_address(source):
        return source
    from captioning.base.addresses import Unfetched, fetch

    try:
        data = fetch(source, _MAX_DOWNLOAD, _DOWNLOAD_SECONDS)
    except Unfetched as error:
        raise UnreadableImage(printable(f"{source}: cannot be fetched: {error}")) from None
    if len(data) > _MAX_DOWNLOAD:
        raise UnreadableImage(f"{printable(source)}: larger than {_MAX_DOWNLOAD >> 20} MiB")
    picture = io.BytesIO(data)
    picture.name = source  # open_picture's messages name it
    return picture


def _kind(error: Exception) -> type[UnreadableImage]:
    """What kind of unreadable picture an error tells of."""
    if isinstance(error, UnidentifiedImageError):
        return UnknownFormat
    if isinstance(error, TooLargeError | Image.DecompressionBombError):
        return TooLargeImage
    # An OSError of Pillow's own has no number. Only seeking to where a damaged file points gives EINVAL.
    of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    return UnreachableImage if of_system else UnreadableImage


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        return f"no picture format that is read here ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombError):
        refused = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than {refused // 10**6} megapixels; make it smaller"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
