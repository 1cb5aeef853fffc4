"""The encoder that is a saved Keras model of one's own: the setting encoder is the path of a ``.keras`` file."""

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras

from captioning.base.archives import refuse_bombs
from captioning.base.errors import UserError, first_line
from captioning.features.weight_files import refuse_oversized
from config import EncoderSettings


def build_backbone(settings: EncoderSettings, blank: bool) -> tuple[keras.Model, Callable | None]:
    """The saved model, which brings its own weights and scales pixels itself. Runs no code from the file."""
    path = find_file(settings.encoder)
    try:
        _refuse_oversized(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True), None
    except Exception as error:  # a damaged zip, an unknown layer, code that safe mode refuses
        raise UserError(f"encoder: {path} cannot be loaded as a Keras model: {first_line(error)}") from None


def find_file(encoder: str) -> Path:
    """The .keras file that ``encoder`` names. Raises UserError when there is none."""
    path = Path(encoder)
    if not path.is_file():
        raise UserError(f"encoder: there is no file {path}; name a .keras file, or another encoder")
    return path


# Entries of a layer's configuration that decide how large its weights are, and the most that they may be.
_SIZES = re.compile(
    r"units|filters|kernel_size|pool_size|size|.*_dim|num_.*|.*_multiplier|groups|padding|batch_shape|.*shape"
)
_LARGEST = 1 << 16


def _refuse_oversized(path: Path) -> None:
    """Raise ValueError or another error for a model that would take far more memory than its file has bytes."""
    with zipfile.ZipFile(path) as archive:
        refuse_bombs(archive)
        for name in archive.namelist():
            if name.endswith(".h5"):
                refuse_oversized(io.BytesIO(archive.read(name)))
        _refuse_sizes(json.loads(archive.read("config.json")))


def _refuse_sizes(part: object, name: str = "") -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            _refuse_sizes(value, key)
    elif isinstance(part, list):
        for value in part:
            _refuse_sizes(value, name)
    elif isinstance(part, int) and abs(part) > _LARGEST and _SIZES.fullmatch(name):
        raise ValueError(f"{name} of a layer is {str(part)[:20]}, and at most {_LARGEST} are read here")
