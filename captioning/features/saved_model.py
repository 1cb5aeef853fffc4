"""The encoder that is a saved Keras model of one's own: the setting encoder is the path of a ``.keras`` file."""

from collections.abc import Callable
from pathlib import Path

import keras

from captioning.base.errors import UserError, first_line
from config import EncoderSettings


def build_backbone(settings: EncoderSettings, blank: bool) -> tuple[keras.Model, Callable | None]:
    """The saved model, which brings its own weights and scales pixels itself. Runs no code from the file."""
    path = Path(settings.encoder)
    if not path.is_file():
        raise UserError(f"encoder: there is no file {path}; name a .keras file, or another encoder")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True), None
    except Exception as error:  # a damaged zip, an unknown layer, code that safe mode refuses
        raise UserError(f"encoder: {path} cannot be loaded as a Keras model: {first_line(error)}") from None
