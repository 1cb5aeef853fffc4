"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory.

In inference a batch norm multiplies and shifts each channel by constants, which a convolution's kernel and bias can do as
well: w' = w s and b' = (b - mean) s + beta, where s = gamma / sqrt(variance + epsilon) (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877, equation 14). Keras keeps the two apart, and TensorFlow, which could merge convolution,
bias and ReLU into one kernel, cannot do so through Keras' batch norm. ``benchmarks/folding.py`` measures what it brings.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

_FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D)


class FoldedEncoder:
    """An encoder for inference: pixels ``(B, S, S, 3)`` from 0 to 255 -> float32 NumPy features ``(B, R, D)``.

    It is folded at the first call; what its weights become after that is seen after ``renew()``.
    """

    def __init__(self, encoder: keras.Model):
        self._encoder = encoder
        self._folded: keras.Model | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if self._folded is None:
            self._folded, self._renew = fold(self._encoder)
        return np.asarray(self._folded.predict_on_batch(np.asarray(pixels, dtype="float32")))

    def renew(self) -> None:
        """Take over the encoder's weights of now, without compiling anew."""
        if self._folded is not None:
            self._renew()


def fold(model: keras.Model) -> tuple[keras.Model, Callable[[], None]]:
    """A copy of ``model``, for inference, without those batch norms that can be folded into a convolution.

    Its outputs are the same up to rounding. What cannot be folded stays: a batch norm elsewhere than right behind a
    convolution, behind one with an activation or whose output something else reads too, in reduced precision, or shared.
    The function that comes with it takes over the weights that ``model`` has when it is called.
    """
    norms = _norms(model)
    dropped = {id(norm) for norm in norms.values()}
    copies: dict[int, tuple[Any, Any]] = {}

    def copy(layer):
        if id(layer) in dropped:
            return _Nothing()
        config = layer.get_config()
        if id(layer) in norms:
            config["use_bias"] = True
        made = layer.__class__.from_config(config)
        copies[id(layer)] = layer, made
        return made

    def take_over() -> None:
        for key, (layer, made) in copies.items():
            if key in norms:
                kernel, bias = _merged(layer, norms[key])
                made.kernel.assign(kernel)
                made.bias.assign(bias)
            elif getattr(layer, "weights", None):  # operations have none
                made.set_weights(layer.get_weights())

    folded = keras.models.clone_model(model, clone_function=copy, recursive=True)
    take_over()
    return folded, take_over


class _Nothing(layers.Layer):
    """Stands where a batch norm was, and takes what that was called with."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _norms(model: keras.Model) -> dict[int, layers.BatchNormalization]:
    """The batch norm that can be folded into a convolution, by the convolution's ``id``, in ``model`` and models within."""
    operations = getattr(model, "operations", model.layers)
    found = {}
    for operation in operations:
        if isinstance(operation, keras.Model):
            found |= _norms(operation)
    # All that reads a tensor; the model's outputs are read outside. A subclassed model tells nothing of its inside.
    readers: dict[int, list] = {id(tensor): [None] for tensor in keras.tree.flatten(getattr(model, "outputs", []))}
    for operation in operations:
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(operation)
    for operation in operations:
        if type(operation) not in _FOLDABLE or len(operation._inbound_nodes) != 1:
            continue
        norm, *others = readers.get(id(operation.output), [None])
        if type(norm) is not layers.BatchNormalization or others or len(norm._inbound_nodes) != 1:
            continue
        plain = operation.activation is keras.activations.linear and operation.data_format == "channels_last"
        exact = operation.compute_dtype == norm.compute_dtype == "float32"
        infers = not norm._inbound_nodes[0].arguments.kwargs.get("training")
        if plain and exact and infers and norm.axis in (-1, 3):
            found[id(operation)] = norm
    return found


def _merged(convolution, norm: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, float32, of ``convolution`` followed by ``norm``."""

    def values(variable) -> np.ndarray:
        return ops.convert_to_numpy(variable.value).astype("float64")

    scale = 1 / np.sqrt(values(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale *= values(norm.gamma)
    shift = (values(convolution.bias) if convolution.use_bias else 0) - values(norm.moving_mean)
    kernel = values(convolution.kernel)
    # A depthwise kernel is (height, width, channels, multiplier), its channels being the last two.
    per_channel = scale.reshape(kernel.shape[2:]) if isinstance(convolution, layers.DepthwiseConv2D) else scale
    bias = shift * scale + (values(norm.beta) if norm.center else 0)
    return (kernel * per_channel).astype("float32"), bias.astype("float32")
