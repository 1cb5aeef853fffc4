"""Encoders in 8 bits: their convolutions compute with integers, in ranges seen on pictures. No Keras.

A float encoder becomes one with pairs of QuantizeLinear and DequantizeLinear (QDQ), which say what is rounded. ONNX
Runtime joins them with the convolutions between them. Weights are int8 with one scale per output channel. Activations
are uint8 with one scale per tensor. Such pairs are what processors with VNNI multiply fastest. With activations in int8
the pocket captioner's encoder was no faster than in float32.

The first convolutions stay in float32. All others compute on their result, so its errors spread furthest. A sum that
goes on into the next sum is float32 there, so that its errors do not add up from block to block.

The range of a tensor is the one with the smallest squared error on the pictures. Scaling the channels between two
convolutions to equal ranges (Nagel et al., 2019, https://arxiv.org/abs/1906.04721, section 4.1) was tried, and made the
features of the pocket captioner worse.
Legend: B pictures, S pixels per side.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from captioning.exports.graphs import onnx_runtime

_BATCH = 4  # pictures that are observed at a time
_SAMPLES = 4096  # values of each tensor that are kept of each batch
_PARTS = np.linspace(0.5, 1.0, 26)  # parts of the whole range that are tried as the range
_EXACT = 5  # one of so many convolutions stays in float32, the first ones

# The lowest and the highest value of a tensor; and its scale and zero point.
Limits = tuple[float, float]
Scale = tuple[np.ndarray, np.ndarray]


class _Graph:
    """An ONNX graph with its weights as arrays, and with the nodes that read each tensor."""

    def __init__(self, model: Any):
        from onnx import numpy_helper

        self.model, self.nodes, self.weights = model, model.graph.node, model.graph.initializer
        self.arrays = {each.name: numpy_helper.to_array(each) for each in self.weights}
        self.outputs = {output.name for output in model.graph.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)

    def activation(self, name: str) -> Any:
        """The Relu or Clip that alone reads the tensor ``name``, or None."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") else None

    def limits(self, node: Any) -> Limits:
        """The lowest and the highest value that a Relu or Clip gives."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        low, high, *_ = [*list(node.input)[1:], "", ""]
        return (float(self.arrays[low]) if low else -np.inf), (float(self.arrays[high]) if high else np.inf)

    def is_convolution(self, node: Any) -> bool:
        """Whether ``node`` is a two-dimensional convolution in float32 with weights that nothing else reads."""
        return node.op_type == "Conv" and all(
            name in self.arrays
            and self.arrays[name].dtype == np.float32
            and self.arrays[name].ndim == ndim
            and len(self.readers[name]) == 1
            for name, ndim in zip(node.input[1:], (4, 1), strict=False)
        )

    def store(self, **values: np.ndarray) -> None:
        """Add weights, by name."""
        from onnx import numpy_helper

        self.weights.extend(numpy_helper.from_array(value, name) for name, value in values.items())


def quantised(model: Any, pictures: np.ndarray) -> Any:
    """The float32 ONNX encoder ``model``, with convolutions that compute in 8 bits. The first fifth stays in float32.

    ``pictures``: RGB pixels uint8 ``(B, S, S, 3)`` like those that it will see. Batch norms must be part of the
    convolutions. Raises ValueError if there are no convolutions.
    """
    graph = _Graph(model)
    convolutions = [node for node in graph.nodes if graph.is_convolution(node)]
    if not convolutions:
        raise ValueError("its encoder has no convolutions, and only they compute in 8 bits")
    convolutions = convolutions[len(convolutions) // _EXACT :]
    limits = _rounded(graph, convolutions)
    samples, means = _observe(graph, list(limits), pictures)
    scales = {name: _scale(samples[name], *of) for name, of in limits.items()}
    nodes = _with_weights_in_8_bits(graph, convolutions, scales, means) + _with_rounding(graph, scales)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]  # the graph deletes its own
    del graph.nodes[:]
    graph.nodes.extend(copies)
    return model


def _rounded(graph: _Graph, convolutions: Sequence[Any]) -> dict[str, Limits]:
    """The tensors that get 8 bits, by name, with the values that they are limited to.

    They are what convolutions read and give, and sums of such tensors, but not what the encoder gives. Where an
    activation follows, what it gives is rounded, and not what it reads.
    """
    found: dict[str, Limits] = {}
    for node in graph.nodes:
        if node in convolutions:
            found.setdefault(node.input[0], (-np.inf, np.inf))
        elif node.op_type != "Add" or not all(name in found for name in node.input):
            continue
        activation = graph.activation(node.output[0])
        if activation is None:
            found[node.output[0]] = (-np.inf, np.inf)
        else:
            found[activation.output[0]] = graph.limits(activation)
    return {name: limits for name, limits in found.items() if name not in graph.outputs}


def _observe(
    graph: _Graph, names: Sequence[str], pictures: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the tensors ``names`` hold, by name.

    First samples of their values, with the lowest and the highest value of each batch; then the mean of each channel.
    """
    samples: dict[str, list[np.ndarray]] = defaultdict(list)
    means: dict[str, list[np.ndarray]] = defaultdict(list)
    rng = np.random.default_rng(0)
    for found in _runs(graph.model, names, pictures):
        for name, values in found.items():
            drawn = rng.choice(values.reshape(-1), _SAMPLES)
            samples[name] += [drawn, np.array([values.min(), values.max()])]
            means[name].append(values.mean((0, 2, 3)))
    return (
        {name: np.concatenate(parts) for name, parts in samples.items()},
        {name: np.mean(parts, axis=0) for name, parts in means.items()},
    )


def _runs(model: Any, names: Sequence[str], pictures: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """The tensors ``names`` of an ONNX encoder, batch by batch."""
    import onnx

    onnxruntime = onnx_runtime()
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for i in range(0, len(pictures), _BATCH):
        found = session.run(names, {session.get_inputs()[0].name: pictures[i : i + _BATCH]})
        yield dict(zip(names, found, strict=True))


def _scale(values: np.ndarray, low: float, high: float) -> Scale:
    """The scale and the zero point that round ``values``, limited to ``low`` and ``high``, with the least error."""
    values = values.clip(low, high)
    least, most = min(float(values.min()), 0.0), max(float(values.max()), 1e-6)
    found = []
    for part in _PARTS:
        scale = part * (most - least) / 255
        zero = np.rint(-part * least / scale)
        rounded = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
        found.append((float(np.square(rounded - values).mean()), scale, zero))
    _, scale, zero = min(found)
    return np.array(scale, "float32"), np.array(zero, "uint8")


def _with_weights_in_8_bits(
    graph: _Graph, convolutions: Sequence[Any], scales: Mapping[str, Scale], means: Mapping[str, np.ndarray]
) -> list[Any]:
    """Store the weights of ``convolutions`` as integers. Returns the nodes that restore them.

    ``means``: the mean of each channel of what they read. Rounded weights shift the mean of each channel of the result,
    and the bias takes the shift away (Nagel et al., section 4.2).
    """
    from onnx import helper

    integers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for node in convolutions:
        if len(node.input) == 2:
            node.input.append(f"{node.input[1]}_shift")
        kernel, of_input = graph.arrays[node.input[1]], scales[node.input[0]][0]
        bias = graph.arrays.get(node.input[2], np.zeros(len(kernel), "float32"))
        # A bias has 32 bits and the scale of the products. It must fit even where all weights of a channel are tiny.
        least = np.maximum(np.abs(bias) / of_input / 2**30, 1e-12)
        scale = np.maximum(np.abs(kernel).max((1, 2, 3)) / 127, least).astype("float32")
        rounded = np.rint(kernel / scale[:, None, None, None])
        error = (rounded * scale[:, None, None, None] - kernel).sum((2, 3))  # of each output for each input
        groups = means[node.input[0]].reshape(-1, kernel.shape[1])
        bias = bias - (error * np.repeat(groups, len(kernel) // len(groups), axis=0)).sum(1)
        integers[node.input[1]] = rounded.astype("int8"), scale
        integers[node.input[2]] = np.rint(bias / (scale * of_input)).astype("int32"), scale * of_input
    kept = [each for each in graph.weights if each.name not in integers]
    del graph.weights[:]
    graph.weights.extend(kept)
    for name, (values, scale) in integers.items():
        graph.store(**{f"{name}_integers": values, f"{name}_scale": scale})
    return [
        helper.make_node("DequantizeLinear", [f"{name}_integers", f"{name}_scale"], [name], axis=0) for name in integers
    ]


def _with_rounding(graph: _Graph, scales: Mapping[str, Scale]) -> list[Any]:
    """All nodes of the graph, with nodes that round each tensor in ``scales`` for those that read it.

    An activation goes where only its result is rounded. Rounding to the range that it gives does the same. A sum that
    has no activation is not rounded for further sums.
    """
    from onnx import helper

    nodes: list[Any] = []
    for node in list(graph.nodes):
        activation = graph.activation(node.output[0])
        if activation is not None and activation.output[0] in scales and node.output[0] not in scales:
            node.output[0] = activation.output[0]
        elif node.op_type in ("Relu", "Clip") and any(node.output[0] in before.output for before in nodes):
            continue
        nodes.append(node)
        for name in set(node.output) & set(scales):
            rounded, read = f"{name}_rounded", [f"{name}_scale", f"{name}_zero"]
            graph.store(**dict(zip(read, scales[name], strict=True)))
            nodes.append(helper.make_node("QuantizeLinear", [name, *read], [f"{name}_integers"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_integers", *read], [rounded]))
            for reader in graph.readers[name]:
                if activation is None and node.op_type == reader.op_type == "Add":
                    continue
                for place, each in enumerate(reader.input):
                    reader.input[place] = rounded if each == name else each
    return nodes
