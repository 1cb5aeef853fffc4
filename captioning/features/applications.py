"""The backbones of keras.applications, such as ResNet50, with their ImageNet weights."""

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import keras

from captioning.base.errors import UserError, first_line
from captioning.features.efficientnet_lite import SIZES, plain
from captioning.features.weight_files import load_weights
from config import EncoderSettings


def build_backbone(settings: EncoderSettings, blank: bool) -> tuple[keras.Model, Callable | None]:
    """The backbone that the setting encoder names, and its family's preprocess_input, which scales pixels for it.

    Its weights are those that encoder_weights names; with ``blank`` they are random.
    """
    build = find_backbone(settings.encoder)
    source = "none" if blank else settings.encoder_weights
    weights = "imagenet" if source == "imagenet" else None
    try:
        backbone = build(include_top=False, weights=weights, input_shape=(settings.image_size, settings.image_size, 3))
    except ValueError as error:
        raise UserError(
            f"encoder: {settings.encoder} with image_size {settings.image_size}: {first_line(error)}"
        ) from None
    except Exception as error:  # keras.utils.get_file raises a bare Exception, and sockets raise errors of many kinds
        raise UserError(_no_weights(settings.encoder, error)) from None
    if source not in ("imagenet", "none"):
        load_weights(backbone, source, settings.encoder)
    return backbone, sys.modules[build.__module__].preprocess_input


def find_backbone(encoder: str) -> Callable[..., keras.Model]:
    """The function of keras.applications that builds ``encoder``. Raises UserError when there is none."""
    known = {plain(name): build for name, build in vars(keras.applications).items() if inspect.isfunction(build)}
    if plain(encoder) in known:
        return known[plain(encoder)]
    near = difflib.get_close_matches(plain(encoder), [*known, *SIZES], n=1)
    advice = (
        f"did you mean {near[0]}?"
        if near
        else f"choose resnet50, another keras.applications backbone, {', '.join(SIZES)}, or the path of a .keras file"
    )
    raise UserError(f"encoder: there is no {encoder!r}; {advice}")


def _no_weights(encoder: str, error: Exception) -> str:
    """What to do when the ImageNet weights cannot be downloaded. Keras' ``error`` names their address."""
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    url = re.search(r"https?://\S+/([^/\s]+\.h5)", str(error))
    place = f"download {url[0]} elsewhere and put it at {cache / url[1]}" if url else f"put the file into {cache}"
    return (
        f"encoder_weights: the ImageNet weights of {encoder} are not in Keras' cache and could not be downloaded "
        f"({first_line(error)}). Either {place}, or name a weights file with --encoder-weights PATH, or use "
        f"--encoder efficientnet_lite0, whose weights come with this repository"
    )
