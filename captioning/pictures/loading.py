"""Read pictures into RGB arrays of a fixed size, in one way for training and inference. Needs no Keras."""

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

# The name of what load_image and load_varied do, in the fingerprints of feature stores. Change the version whenever
# their pixels change.
PREPROCESSING = "exif-rgb-squash-bicubic-v1"

# The ways in which ``view`` shows a picture.
VIEWS = ("whole", "mirrored", "middle", "middle-mirrored")
MIRRORED = VIEWS.index("mirrored")

T = TypeVar("T")

# Pillow refuses pictures with very many pixels, and warns at half that number. A user's own picture needs no warning.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

SUFFIXES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Formats of phones that Pillow cannot read. Such files are found in folders too, so that they are reported.
_UNREADABLE = {".heic", ".heif"}
_FOUND = SUFFIXES | _UNREADABLE

# A picture from the web may have this many bytes.
_MAX_DOWNLOAD = 50 << 20
_DOWNLOAD_SECONDS = 60  # in which it must arrive


class UnreadableImage(UserError):
    """A file that is no readable picture. The message names the file and the reason."""


class UnreachableImage(UnreadableImage):
    """A file that could not be opened or read (no permission, a failing disk, a missing file). It may work later."""


def load_image(source: str | Path | BinaryIO, size: int) -> np.ndarray:
    """Decode a picture and resize it to ``size`` x ``size`` pixels, whatever its proportions.

    ``source`` is a path or a binary file object. Resampling is Pillow's antialiased bicubic. A picture that has this
    size is not resampled.

    Returns uint8 ``(size, size, 3)``, RGB 0-255. Raises UnreadableImage.
    """
    image = open_picture(source, size)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image)


def load_varied(
    source: str | Path, size: int, crop: float, colour_jitter: float, rng: np.random.Generator
) -> np.ndarray:
    """For training: a random crop of a picture in randomly changed colours, resized to ``size`` x ``size`` pixels.

    The crop keeps a share of the area between ``crop`` and 1. It is up to a third wider or narrower than the picture
    (Szegedy et al., 2015, https://arxiv.org/abs/1409.4842). Brightness, contrast and saturation are each multiplied by
    a factor between ``1 - colour_jitter`` and ``1 + colour_jitter``.

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


def open_picture(source: str | Path | BinaryIO, size: int) -> Image.Image:
    """Decode a picture that will be resized to ``size`` pixels. It is upright, RGB and in its own proportions.

    EXIF orientation is applied, and transparency is laid over white. 16-bit greyscale keeps its high byte. An animation
    gives its first frame. Raises UnreadableImage.
    """
    try:
        with Image.open(source) as image:
            # A JPEG may be decoded at a half, quarter or eighth of its size, but not below twice the size that is
            # wanted. For 12 megapixels that is five times as fast. On COCO photographs it changed pixels by 0.7 grey
            # levels on average, and single ones on hard edges by up to 50.
            image.draft(None, (2 * size, 2 * size))
            return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged files
        name = source if isinstance(source, (str, Path)) else getattr(source, "name", "the given image data")
        # An OSError of Pillow's own has no number. Only seeking to where a damaged file points gives EINVAL.
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

    for futures in one_behind([pool.submit(attempt, name) for name in batch] for batch in batches):
        results = [future.result() for future in futures]
        reasons = {j: result for j, result in enumerate(results) if isinstance(result, UnreadableImage)}
        pixels = np.zeros((batch_size, image_size, image_size, 3), dtype=np.uint8)
        for j, result in enumerate(results):
            if not isinstance(result, UnreadableImage):
                pixels[j] = result
        yield pixels, reasons


def one_behind(items: Iterator[T]) -> Iterator[T]:
    """The items. Each is given only when the next one has been started."""
    for held in items:
        for item in items:
            yield held
            held = item
        yield held


def find_images(folder: str | Path) -> list[Path]:
    """The paths of all picture files below ``folder``, sorted. Raises UserError when there is no such folder."""
    return sorted(Path(folder, name) for name in image_names(folder))


def image_names(folder: str | Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """The paths of all picture files below ``folder``, relative to it and with slashes. Suffixes decide.

    Hidden files and folders, such as the waste bins of photo programs, are left out. Links to folders are not followed.
    Links that lead nowhere are included, so that they are reported. ``on_error`` gets the error of each subfolder that
    cannot be listed. Raises UserError when there is no such folder.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder of images; name another")
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


def require_pictures(folder: str | Path, option: str) -> None:
    """Raise UserError, which names ``option``, if ``folder`` is no folder or holds no pictures. Stops at the first."""
    if next(image_names(folder), None) is None:
        raise no_pictures(f"{option}: {folder}")


def no_pictures(where: str | Path) -> UserError:
    """The error of a folder without pictures. ``where``: the folder, and the option that names it, if there is one."""
    return UserError(f"{where}: holds no pictures (by suffix: {', '.join(sorted(SUFFIXES))})")


def unlisted(error: OSError) -> str:
    """What to say of a subfolder that cannot be listed, given what ``image_names`` reports."""
    return f"{error.filename}: cannot be listed: {error.strerror}"


def is_address(source: str) -> bool:
    """Whether ``source`` is a web address. Otherwise it is a path."""
    return source.startswith(("http://", "https://"))


def sources(arguments: list[str]) -> Iterator[str]:
    """The pictures that the arguments name. A folder gives all pictures below it, and UserError if it has none."""
    for argument in arguments:
        if not is_address(argument) and Path(argument).is_dir():
            found = find_images(argument)
            if not found:
                raise no_pictures(argument)
            yield from map(str, found)
        else:
            yield argument


def open_source(source: str) -> str | io.BytesIO:
    """What Pillow can open: a path as it is, or the bytes behind a web address. Raises UnreadableImage."""
    if not is_address(source):
        return source
    from captioning.base.addresses import Unfetched, fetch

    try:
        data = fetch(source, _MAX_DOWNLOAD, _DOWNLOAD_SECONDS)
    except Unfetched as error:
        raise UnreadableImage(f"{source}: cannot be fetched: {error}") from None
    if len(data) > _MAX_DOWNLOAD:
        raise UnreadableImage(f"{source}: larger than {_MAX_DOWNLOAD >> 20} MiB")
    picture = io.BytesIO(data)
    picture.name = source  # open_picture's messages name it
    return picture


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB. Transparency is laid over white; 16-bit greyscale keeps its high byte."""
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F" and 0 < np.nanmax(np.asarray(image)) <= 1:
        raise ValueError("its pixels are fractions of one, which would all be black; save it with 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error: Exception, name: str) -> str:
    """Why the file ``name`` cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        if os.path.splitext(name)[1].lower() in _UNREADABLE:
            return "Pillow does not know HEIC; convert it to JPEG"
        return "no picture format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        refused = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than {refused // 10**6} megapixels; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
