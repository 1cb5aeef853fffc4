"""Read pictures into fixed-size RGB arrays: the one pixel recipe of training and inference. Needs no Keras."""

import errno
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError

from captioning.base.errors import UserError

# Names the recipes of load_image and load_varied in feature-store fingerprints: change the version whenever their pixels
# change.
PREPROCESSING = "exif-rgb-squash-bicubic-v1"

# The ways of ``view``.
VIEWS = ("whole", "mirrored", "middle", "middle-mirrored")
MIRRORED = VIEWS.index("mirrored")

T = TypeVar("T")

# Pillow warns at half of the pixels that it refuses; such a picture of one's own is no reason to.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

SUFFIXES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Of pictures that phones write and Pillow cannot read: found in folders, so that they are reported.
_UNREADABLE = {".heic", ".heif"}
_FOUND = SUFFIXES | _UNREADABLE

# A picture from the web may not be larger than this many bytes.
_MAX_DOWNLOAD = 50 << 20


class UnreadableImage(UserError):
    """A file that cannot be decoded as a picture. The message names the file and the reason."""


class UnreachableImage(UnreadableImage):
    """A file that the system did not let us read (rights, a failing disk, gone meanwhile), and may another time."""


def load_image(source: str | Path | BinaryIO, size: int) -> np.ndarray:
    """Decode a picture and squash it to ``size`` x ``size`` pixels.

    ``source`` is a path or a binary file object. Resampling is Pillow's antialiased bicubic; a picture that has the size
    already is not resampled.

    Returns uint8 ``(size, size, 3)``, RGB 0-255. Raises UnreadableImage.
    """
    image = open_picture(source, size)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image)


def load_varied(
    source: str | Path, size: int, crop: float, colour_jitter: float, rng: np.random.Generator
) -> np.ndarray:
    """A random crop of a picture in randomly changed colours, squashed to ``size`` x ``size`` pixels, for training.

    The crop keeps a share of the area between ``crop`` and 1 and is up to a third wider or narrower than the picture
    (Szegedy et al., 2015, https://arxiv.org/abs/1409.4842). Brightness, contrast and saturation are each multiplied by
    up to ``1 +- colour_jitter``.

    Returns uint8 ``(size, size, 3)``, RGB 0-255. Raises UnreadableImage.
    """
    image = open_picture(source, round(size / crop**0.5))
    area = rng.uniform(crop, 1)
    aspect = np.exp(rng.uniform(-1, 1) * min(np.log(4 / 3), -np.log(area)))
    width, height = (area * aspect) ** 0.5, (area / aspect) ** 0.5
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    scale = np.asarray([image.width, image.height] * 2)
    box = tuple(np.asarray([left, top, left + width, top + height]) * scale)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - colour_jitter, 1 + colour_jitter))
    return np.array(image)


def view(pixels: np.ndarray, number: int) -> np.ndarray:
    """A picture looked at in one of four ways: mirrored for training, in all of them for captioning with an average.

    ``pixels`` uint8 ``(S, S, 3)``; ``number`` is that of one of ``VIEWS``. Mirrored: left and right swapped. Middle: 85% of
    both sides, enlarged to ``S``.
    """
    if number >= 2:
        size = len(pixels)
        margin = 0.075 * size
        box = (margin, margin, size - margin, size - margin)
        pixels = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1] if number % 2 else pixels


def open_picture(source: str | Path | BinaryIO, size: int) -> Image.Image:
    """Decode a picture that is to be shrunk to ``size`` pixels: upright, RGB, in its own proportions.

    EXIF orientation is applied, transparency is laid over white, 16-bit greyscale keeps its high byte, and of an
    animation the first frame is read. Raises UnreadableImage.
    """
    try:
        with Image.open(source) as image:
            # JPEG may decode at a half, quarter or eighth, but never below twice the size that is resampled to. That is
            # five times as fast on 12 megapixels. On COCO photographs it moved pixels by 0.7 grey levels on average,
            # and single ones on hard edges by up to 50.
            image.draft(None, (2 * size, 2 * size))
            return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged files.
        name = source if isinstance(source, (str, Path)) else getattr(source, "name", "the given image data")
        # Pillow's own OSErrors have no number, but for seeking to where a damaged file points.
        of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        kind = UnreachableImage if of_system else UnreadableImage
        raise kind(f"{name}: cannot be read as a picture: {_reason(error, str(name))}") from None


def load_ahead(
    pool: Executor,
    batches: Iterable[Sequence[str]],
    load: Callable[[str], np.ndarray],
    image_size: int,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, dict[int, UnreadableImage]]]:
    """The pixels of each batch of names, decoded one batch ahead in ``pool``, and which of them could not be read.

    ``load(name)`` gives uint8 pixels ``(S, S, 3)`` or raises UnreadableImage. Yields uint8 ``(batch_size, S, S, 3)``
    with ``S = image_size``, zeros where there is no picture, so that the encoder sees one shape only; and the error of
    each unreadable one by its position.
    """

    def attempt(name: str) -> np.ndarray | UnreadableImage:
        try:
            return load(name)
        except UnreadableImage as error:
            return error

    for futures in one_behind([pool.submit(attempt, name) for name in batch] for batch in batches):
        results = [future.result() for future in futures]
        reasons = {j: result for j, result in enumerate(results) if isinstance(result, UnreadableImage)}
        pixels = np.zeros((batch_size, image_size, image_size, 3), dtype=np.uint8)
        for j, result in enumerate(results):
            if j not in reasons:
                pixels[j] = result
        yield pixels, reasons


def one_behind(items: Iterator[T]) -> Iterator[T]:
    """The items, each once the one after it has been begun."""
    for held in items:
        for item in items:
            yield held
            held = item
        yield held


def find_images(folder: str | Path) -> list[Path]:
    """All picture files below ``folder``, as ``image_names`` finds them, sorted. Raises UserError."""
    return sorted(Path(folder, name) for name in image_names(folder))


def image_names(folder: str | Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """The paths of all picture files below ``folder``, by suffix, relative to it and with slashes.

    Hidden files and folders (such as the waste bins of photo programs) are left out, links to folders are not followed,
    and links that lead nowhere are named.
    ``on_error`` is told of subfolders that cannot be listed. Raises UserError when there is no such folder.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder of images")
    for parent, folders, files in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(parent).relative_to(folder)
        for name in sorted(files):
            if (
                not name.startswith(".")
                and os.path.splitext(name)[1].lower() in _FOUND
                and (os.path.isfile(path := os.path.join(parent, name)) or os.path.islink(path))
            ):
                yield (below / name).as_posix()


def is_address(source: str) -> bool:
    """Whether this names a picture on the web rather than a file."""
    return source.startswith(("http://", "https://"))


def sources(arguments: list[str]) -> Iterator[str]:
    """The pictures that the arguments name: folders give all the pictures below them. Raises UserError for none."""
    for argument in arguments:
        if not is_address(argument) and Path(argument).is_dir():
            found = find_images(argument)
            if not found:
                raise UserError(f"{argument}: holds no pictures (by suffix: {', '.join(sorted(SUFFIXES))})")
            yield from map(str, found)
        else:
            yield argument


def open_source(source: str) -> str | io.BytesIO:
    """What Pillow can open: the path itself, or the bytes behind a web address. Raises UnreadableImage."""
    if not is_address(source):
        return source
    import requests
    import urllib3

    try:
        with requests.get(source, timeout=30, stream=True) as response:
            response.raise_for_status()
            data = response.raw.read(_MAX_DOWNLOAD + 1, decode_content=True)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise UnreadableImage(f"{source}: cannot be fetched: {error}") from None
    if len(data) > _MAX_DOWNLOAD:
        raise UnreadableImage(f"{source}: larger than {_MAX_DOWNLOAD >> 20} MiB")
    picture = io.BytesIO(data)
    picture.name = source  # for load_image's messages
    return picture


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a picture in any mode: transparency over white, 16-bit greyscale by its high byte."""
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F" and 0 < np.nanmax(np.asarray(image)) <= 1:
        raise ValueError("its pixels are fractions of one, which would all be black; save it with 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, UnidentifiedImageError):
        if os.path.splitext(name)[1].lower() in _UNREADABLE:
            return "Pillow does not know HEIC; convert it to JPEG"
        return "no picture format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
