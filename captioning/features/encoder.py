"""The encoder: RGB pixels 0-255 in, region features out. A pretrained backbone, then pooling.

Legend: B images, S pixels per side, H x W cells of the backbone's grid, R regions (row by row), D numbers per region.

Each family of backbones is a file with a function ``build_backbone(settings, blank) -> (model, scale)``:
applications.py, efficientnet_lite.py, kerashub.py and saved_model.py. ``model`` maps pixels to the grid. ``scale``, if
it is not None, prepares the pixels for it. Both become part of the encoder, so training and inference cannot scale
pixels differently.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from captioning.base.backend import parts_of
from captioning.base.errors import UserError, first_line
from captioning.features import applications, efficientnet_lite, kerashub, saved_model
from captioning.features.kerashub_presets import check_preset
from config import KERASHUB, EncoderSettings


def build_encoder(settings: EncoderSettings, blank: bool = False, recipe: kerashub.Recipe | None = None) -> keras.Model:
    """The frozen encoder that ``settings`` describe: float32 RGB 0-255 ``(B, S, S, 3)`` -> float32 ``(B, R, D)``.

    Reads encoder, encoder_weights, image_size (S) and feature_grid. A feature_grid of 0 gives R = H*W regions, and n
    gives R = n*n by adaptive average pooling. The encoder nests one model, the backbone. ``blank`` is for callers that
    load weights into the encoder afterwards; it skips encoder_weights. ``recipe`` is for callers that have that of an
    encoder of KerasHub; it takes the place of the preset.

    Raises UserError: an unknown encoder, weights that are unusable or cannot be had, or sizes that do not fit.
    """
    if recipe is not None:
        backbone, scale = kerashub.build_backbone(settings, blank, recipe)
    else:
        backbone, scale = _family(settings.encoder).build_backbone(settings, blank)
    images = keras.Input((settings.image_size, settings.image_size, 3), dtype="float32", name="images")
    try:
        grid = backbone(scale(images) if scale else images)
    except Exception as error:  # whatever the layers of a saved model raise
        raise UserError(
            f"encoder: {settings.encoder} cannot take {settings.image_size} pixels ({first_line(error)}); choose "
            "another image_size or encoder"
        ) from None
    if len(getattr(grid, "shape", ())) != 4 or None in grid.shape[1:]:
        raise UserError(
            f"encoder: {settings.encoder} must map images to one feature grid (B, H, W, D), and for image_size "
            f"{settings.image_size} it gives {getattr(grid, 'shape', grid)}; cut the model off before its pooling layer"
        )
    _, height, width, depth = grid.shape
    grid = ops.cast(grid, "float32")  # a saved model may compute in float16
    if settings.feature_grid:
        if settings.feature_grid > min(height, width):
            raise UserError(
                f"feature_grid: {settings.feature_grid} is more than the {height} x {width} grid of {settings.encoder} "
                f"at image_size {settings.image_size}; choose at most {min(height, width)}, or a larger image_size"
            )
        grid = adaptive_average_pool(grid, settings.feature_grid)
    model = keras.Model(images, layers.Reshape((-1, depth), name="regions")(grid), name="encoder")
    model.trainable = False
    return model


def _family(encoder: str) -> Any:
    """The file that builds the backbone of the setting ``encoder``."""
    if encoder.startswith(KERASHUB):
        return kerashub
    if encoder.endswith(".keras"):
        return saved_model
    return efficientnet_lite if efficientnet_lite.plain(encoder) in efficientnet_lite.NAMES else applications


def check_name(encoder: str) -> None:
    """Raise UserError if the setting ``encoder`` names nothing. This is for before the long work: nothing is built."""
    family = _family(encoder)
    if family is kerashub:
        check_preset(encoder.removeprefix(KERASHUB))
    elif family is saved_model:
        saved_model.find_file(encoder)
    elif family is applications:
        applications.find_backbone(encoder)


def adaptive_average_pool(grid: Any, size: int) -> Any:
    """Average ``grid`` float ``(B, H, W, D)`` to ``(B, size, size, D)`` over the windows of torch's AdaptiveAvgPool2d.

    With n windows over a length L, window i covers the cells from floor(i*L/n) to ceil((i+1)*L/n). So every cell is
    covered, and neighbours may share one.
    """

    def averages(length: int) -> np.ndarray:
        rows = np.zeros((size, length), "float32")
        for i in range(size):
            start, end = i * length // size, -(-(i + 1) * length // size)
            rows[i, start:end] = 1 / (end - start)
        return rows

    grid = ops.einsum("ih,bhwd->biwd", averages(grid.shape[1]), grid)
    return ops.einsum("jw,biwd->bijd", averages(grid.shape[2]), grid)


def let_learn(encoder: keras.Model, tuned_layers: int) -> list[keras.Variable]:
    """Make the last ``tuned_layers`` layers with a kernel trainable (0: all of them) and return their variables.

    Layers of nested models count too, and a block of a transformer counts as one layer. All of a batch norm stays
    fixed, statistics, scale and offset, because batches of fine-tuning are small. So does what kerashub.py calls FIXED.
    Raises UserError when the encoder has fewer such layers.
    """
    parts = list(dict.fromkeys(part for layer in encoder.layers for part in _parts(layer)))
    for trainable in (False, True):  # Keras passes on a change to the layers within, and nothing if there is none
        encoder.trainable = trainable
    # Layers name their kernels in different ways. But a kernel has several axes, and what normalises or scales has one.
    learners = [part for part in parts if any(len(weight.shape) > 1 for weight in part.trainable_weights)]
    if not learners or tuned_layers > len(learners):
        raise UserError(
            f"tuned_layers: {tuned_layers} asked for, and the encoder has {len(learners)} layers with a kernel; "
            "choose fewer, or 0 for all"
        )
    for part in parts:
        part.trainable = part in learners[-tuned_layers:]
        for norm in parts_of(part, recursive=True):
            norm.trainable &= not isinstance(norm, layers.BatchNormalization)
    for variable in encoder.trainable_variables:
        variable.trainable = variable.name not in kerashub.FIXED
    return encoder.trainable_variables


def _parts(layer: layers.Layer) -> Iterator[layers.Layer]:
    """``layer``, or what it consists of: the layers of a model, and the blocks of a stack of like blocks."""
    within = layer.layers if isinstance(layer, keras.Model) else parts_of(layer)
    blocks = Counter(type(part) for part in within if parts_of(part))
    stacked = max(blocks.values(), default=0) > 1 and len(layer.weights) == sum(len(part.weights) for part in within)
    if stacked or isinstance(layer, keras.Model):
        for part in within:
            yield from _parts(part)
    else:
        yield layer
