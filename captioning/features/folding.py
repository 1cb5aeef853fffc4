"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory.

A batch norm with fixed statistics multiplies and shifts each channel by constants. The kernel and bias of the
convolution before it can do the same: w' = w s and b' = (b - mean) s + beta, where s = gamma / sqrt(variance + epsilon)
(Jacob et al., 2018, https://arxiv.org/abs/1712.05877, equation 14). Keras keeps the two layers apart. TensorFlow could
merge convolution, bias and ReLU into one kernel, but not with Keras' batch norm between them. ``benchmarks/folding.py``
measures the gain in inference, ``benchmarks/fine_tuning.py`` in training.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from captioning.base.backend import graph_nodes, graph_of, models_within
from captioning.features.spreading import predict_on_batch

_FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D)
# Layers with a kernel, which follow a reduced precision in training.
_KERNELS = (*_FOLDABLE, layers.SeparableConv2D, layers.Dense)


class FoldedEncoder:
    """An encoder for inference: pixels ``(B, S, S, 3)`` from 0 to 255 -> float32 NumPy features ``(B, R, D)``.

    The first call folds it. When its weights change after that, ``renew()`` must be called.
    """

    def __init__(self, encoder: keras.Model):
        self._encoder = encoder
        self._folded: tuple[keras.Model, Callable[[], None]] | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if self._folded is None:
            self._folded = fold(self._encoder)
        return np.asarray(predict_on_batch(self._folded[0], np.asarray(pixels, dtype="float32")))

    def renew(self) -> None:
        """Take over the weights that the encoder has now, without compiling again."""
        if self._folded is not None:
            self._folded[1]()


def fold(model: keras.Model) -> tuple[keras.Model, Callable[[], None]]:
    """A copy of ``model`` for inference with its batch norms folded into convolutions, and a function that renews it.

    The outputs are the same up to rounding. Each merged convolution is a new layer; all other layers are shared with
    ``model``. The function merges the weights anew, as ``model`` has them when it is called.

    A batch norm stays as it is where it cannot be folded:
    - no convolution stands directly before it;
    - that convolution has an activation, or another layer reads its output too;
    - one of the two computes in reduced precision, or is used more than once.
    """
    merged: list[tuple[Any, Any, layers.BatchNormalization]] = []

    def merge(convolution, norm):
        layer = convolution.__class__.from_config({**convolution.get_config(), "use_bias": True})
        merged.append((layer, convolution, norm))
        return layer

    def float64(variable) -> np.ndarray:
        return ops.convert_to_numpy(variable.value).astype("float64")

    def renew() -> None:
        for layer, convolution, norm in merged:
            kernel, bias = _merged(convolution, norm, float64, np)
            layer.kernel.assign(kernel.astype("float32"))
            layer.bias.assign(bias.astype("float32"))

    folded = _without_norms(model, merge, lambda layer: layer)
    renew()
    return folded, renew


def fold_to_learn(model: keras.Model) -> keras.Model:
    """A copy of ``model`` for training with fixed statistics. It has no weights of its own but uses those of ``model``.

    It folds the batch norms that ``fold`` folds. Every call merges them anew from the weights of ``model``, so that
    gradients reach these weights. The copy computes in Keras' global dtype policy. In reduced precision the merged
    convolutions follow that policy, and so do other convolutions, dense layers and layers without weights. The
    remaining layers, such as batch norms that stay, keep their own precision.
    """
    policy = keras.config.dtype_policy()

    def follow(layer):
        if not isinstance(layer, layers.Layer) or layer.compute_dtype == policy.compute_dtype:
            return layer
        if not layer.variables:
            return layer.__class__.from_config({**layer.get_config(), "dtype": policy})
        return _InPrecision(layer, policy) if type(layer) in _KERNELS else layer

    def merge(convolution, norm):
        return _MergedConvolution(convolution, norm, policy.compute_dtype)

    return _without_norms(model, merge, follow)


class _InPrecision(layers.Layer):
    """A layer with a kernel that computes in another precision than it was made for."""

    def __init__(self, layer, policy):
        super().__init__(name=layer.name, dtype=policy)
        self.layer = layer
        self.built = True

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.layer.compute_output_shape(inputs.shape), self.compute_dtype)

    def call(self, inputs):
        return self.layer.call(inputs)  # calling the layer itself would cast the inputs to its own precision


class _MergedConvolution(layers.Layer):
    """A convolution and the batch norm behind it, as one convolution that computes in ``precision``."""

    def __init__(self, convolution, norm: layers.BatchNormalization, precision: str):
        # Under a mixed policy Keras would cast the kernel before the merge, so that it is rounded twice.
        super().__init__(name=convolution.name, dtype="float32", autocast=False)
        self.convolution, self.norm, self.precision = convolution, norm, precision
        self.built = True

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.convolution.compute_output_shape(inputs.shape), self.precision)

    def call(self, inputs):
        kernel, bias = _merged(self.convolution, self.norm, lambda variable: variable.value, ops)
        convolve = ops.depthwise_conv if isinstance(self.convolution, layers.DepthwiseConv2D) else ops.conv
        outputs = convolve(
            ops.cast(inputs, self.precision),
            ops.cast(kernel, self.precision),
            strides=self.convolution.strides,
            padding=self.convolution.padding,
            data_format=self.convolution.data_format,
            dilation_rate=self.convolution.dilation_rate,
        )
        return outputs + ops.cast(bias, self.precision)


def _without_norms(model: keras.Model, merge: Callable, keep: Callable) -> keras.Model:
    """A clone of ``model`` with ``merge(convolution, norm)`` for each foldable pair, and ``keep(layer)`` for others."""
    pairs = {id(convolution): (convolution, norm) for convolution, norm in _foldable(model)}
    dropped = {id(norm) for _, norm in pairs.values()}

    def replace(layer):
        if id(layer) in dropped:
            return _Identity(dtype=layer.dtype_policy, autocast=False)
        return merge(*pairs[id(layer)]) if id(layer) in pairs else keep(layer)

    return keras.models.clone_model(model, clone_function=replace, recursive=True)


class _Identity(layers.Layer):
    """Takes the place of a batch norm. It accepts the arguments of a batch norm, which Keras' own Identity does not."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _foldable(model: keras.Model) -> Iterator[tuple[Any, layers.BatchNormalization]]:
    """Each convolution of ``model`` or a nested model into which a batch norm can be folded, with that batch norm."""
    models = models_within(model)
    graphs = [graph for graph in map(graph_of, models) if graph is not None]
    nodes = {id(node): node for part in models for node in graph_nodes(part)}
    uses = Counter(id(node.operation) for node in nodes.values())
    # For each tensor the layers that read it. None stands for the reader of a model's outputs.
    readers: dict[int, list[Any]] = {}
    for graph in graphs:
        for tensor in keras.tree.flatten(graph.outputs):
            readers.setdefault(id(tensor), []).append(None)
    for node in nodes.values():
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node.operation)
    for node in nodes.values():
        convolution = node.operation
        if type(convolution) not in _FOLDABLE:
            continue
        norm, *others = readers.get(id(node.outputs[0]), [None])
        if type(norm) is not layers.BatchNormalization or others or uses[id(convolution)] > 1 or uses[id(norm)] > 1:
            continue
        plain = convolution.activation is keras.activations.linear and not getattr(convolution, "lora_enabled", False)
        last = convolution.data_format == "channels_last" and norm.axis in (-1, 3)
        if plain and last and convolution.compute_dtype == norm.compute_dtype == "float32":
            yield convolution, norm


def _merged(convolution, norm: layers.BatchNormalization, read: Callable, numbers) -> tuple[Any, Any]:
    """The kernel and bias that do what ``convolution`` followed by ``norm`` does.

    ``read`` gives the value of a variable. ``numbers`` is numpy or keras.ops, whichever computes with such values.
    """
    scale = 1 / numbers.sqrt(read(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * read(norm.gamma)
    shift = (read(convolution.bias) if convolution.use_bias else 0) - read(norm.moving_mean)
    kernel = read(convolution.kernel)
    # A depthwise kernel is (height, width, channels, multiplier); its output channels are the last two.
    depthwise = isinstance(convolution, layers.DepthwiseConv2D)
    per_channel = numbers.reshape(scale, kernel.shape[2:]) if depthwise else scale
    return kernel * per_channel, shift * scale + (read(norm.beta) if norm.center else 0)
