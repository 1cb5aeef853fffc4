"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory.

With fixed statistics a batch norm multiplies and shifts each channel by constants, which a convolution's kernel and bias
can do as well: w' = w s and b' = (b - mean) s + beta, where s = gamma / sqrt(variance + epsilon) (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877, equation 14). Keras keeps the two apart, and TensorFlow, which could merge convolution,
bias and ReLU into one kernel, cannot do so through Keras' batch norm. ``benchmarks/folding.py`` measures what it brings in
inference, ``benchmarks/fine_tuning.py`` in training.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from captioning.base.backend import graph_nodes, graph_of, models_within

_FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D)
_KERNELS = (*_FOLDABLE, layers.SeparableConv2D, layers.Dense)


class FoldedEncoder:
    """An encoder for inference: pixels ``(B, S, S, 3)`` from 0 to 255 -> float32 NumPy features ``(B, R, D)``.

    It is folded at the first call; once its weights change after that, ``renew()`` must be called.
    """

    def __init__(self, encoder: keras.Model):
        self._encoder = encoder
        self._folded: tuple[keras.Model, Callable[[], None]] | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if self._folded is None:
            self._folded = fold(self._encoder)
        return np.asarray(self._folded[0].predict_on_batch(np.asarray(pixels, dtype="float32")))

    def renew(self) -> None:
        """Take over the encoder's weights of now, without compiling anew."""
        if self._folded is not None:
            self._folded[1]()


def fold(model: keras.Model) -> tuple[keras.Model, Callable[[], None]]:
    """``model`` for inference, without those batch norms that can be folded into a convolution, and how to renew it.

    Its outputs are the same up to rounding. Merged convolutions are new; the function that comes with them merges the
    weights that ``model`` has when it is called. All other layers are those of ``model`` themselves. Such stay: batch norms
    elsewhere than right behind a convolution, behind one with an activation or whose output something else reads too, in
    reduced precision, and in layers that are used more than once.
    """
    merged = []

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
    """``model`` with fixed statistics, computed in Keras' global dtype policy, for training: it has no weights of its own.

    What ``fold`` folds is merged anew at every call, from the weights of ``model`` as they are, and gradients reach them. In
    reduced precision other convolutions and dense layers follow it too, and layers without weights; all others, such as
    batch norms that stay, compute as they would without.
    """
    policy = keras.config.dtype_policy()

    def follow(layer):
        if not isinstance(layer, layers.Layer) or layer.compute_dtype == policy.compute_dtype:
            return layer
        if not layer.variables:
            return layer.__class__.from_config({**layer.get_config(), "dtype": policy})
        return _InPrecision(layer, policy) if type(layer) in _KERNELS else layer

    return _without_norms(model, lambda *pair: _MergedConvolution(*pair, policy.compute_dtype), follow)


class _InPrecision(layers.Layer):
    """A layer with a kernel, computing in another precision than it was made for."""

    def __init__(self, layer, policy):
        super().__init__(name=layer.name, dtype=policy)
        self.layer = layer
        self.built = True

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.layer.compute_output_shape(inputs.shape), self.compute_dtype)

    def call(self, inputs):
        return self.layer.call(inputs)  # and not the layer itself, which would go back to its own precision


class _MergedConvolution(layers.Layer):
    """A convolution and the batch norm behind it, as one convolution that computes in ``precision``."""

    def __init__(self, convolution, norm: layers.BatchNormalization, precision: str):
        # Under a mixed policy Keras would cast the kernel before it is merged, and it would be rounded twice.
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
    """A clone of ``model`` with ``merge(convolution, norm)`` for each foldable pair and ``keep(layer)`` for other layers."""
    pairs = {id(convolution): (convolution, norm) for convolution, norm in _foldable(model)}
    dropped = {id(norm) for _, norm in pairs.values()}

    def replace(layer):
        if id(layer) in dropped:
            return _Identity(dtype=layer.dtype_policy, autocast=False)
        return merge(*pairs[id(layer)]) if id(layer) in pairs else keep(layer)

    return keras.models.clone_model(model, clone_function=replace, recursive=True)


class _Identity(layers.Layer):
    """Stands where a batch norm was, and is called as that was, which Keras' own Identity may not be."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _foldable(model: keras.Model) -> Iterator[tuple[Any, layers.BatchNormalization]]:
    """Each convolution of ``model``, or of models within, into which the batch norm behind it can be folded."""
    models = models_within(model)
    graphs = [graph for graph in map(graph_of, models) if graph is not None]
    nodes = {id(node): node for part in models for node in graph_nodes(part)}
    uses = Counter(id(node.operation) for node in nodes.values())
    # All that reads a tensor; None is whatever reads the outputs of a model.
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
    """Kernel and bias of ``convolution`` followed by ``norm``, of what ``read`` gives for a variable.

    ``numbers`` is numpy or keras.ops, whichever works with that.
    """
    scale = 1 / numbers.sqrt(read(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * read(norm.gamma)
    shift = (read(convolution.bias) if convolution.use_bias else 0) - read(norm.moving_mean)
    kernel = read(convolution.kernel)
    # A depthwise kernel is (height, width, channels, multiplier), its channels being the last two.
    depthwise = isinstance(convolution, layers.DepthwiseConv2D)
    per_channel = numbers.reshape(scale, kernel.shape[2:]) if depthwise else scale
    return kernel * per_channel, shift * scale + (read(norm.beta) if norm.center else 0)
