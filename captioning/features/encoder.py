"""Pretrained image backbones as one function: RGB pixels 0-255 in, region features out.

Dimensions: B batch, S pixels per side, H x W the backbone's grid, R regions (row-major), D feature size.

Each encoder carries its own pixel scaling inside the model graph, so training and inference cannot scale differently.
"""

import difflib
import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers, ops

from captioning.base.errors import UserError
from config import ROOT, Config

LITE0_WEIGHTS = ROOT / "weights" / "efficientnet_lite0.weights.h5"

# EfficientNet-Lite0: the B0 stages without squeeze-and-excitation, as (blocks, kernel, stride, expansion, filters).
# Tan & Le 2019, https://arxiv.org/abs/1905.11946; Lite: https://github.com/tensorflow/tpu (efficientnet/lite).
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def build_encoder(config: Config, blank: bool = False) -> keras.Model:
    """The frozen encoder that ``config`` names: float32 RGB 0-255 ``(B, S, S, 3)`` -> float32 ``(B, R, D)``.

    Reads the settings encoder, encoder_weights, image_size (S) and feature_grid: 0 gives R = H*W, n gives R = n*n by
    adaptive average pooling. The one nested model is the backbone without pooling. ``blank`` is for who will load weights
    into it: encoder_weights is not read then. Raises UserError for an unknown encoder, unusable or unobtainable weights,
    and sizes that do not fit.
    """
    source = "none" if blank else config.encoder_weights
    if config.encoder.endswith(".keras"):
        backbone, scale = _saved_model(Path(config.encoder)), None
    elif _plain(config.encoder) == "efficientnetlite0":
        # Drawing weights that are to be replaced takes ten seconds on JAX, which compiles a program for each shape.
        drawn = source == "none" and not blank
        backbone, scale = efficientnet_lite0(config.image_size, "glorot_uniform" if drawn else "zeros"), None
        if source != "none":
            _load_weights(backbone, LITE0_WEIGHTS if source == "imagenet" else source, config.encoder)
    else:
        backbone, scale = _application(config, source)

    images = keras.Input((config.image_size, config.image_size, 3), dtype="float32", name="images")
    try:
        grid = backbone(scale(images) if scale else images)
    except Exception as error:  # whatever a saved model's layers raise
        raise UserError(f"encoder: {config.encoder} cannot take {config.image_size} pixels: {_brief(error)}") from None
    if len(getattr(grid, "shape", ())) != 4 or None in grid.shape[1:]:
        raise UserError(
            f"encoder: {config.encoder} must map images to one feature grid (B, H, W, D), and for image_size "
            f"{config.image_size} it gives {getattr(grid, 'shape', grid)}; cut the model off before its pooling layer"
        )
    _, height, width, depth = grid.shape
    grid = ops.cast(grid, "float32")  # a saved model may compute in float16
    if config.feature_grid:
        if config.feature_grid > min(height, width):
            raise UserError(
                f"feature_grid: {config.feature_grid} is more than the {height} x {width} grid of {config.encoder} at "
                f"image_size {config.image_size}; choose at most {min(height, width)}, or a larger image_size"
            )
        grid = adaptive_average_pool(grid, config.feature_grid)
    model = keras.Model(images, layers.Reshape((-1, depth), name="regions")(grid), name="encoder")
    model.trainable = False
    return model


def let_learn(encoder: keras.Model, tuned_layers: int) -> list[keras.Variable]:
    """Make the last ``tuned_layers`` layers with a kernel trainable (0: all of them) and return their variables.

    Batch normalisation stays as it is, statistics, scale and offset: batches of fine-tuning are small. Layers of models
    within the encoder count as its own. Raises UserError when the encoder has fewer such layers.
    """
    parts = list(dict.fromkeys(_parts(encoder)))
    for part in parts:
        part.trainable = True
    # Kernels have axes, whatever a layer calls them; what normalises or scales has a number for each channel.
    learners = [part for part in parts if any(len(weight.shape) > 1 for weight in part.trainable_weights)]
    if not learners or tuned_layers > len(learners):
        raise UserError(
            f"tuned_layers: {tuned_layers} asked for, and the encoder has {len(learners)} layers with a kernel"
        )
    encoder.trainable = True
    for part in parts:
        part.trainable = part in learners[-tuned_layers:]
    return encoder.trainable_variables


def _parts(model: keras.Model) -> Iterator[layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _parts(layer)
        else:
            yield layer


def adaptive_average_pool(grid, size: int):
    """Average ``(B, H, W, D)`` to ``(B, size, size, D)`` over the windows of torch's AdaptiveAvgPool2d.

    Window i of n over length L covers floor(i*L/n) to ceil((i+1)*L/n), so windows may overlap by one and never miss a cell.
    """

    def averages(length: int) -> np.ndarray:
        rows = np.zeros((size, length), "float32")
        for i in range(size):
            start, end = i * length // size, -(-(i + 1) * length // size)
            rows[i, start:end] = 1 / (end - start)
        return rows

    grid = ops.einsum("ih,bhwd->biwd", averages(grid.shape[1]), grid)
    return ops.einsum("jw,biwd->bijd", averages(grid.shape[2]), grid)


def efficientnet_lite0(image_size: int, initializer: str = "glorot_uniform") -> keras.Model:
    """EfficientNet-Lite0 without its classifier: RGB 0-255 ``(B, S, S, 3)`` -> ``(B, S/32, S/32, 1280)``.

    Its kernels are what Keras' ``initializer`` makes of them.
    """
    common = {"padding": "same", "use_bias": False}

    def conv(x, filters: int, kernel: int, stride: int, name: str, activate: bool = True):
        x = layers.Conv2D(filters, kernel, stride, kernel_initializer=initializer, name=name, **common)(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x

    images = keras.Input((image_size, image_size, 3), dtype="float32")
    x = layers.Rescaling(1 / 128, -127 / 128, name="scale")(images)
    x = conv(x, 32, 3, 2, "stem")
    for stage, (blocks, kernel, stride, expansion, filters) in enumerate(LITE0_STAGES, 1):
        for block in range(blocks):
            name, shortcut = f"block{stage}_{block}", x
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, 1, 1, f"{name}_expand")
            x = layers.DepthwiseConv2D(
                kernel,
                stride if block == 0 else 1,
                depthwise_initializer=initializer,
                name=f"{name}_depthwise",
                **common,
            )(x)
            x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_depthwise_bn")(x)
            x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
            x = conv(x, filters, 1, 1, f"{name}_project", activate=False)
            if block > 0:
                x = layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.Model(images, conv(x, 1280, 1, 1, "head"), name="backbone")


def weights_digest(model: keras.Model) -> str:
    """SHA-256 (hex) over shape and little-endian float32 bytes of every weight, in model order; alike on every backend."""
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(ops.convert_to_numpy(weight.value), dtype="<f4")
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def encoder_digest(encoder: keras.Model, config: Config) -> str:
    """SHA-256 (hex) for all of an encoder that decides its features, but for image_size and feature_grid.

    What encoders that are known by name do with their weights does not change; what a saved model does is in it too.
    """
    if not config.encoder.endswith(".keras"):
        return weights_digest(encoder)
    graph = json.dumps(_lasting(keras.saving.serialize_keras_object(_backbone(encoder))), sort_keys=True)
    return hashlib.sha256((weights_digest(encoder) + graph).encode()).hexdigest()


def _lasting(value):
    """``value``, of a model's configuration, without what fine-tuning changes."""
    if isinstance(value, dict):
        return {key: _lasting(part) for key, part in value.items() if key != "trainable"}
    return [_lasting(part) for part in value] if isinstance(value, list | tuple) else value


def save_weights_float16(model: keras.Model, path: str | Path) -> None:
    """Write ``model``'s weights as a Keras ``.weights.h5`` file of half the size, replacing ``path`` atomically.

    Of an encoder from build_encoder the backbone is written, so that encoder_weights=path reads it back.
    """
    path = Path(path)
    new = path.with_name(f".new-{os.getpid()}-{path.name}")
    try:
        _backbone(model).save_weights(new)
        halve_weights(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def halve_weights(path: Path) -> None:
    """Rewrite a Keras ``.weights.h5`` file at half its size.

    Kernels (two axes or more) are stored as float16 if they fit its range. Vectors stay float32: they weigh little, and a
    batch norm's variances may leave float16's range. Reading back gives float32 weights rounded to what was stored.
    """
    half = path.with_name(f".half-{os.getpid()}-{path.name}")

    def halve(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            copy = target.require_group(name)
        else:
            values = item[()]
            if item.dtype == np.float32 and item.ndim >= 2 and np.abs(values).max() <= np.finfo(np.float16).max:
                values = values.astype(np.float16)
            copy = target.create_dataset(name, data=values)
        copy.attrs.update(item.attrs)

    try:
        with h5py.File(path) as source, h5py.File(half, "w") as target:
            target.attrs.update(source.attrs)
            source.visititems(halve)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def _backbone(model: keras.Model) -> keras.Model:
    return next((layer for layer in model.layers if isinstance(layer, keras.Model)), model)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _brief(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _application(config: Config, source: str):
    """The keras.applications backbone that config.encoder names, and its family's preprocess_input."""
    known = {_plain(name): build for name, build in vars(keras.applications).items() if inspect.isfunction(build)}
    build = known.get(_plain(config.encoder))
    if build is None:
        near = difflib.get_close_matches(_plain(config.encoder), [*known, "efficientnet_lite0"], n=1)
        advice = (
            f"did you mean {near[0]}?"
            if near
            else "choose resnet50, another keras.applications backbone, efficientnet_lite0, or the path of a .keras file"
        )
        raise UserError(f"encoder: there is no {config.encoder!r}; {advice}")
    weights = "imagenet" if source == "imagenet" else None
    try:
        backbone = build(include_top=False, weights=weights, input_shape=(config.image_size, config.image_size, 3))
    except ValueError as error:
        raise UserError(f"encoder: {config.encoder} with image_size {config.image_size}: {_brief(error)}") from None
    except Exception as error:  # keras.utils.get_file raises a bare Exception, and sockets raise what they like.
        raise UserError(_no_weights(config.encoder, error)) from None
    if source not in ("imagenet", "none"):
        _load_weights(backbone, source, config.encoder)
    return backbone, sys.modules[build.__module__].preprocess_input


def _no_weights(encoder: str, error: Exception) -> str:
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    url = re.search(r"https?://\S+/([^/\s]+\.h5)", str(error))
    place = f"download {url[0]} elsewhere and put it at {cache / url[1]}" if url else f"put the file into {cache}"
    return (
        f"encoder_weights: the ImageNet weights of {encoder} are not in Keras' cache and could not be downloaded "
        f"({_brief(error)}). Either {place}, or name a weights file with --encoder-weights PATH, or use "
        f"--encoder efficientnet_lite0, whose weights come with this repository"
    )


def _load_weights(backbone: keras.Model, path: str | Path, encoder: str) -> None:
    if not Path(path).is_file():
        raise UserError(f"encoder_weights: there is no file {path} (weights for encoder {encoder})")
    try:
        if str(path).endswith(".weights.h5"):
            _refuse_other_layers(backbone, path)
        backbone.load_weights(path)
    except Exception as error:  # h5py and Keras raise OSError, ValueError, KeyError and more on foreign files.
        raise UserError(
            f"encoder_weights: {path} does not fit encoder {encoder} (needed: weights without the classifier, as "
            f"saved by Keras): {_brief(error)}"
        ) from None


def _refuse_other_layers(backbone: keras.Model, path: str | Path) -> None:
    # Keras reads what it looks for and ignores the rest, so a deeper sibling's file would load without a word.
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    if len(found) != len(backbone.weights):
        raise ValueError(f"it holds {len(found)} arrays, and the encoder has {len(backbone.weights)}")


def _saved_model(path: Path) -> keras.Model:
    if not path.is_file():
        raise UserError(f"encoder: there is no file {path}")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged zip, an unknown layer, code that safe mode refuses
        raise UserError(f"encoder: {path} cannot be loaded as a Keras model: {_brief(error)}") from None
