"""Presets of KerasHub, and folders that it can read: an image encoder with its weights, and how it scales pixels.

A folder is a preset that ``save_to_preset`` wrote, or a checkpoint in the layout of Hugging Face's Transformers or of
timm: ``config.json`` and ``model.safetensors``. Keras is imported only when a preset is read.
"""

import difflib
import os
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from captioning.base.errors import UserError
from captioning.base.json_files import load_json, read_json
from captioning.base.presets import keras_hub_for, reading_preset
from config import KERASHUB

# The weights of a folder: one of these files.
_WEIGHTS = ("model.weights.h5", "model.weights.json", "model.safetensors", "model.safetensors.index.json")
# What tells the layout of a folder, in its config.json: that of KerasHub, of Transformers, of timm.
_LAYOUTS = ("registered_name", "model_type", "architecture")
_WAY_OUT = "name another preset or folder"
_CONVERTER = "image_converter.json"


class ReadPreset(NamedTuple):
    """An image encoder as KerasHub reads it.

    part: the backbone of KerasHub. kind, arguments, scale, offset: as in ``kerashub.Recipe``.
    """

    part: Any
    kind: str
    arguments: dict[str, Any]
    scale: Any
    offset: Any


def check_preset(name: str) -> ModuleType:
    """KerasHub, if ``name`` is a folder that it may read, or one of its presets with an image encoder.

    Raises UserError. Nothing is downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
    elif os.sep in name or "/" in name:
        raise UserError(f"encoder: there is no folder {name}; name another one, or a preset of KerasHub")
    hub = keras_hub_for(f"encoder: {KERASHUB}{name}", "kerashub")
    if not folder.is_dir():
        presets = _presets(hub)
        if name not in presets:
            near = difflib.get_close_matches(name, presets, n=1)
            raise UserError(
                f"encoder: KerasHub {hub.__version__} has no preset {name!r} with an image encoder, and there is no such "
                "folder; " + (f"did you mean {KERASHUB}{near[0]}?" if near else f"choose a preset of {_choices()}")
            )
    return hub


def _choices() -> str:
    from captioning.features.kerashub import CHOICES

    return CHOICES


def _presets(hub: ModuleType) -> dict[str, Any]:
    """The presets that hold an image encoder, by name."""
    from captioning.features.kerashub import KINDS, PAIRS

    found: dict[str, Any] = {}
    for kind in (*KINDS, *PAIRS):
        found |= getattr(hub.models, kind).presets
    return found


def _check_folder(folder: Path) -> None:
    """Raise UserError unless ``folder`` holds what KerasHub reads, and no classes but those of image encoders."""
    about = _config(folder, "config.json")
    if not any(name in about for name in _LAYOUTS):
        raise UserError(
            f"encoder: {folder / 'config.json'} is neither of a KerasHub preset nor of a checkpoint of Transformers or "
            f"timm; {_WAY_OUT}"
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise UserError(f"encoder: {folder} lacks its weights ({' or '.join(_WEIGHTS)}); fetch the whole folder again")
    if "registered_name" in about:
        _refuse_classes(about, folder / "config.json")
        _refuse_classes(_config(folder, _CONVERTER), folder / _CONVERTER)


def _config(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of ``folder``. Raises UserError."""
    try:
        return load_json(folder / name, dict)
    except FileNotFoundError:
        why = (
            ", which says how pixels are scaled; save the ImageConverter of the preset there with save_to_preset"
            if name == _CONVERTER
            else "; fetch the whole folder again, or name another"
        )
        raise UserError(f"encoder: {folder} lacks {name}{why}") from None
    except ValueError as error:
        raise UserError(f"encoder: {folder / name} is damaged ({error}); fetch the whole folder again") from None


def _refuse_classes(part: object, path: Path) -> None:
    """Raise UserError if a configuration names classes that an image encoder does not need, such as Lambda."""
    from captioning.features.kerashub import CHOICES, KINDS, PAIRS

    if isinstance(part, list):
        for value in part:
            _refuse_classes(value, path)
    elif isinstance(part, dict):
        name, module = part.get("class_name"), str(part.get("module", "")).partition(".")[0]
        texts = [pair.replace("Backbone", "TextEncoder") for pair in PAIRS]
        known = name in (*KINDS, *PAIRS, *texts) or str(name).endswith("ImageConverter")
        policy = module == "keras" and name in ("DTypePolicy", "DTypePolicyMap")
        if "class_name" in part and not policy and not (known and module == "keras_hub"):
            raise UserError(
                f"encoder: {path} names the class {str(name)[:50]}, which is none of an image encoder that can be used "
                f"here; choose {CHOICES}"
            )
        for value in part.values():
            _refuse_classes(value, path)


def read_preset(name: str, size: int, weights: bool) -> ReadPreset:
    """The image encoder of the preset or folder ``name``, for images of ``size`` pixels where it takes several sizes.

    ``weights``: with those of the preset, else random. Raises UserError.
    """
    from captioning.features.kerashub import CHOICES, KINDS, PAIRS

    hub = check_preset(name)
    with reading_preset("encoder", f"{KERASHUB}{name}", "an image encoder", _WAY_OUT):
        shape = {"image_shape": (size, size, 3)} if _fits_itself(name, hub) else {}
        part = hub.models.Backbone.from_preset(name, load_weights=weights, dtype="float32", **shape)
        if type(part).__name__ in PAIRS:
            part = part.vision_encoder
        kind = type(part).__name__
        if kind not in KINDS:
            raise UserError(f"encoder: {KERASHUB}{name} is a {kind}, which cannot be used here; choose {CHOICES}")
        scale, offset = _scaling(name, hub)
        config = part.get_config()
        arguments = {key: _plain(value) for key, value in config.items() if key not in ("name", "trainable", "dtype")}
    return ReadPreset(part, kind, arguments, scale, offset)


def _plain(value: Any) -> Any:
    """``value`` with lists in place of tuples, as JSON has it."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _fits_itself(name: str, hub: ModuleType) -> bool:
    """Whether the preset or folder ``name`` has a backbone that fits its position embeddings to the image size."""
    if Path(name).is_dir():
        about = load_json(Path(name) / "config.json", dict)
        kind = f"{about.get('class_name', '')} {about.get('model_type', '')}".lower()
        return "dinov2" in kind or "dinov3" in kind
    return name in hub.models.DINOV2Backbone.presets or name in hub.models.DINOV3Backbone.presets


def _scaling(name: str, hub: ModuleType) -> tuple[Any, Any]:
    """What the pixels from 0 to 255 are multiplied by, and what is added then. Raises UserError if nothing says so."""
    own = Path(name) / "preprocessor_config.json"
    if own.is_file():
        return scaling_of_transformers(own)
    if (Path(name) / _CONVERTER).is_file():
        import keras

        converter = keras.saving.deserialize_keras_object(_config(Path(name), _CONVERTER))
    else:
        converter = hub.layers.ImageConverter.from_preset(name)
    if converter is None:
        raise UserError(
            f"encoder: {name} does not say how pixels are scaled (no {own.name}); fetch the whole folder again"
        )
    scale, offset = (_plain(value) for value in (converter.scale, converter.offset))
    return (1.0 if scale is None else scale), (0.0 if offset is None else offset)


def scaling_of_transformers(path: Path) -> tuple[Any, Any]:
    """The scaling that a ``preprocessor_config.json`` of Transformers describes: (x * factor - mean) / deviation."""
    found = read_json(path, "fetch the whole folder again", dict)
    factor = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1.0
    if not found.get("do_normalize", True):
        return factor, 0.0
    mean, deviation = found["image_mean"], found["image_std"]
    return [factor / one for one in deviation], [-one / other for one, other in zip(mean, deviation, strict=True)]
