"""The image encoders of KerasHub, such as CLIP and DINOv2: the setting encoder is ``kerashub:`` and a preset or folder.

A recipe says all that is built: the class of KerasHub, its arguments, and how pixels are scaled. It is JSON. A bundle
holds it beside the weights, so it loads without the preset and without a network. Only the classes of ``KINDS`` are
built, and their arguments are numbers, texts and lists of these. So a stranger's recipe runs no code.

Legend: B images, S pixels per side, H x W cells of the grid, D numbers per cell.
"""

import json
import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, Self

import keras
from keras import layers, ops

from captioning.base.backend import count_weights
from captioning.base.errors import UserError, first_line
from captioning.base.json_files import from_json, take
from captioning.base.presets import keras_hub_for
from captioning.features.weight_files import load_weights
from config import KERASHUB, EncoderSettings


class Sizes(Enum):
    """Which image_size a backbone takes."""

    ANY = "any"  # convolutions: the grid grows with the image
    PATCHES = "patches"  # any multiple of the patch size: the backbone fits its position embeddings to it
    FIXED = "fixed"  # the preset's alone: there is one position embedding for each patch


# The classes of keras_hub.models that are built.
KINDS = {
    # Transformers. Their tokens of patches become the grid. The tokens before them are left out: that of the class, of
    # the distillation and registers. SigLIP has none.
    "CLIPVisionEncoder": Sizes.FIXED,
    "MetaCLIP2VisionEncoder": Sizes.FIXED,
    "SigLIPVisionEncoder": Sizes.FIXED,
    "ViTBackbone": Sizes.FIXED,
    "DeiTBackbone": Sizes.FIXED,
    "DINOV2Backbone": Sizes.PATCHES,
    "DINOV3Backbone": Sizes.PATCHES,
    # Convolutions. Their last feature map is the grid.
    "CSPNetBackbone": Sizes.ANY,
    "DenseNetBackbone": Sizes.ANY,
    "EfficientNetBackbone": Sizes.ANY,
    "HGNetV2Backbone": Sizes.ANY,
    "MobileNetBackbone": Sizes.ANY,
    "ResNetBackbone": Sizes.ANY,
    "VGGBackbone": Sizes.ANY,
    "XceptionBackbone": Sizes.ANY,
}
# Classes that hold one of these as vision_encoder, beside an encoder of texts.
PAIRS = {
    "CLIPBackbone": "CLIPVisionEncoder",
    "MetaCLIP2Backbone": "MetaCLIP2VisionEncoder",
    "SigLIPBackbone": "SigLIPVisionEncoder",
}
CHOICES = "CLIP, SigLIP, DINOv2, DINOv3, ViT, DeiT or convolutions such as ResNet and EfficientNet"

# Variables that do not learn. DINOv2 has its position embeddings twice. Its files hold those of the training size, and
# KerasHub writes changes of the fitted ones into them in some cases only. Mask tokens serve pretraining alone.
FIXED = ("interpolated_position_embeddings", "mask_token")

# What a recipe may ask for, so that a stranger's recipe cannot ask for endless work.
_LARGEST = 1 << 16  # whole number
_LONGEST = 256  # texts and lists
# Arguments that count layers or blocks.
_COUNTS = (
    *("num_layers", "depths", "stackwise_depth", "stackwise_depth_coefficients"),
    *("stackwise_num_repeats", "stackwise_num_blocks"),
)
_MOST = 256


class Recipe(NamedTuple):
    """All that decides what an encoder of KerasHub does with its weights, but for image_size and feature_grid.

    kind: a key of ``KINDS``. arguments: those of the class. Pixels from 0 to 255 are multiplied by ``scale``, then
    ``offset`` is added: both one number, or one for each of red, green and blue.
    """

    kind: str
    arguments: dict[str, Any]
    scale: float | list[float]
    offset: float | list[float]

    def to_json(self) -> str:
        return json.dumps(self._asdict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The recipe that ``to_json`` wrote. Raises ValueError for anything else."""
        found = from_json(text, dict)
        arguments = take(found, "arguments", dict)
        for name, value in arguments.items():
            _refuse_odd(name, value)
        pixels: dict[str, Any] = {}
        for name in ("scale", "offset"):
            value = found.get(name)
            if not (_is_number(value) or (isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)))):
                raise ValueError(f"{name} is neither a number nor three")
            pixels[name] = value
        return cls(take(found, "kind", str, KINDS.__contains__), arguments, **pixels)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse_odd(name: str, value: object, depth: int = 0) -> None:
    """Raise ValueError unless ``value`` is plain, and small enough for an argument ``name``."""
    if isinstance(value, list) and len(value) <= _LONGEST and depth < 3:
        for part in value:
            _refuse_odd(name, part, depth + 1)
    elif isinstance(value, list | dict):
        raise ValueError(f"the argument {name[:50]} is not a number, a text or a short list of these")
    elif isinstance(value, str) and len(value) > _LONGEST:
        raise ValueError(f"the argument {name[:50]} is too long")
    elif isinstance(value, int | float) and abs(value) > (_MOST if name in _COUNTS else _LARGEST):
        raise ValueError(f"the argument {name[:50]} is {str(value)[:20]}, which is too large")


def build_backbone(
    settings: EncoderSettings, blank: bool, recipe: Recipe | None = None
) -> tuple[keras.Model, Callable | None]:
    """The image encoder of a KerasHub preset: RGB 0-255 ``(B, S, S, 3)`` -> a grid ``(B, H, W, D)``.

    Its attribute ``recipe`` is the JSON text of its recipe. It scales pixels itself. With ``recipe`` no preset is read,
    and the weights are random.

    Raises UserError: there is no such preset, it is no image encoder, or it cannot take image_size.
    """
    if recipe is not None:
        return _grid_model(_part(recipe, settings), recipe, settings), None
    from captioning.features.kerashub_presets import read_preset

    source = "none" if blank else settings.encoder_weights
    read = read_preset(settings.encoder.removeprefix(KERASHUB), settings.image_size, source == "imagenet")
    try:  # what a bundle could not be read with is refused before training
        found = Recipe(read.kind, sized(read.kind, read.arguments, settings), read.scale, read.offset)
        recipe = Recipe.from_json(found.to_json())
    except (TypeError, ValueError) as error:
        raise UserError(f"encoder: {settings.encoder} cannot be used here ({error}); name another preset") from None
    part = _part(recipe, settings)
    if source == "imagenet":
        _copy_weights(read.part, part, settings)
    model = _grid_model(part, recipe, settings)
    if source not in ("imagenet", "none"):
        load_weights(model, source, settings.encoder)
    return model, None


def sized(kind: str, arguments: Mapping[str, Any], settings: EncoderSettings) -> dict[str, Any]:
    """``arguments`` of the class ``kind``, for images of image_size. Raises UserError if it cannot take them."""
    size = settings.image_size
    found = dict(arguments)
    if KINDS[kind] is Sizes.ANY:
        for name in ("image_shape", "input_shape"):  # their defaults are open
            found.pop(name, None)
        return found
    if KINDS[kind] is Sizes.FIXED:
        own = found["image_shape"][0]
        if own != size:
            raise UserError(
                f"image_size: {settings.encoder} was trained with {own} pixels and takes no other size, as it has one "
                f"position embedding for each patch; set --image-size {own}"
            )
        return found
    patch = _patch_of(found)
    if size % patch:
        below = size // patch * patch
        raise UserError(
            f"image_size: {settings.encoder} looks at patches of {patch} x {patch} pixels, and {size} is no multiple of "
            f"{patch}; set --image-size {below} or {below + patch}"
        )
    found["image_shape"] = [size, size, 3]
    if kind == "DINOV2Backbone":
        # Its position embeddings are fitted to image_size once, when the preset is read (_copy_weights). Backends fit
        # them differently, and KerasHub would fit them at every loading.
        found["position_embedding_shape"] = [size, size, 3]
    return found


def _part(recipe: Recipe, settings: EncoderSettings) -> keras.Model:
    """The backbone of KerasHub that ``recipe`` describes, with random weights. Raises UserError."""
    if sized(recipe.kind, recipe.arguments, settings) != recipe.arguments:
        raise UserError(
            f"encoder: its description of {settings.encoder} is not for images of {settings.image_size} pixels "
            "(image_size); take the bundle as it was made"
        )
    hub = keras_hub_for(f"encoder: {settings.encoder}", "kerashub")
    try:
        return getattr(hub.models, recipe.kind)(**recipe.arguments, dtype="float32")
    except Exception as error:  # what the layers raise for arguments that do not fit each other
        raise UserError(
            f"encoder: this release of KerasHub ({hub.__version__}) cannot build {settings.encoder} "
            f"({recipe.kind}: {first_line(error)}); use the release of KerasHub that it was made with"
        ) from None


def _grid_model(part: keras.Model, recipe: Recipe, settings: EncoderSettings) -> keras.Model:
    """The model from pixels to the grid around ``part``."""
    images = keras.Input((settings.image_size, settings.image_size, 3), dtype="float32")
    [pixels] = keras.tree.flatten(part.input)
    # SigLIP's own output is one vector, which its last layer makes of the tokens.
    output = part.post_layer_norm.output if recipe.kind == "SigLIPVisionEncoder" else part.output
    # HGNetV2 gives a map for each stage.
    body = keras.Model(pixels, keras.tree.flatten(output)[-1], name="body")
    try:
        cells = body(layers.Rescaling(recipe.scale, recipe.offset, name="scale")(images))
        grid = cells if len(cells.shape) == 4 else _patches(cells, recipe, settings.image_size)
        model = keras.Model(images, grid, name="backbone")
    except Exception as error:  # a convolution without cells left to look at
        raise UserError(
            f"encoder: {settings.encoder} cannot take {settings.image_size} pixels ({first_line(error)}); choose "
            "another image_size"
        ) from None
    model.recipe = recipe.to_json()
    return model


def _patches(tokens: Any, recipe: Recipe, size: int) -> Any:
    """The grid ``(B, n, n, D)`` of the tokens ``(B, L, D)`` of patches. They are the last n * n tokens of L."""
    side = size // _patch_of(recipe.arguments)
    # Counted from the end, because KerasHub 0.32 thinks that SigLIP has a token more than it has.
    return ops.reshape(tokens[:, -side * side :], (-1, side, side, tokens.shape[-1]))


def _patch_of(arguments: Mapping[str, Any]) -> int:
    """Pixels per side of a patch. ViT and DeiT have height and width, which are the same."""
    patch = arguments["patch_size"]
    return patch[0] if isinstance(patch, list) else patch


def _copy_weights(source: keras.Model, target: keras.Model, settings: EncoderSettings) -> None:
    """Give ``target`` the weights of ``source``. Only DINOv2's position embeddings may be of another shape."""
    own, given = target.weights, source.weights
    fits = len(own) == len(given)
    for variable, value in zip(own, given, strict=False):
        if variable.name == "position_embeddings" and hasattr(source, "position_embedding_shape"):
            value = source.embeddings.interpolated_position_embeddings
        if not fits or tuple(variable.shape) != tuple(value.shape):
            raise UserError(
                f"encoder: KerasHub's description of {settings.encoder} does not fit its weights ({variable.path}); "
                "choose another preset"
            )
        variable.assign(ops.cast(value, variable.dtype))


def refuse_oversized(recipe: Recipe, settings: EncoderSettings, held: int) -> None:
    """Raise ValueError if the model of ``recipe`` has far more weights than the ``held`` numbers of its file.

    The model is built without memory for its weights, but for position embeddings, which are checked before. It may
    have some more than the file: SigLIP's last layer.
    """
    needed = 0
    if "hidden_dim" in recipe.arguments:
        needed = (settings.image_size // _patch_of(recipe.arguments)) ** 2 * recipe.arguments["hidden_dim"]
    if needed <= held:
        needed = count_weights(lambda: _part(recipe, settings))
    if needed > 2 * held + _LARGEST:
        raise ValueError(f"encoder.weights.h5 holds {held:,} numbers, and encoder.json needs {needed:,}")
