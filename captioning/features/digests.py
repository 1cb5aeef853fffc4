"""Digests of encoders. Equal digests mean equal features, so feature stores and indexes carry them."""

import hashlib
import json
from typing import Any

import keras
import numpy as np
from keras import ops

from config import KERASHUB


def weights_digest(model: keras.Model, half: bool = False) -> str:
    """SHA-256 (hex) over shape and little-endian float32 bytes of each weight, in model order. Alike on all backends.

    ``half``: of the weights as a weights file of half the size gives them (``halved``).
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        values = ops.convert_to_numpy(weight.value)
        array = np.ascontiguousarray(halved(values) if half else values, dtype="<f4")
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def halved(values: np.ndarray) -> np.ndarray:
    """A weight as a weights file of half the size holds it: a kernel (two axes or more) as float16, if it fits.

    Vectors stay float32: they weigh little, and the variances of a batch norm may leave float16's range.
    """
    if values.dtype == np.float32 and values.ndim >= 2 and np.abs(values).max() <= np.finfo(np.float16).max:
        return values.astype(np.float16)
    return values


def encoder_digest(encoder: keras.Model, name: str, half: bool = False) -> str:
    """SHA-256 (hex) over all of an encoder that decides its features, but for image_size and feature_grid.

    ``name`` is the setting encoder. ``half``: of its weights as a bundle of half the size holds them. An encoder that
    is known by name always does the same with its weights, so their digest is enough. The digest of a saved Keras model
    also covers its layers and their settings, and that of an encoder of KerasHub its recipe.
    """
    if name.startswith(KERASHUB):
        return hashlib.sha256((weights_digest(encoder, half) + recipe_of(encoder)).encode()).hexdigest()
    if not name.endswith(".keras"):
        return weights_digest(encoder, half)
    graph = json.dumps(_lasting(keras.saving.serialize_keras_object(backbone_of(encoder))), sort_keys=True)
    return hashlib.sha256((weights_digest(encoder) + graph).encode()).hexdigest()


def backbone_of(encoder: keras.Model) -> keras.Model:
    """The model nested in an encoder from ``build_encoder``; a model that nests none is its own backbone."""
    return next((layer for layer in encoder.layers if isinstance(layer, keras.Model)), encoder)


def recipe_of(encoder: keras.Model) -> str:
    """The recipe of an encoder of KerasHub, as JSON text (see ``kerashub.Recipe``)."""
    return backbone_of(encoder).recipe


def _lasting(value: Any) -> Any:
    """A model's configuration without what fine-tuning changes."""
    if isinstance(value, dict):
        return {key: _lasting(part) for key, part in value.items() if key != "trainable"}
    return [_lasting(part) for part in value] if isinstance(value, list | tuple) else value
