"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory.

In inference a batch norm multiplies and shifts each channel by constants, which a convolution's kernel and bias can do as
well: w' = w s and b' = (b - mean) s + beta, where s = gamma / sqrt(variance + epsilon) (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877, equation 14). Keras keeps the two apart, and TensorFlow, which could merge convolution,
bias and ReLU into one kernel, cannot do so through Keras' batch norm. ``benchmarks/folding.py`` measures what it brings.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

_FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D)


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
    pairs = {id(convolution): (convolution, norm) for convolution, norm in _foldable(model)}
    dropped = {id(norm) for _, norm in pairs.values()}
    merged = {}

    def replace(layer):
        if id(layer) in dropped:
            return _Identity(dtype=layer.dtype_policy, autocast=False)
        if id(layer) not in pairs:
            return layer
        merged[id(layer)] = layer.__class__.from_config({**layer.get_config(), "use_bias": True})
        return merged[id(layer)]

    def renew() -> None:
        for key, pair in pairs.items():
            kernel, bias = _merged(*pair)
            merged[key].kernel.assign(kernel)
            merged[key].bias.assign(bias)

    folded = keras.models.clone_model(model, clone_function=replace, recursive=True)
    renew()
    return folded, renew


class _Identity(layers.Layer):
    """Stands where a batch norm was, and is called as that was, which Keras' own Identity may not be."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _foldable(model: keras.Model) -> Iterator[tuple[Any, layers.BatchNormalization]]:
    """Each convolution of ``model``, or of models within, into which the batch norm behind it can be folded."""
    models = {id(part): part for part in model._flatten_layers() if isinstance(part, keras.Model)}
    # A subclassed model tells nothing of its inside; a Sequential keeps its graph in a functional one.
    graphs = [getattr(part, "_functional", None) or part for part in models.values()]
    graphs = [graph for graph in graphs if hasattr(graph, "_nodes_by_depth")]
    nodes = {id(node): node for graph in graphs for level in graph._nodes_by_depth.values() for node in level}
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
