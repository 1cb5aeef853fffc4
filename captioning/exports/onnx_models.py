"""ONNX models: made from TensorFlow functions, and made smaller and faster without a change of what they compute."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captioning.exports.graphs import onnx_runtime

OPSET = 18  # the newest version of ONNX' operators that tf2onnx 1.17 writes
_LARGE = 1024  # numbers; smaller weights are stored as they are


def to_onnx(graph: Callable[..., Any], signature: Sequence[Any]) -> Any:
    """A function of tensors as an ONNX model. ``signature``: the TensorSpecs of its arguments."""
    onnx_runtime()  # first, because of the environment that it needs
    import tensorflow as tf
    import tf2onnx

    # Its warnings are about the graph, which users cannot change.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    function = tf.function(graph, input_signature=signature, autograph=False)
    model, _ = tf2onnx.convert.from_function(
        function,
        input_signature=signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, ["Erf"]), "SelectV2": (_select, ["Where"])},
    )
    # Tensors that a layer keeps, such as the places of the patches in a ViT. tf2onnx makes them inputs.
    kept = function.get_concrete_function().graph.captures
    values = {inner.name: outer.numpy() for outer, inner in kept if outer.dtype != tf.resource}
    model = with_defaults(model, values, fixed=True)
    _release_constants(model.graph)
    return _simplified(model)


def _erfc(graph, node, name, args) -> None:
    """Write Erfc(x) as 1 - Erf(x). TensorFlow's GELU uses Erfc, which ONNX does not have."""
    one = graph.make_const(f"{name}_one", np.float32(1)).output[0]
    graph.insert_new_node_on_output("Sub", node.output[0], name=f"{name}_complement", inputs=[one, node.output[0]])


def _select(graph, node, name, args) -> None:
    """Write SelectV2 as one Where. tf2onnx writes six nodes. Where takes no bool, so bool takes a way through int32."""
    from onnx import TensorProto

    node.type = "Where"
    if graph.get_dtype(node.output[0]) != TensorProto.BOOL:
        return
    for place in (1, 2):
        number = graph.make_node("Cast", [node.input[place]], attr={"to": TensorProto.INT32})
        graph.replace_input(node, node.input[place], number.output[0], place)
    graph.set_dtype(node.output[0], TensorProto.INT32)
    graph.insert_new_node_on_output("Cast", node.output[0], name=f"{name}_bool", to=TensorProto.BOOL)


def _release_constants(graph: Any) -> None:
    """Take what stays the same out of the variables of each loop of an ONNX ``graph``. Its body reads it from outside.

    tf2onnx makes every weight that a loop reads a variable of the loop, which is copied into it and out of it. ONNX
    Runtime prepares matrix products for fixed weights only.
    """
    for loop in (node for node in graph.node if node.op_type == "Loop"):
        (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
        source = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity"}
        new: dict[str, str] = {}  # names within the body, and later behind the loop, to names outside
        behind: dict[str, str] = {}
        # A body begins with the number of the pass and the condition, and ends with the condition.
        for place in reversed(range(len(loop.input) - 2)):
            origin = body.output[place + 1].name
            while origin in source:
                origin = source[origin]
            if origin != body.input[place + 2].name:
                continue
            new[origin] = behind[loop.output[place]] = loop.input[place + 2]
            del loop.input[place + 2], loop.output[place], body.input[place + 2], body.output[place + 1]
        _rename(body, new)
        _rename(graph, behind)
        for output in graph.output:
            assert output.name not in behind


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Let the nodes of an ONNX ``graph``, and of the graphs in it, read other ``names``."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)


def _simplified(model: Any) -> Any:
    """An ONNX ``model`` as ONNX Runtime simplifies it. It then opens faster. It stays within ONNX' own operators."""
    import onnx

    onnxruntime = onnx_runtime()
    with tempfile.TemporaryDirectory() as temporary:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(temporary, "simple.onnx"))
        onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"],  # it would store the transposed output weights beside the others
        )
        return onnx.load(options.optimized_model_filepath)


def with_defaults(model: Any, values: Mapping[str, np.ndarray], fixed: bool = False) -> Any:
    """An ONNX ``model`` whose inputs named in ``values`` have these as defaults.

    If ``fixed``, they are no inputs any more.
    """
    from onnx import numpy_helper

    inputs = [entry for entry in model.graph.input if not (fixed and entry.name in values)]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return model


def halve_weights(model: Any) -> Any:
    """Store those large weights of an ONNX ``model`` as float16 that float16 holds exactly. It computes the same."""
    import onnx
    from onnx import helper, numpy_helper

    graph, restored = model.graph, []
    for weight in list(graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < _LARGE:
            continue
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            halved = values.astype("float16")
        if not np.array_equal(halved.astype("float32"), values):
            continue
        name = f"{weight.name}_float16"
        graph.initializer.remove(weight)
        graph.initializer.append(numpy_helper.from_array(halved, name))
        restored.append(helper.make_node("Cast", [name], [weight.name], to=onnx.TensorProto.FLOAT))
    _prepend(graph, restored)
    return model


def round_weights(model: Any) -> Any:
    """Store the large weights of an ONNX ``model`` in 8 bits, with one scale per output channel.

    It still computes in float32. The alternative, onnxruntime's quantize_dynamic, rounds activations too. It made a
    ResNet50 three times as slow as in float. Its file was 1.5 times as large as with this function, and no more
    captions stayed the same.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph, restored = model.graph, []
    for weight in list(graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2 or np.prod(weight.dims) < _LARGE:
            continue
        values = numpy_helper.to_array(weight)
        # The kernels of convolutions, with 4 axes, have their output channels first.
        axis = 0 if values.ndim == 4 else values.ndim - 1
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.maximum(np.abs(values).max(others), 1e-12) / 127
        rounded = np.rint(values / np.expand_dims(scale, others)).astype("int8")
        names = [f"{weight.name}_int8", f"{weight.name}_scale"]
        graph.initializer.remove(weight)
        graph.initializer.extend(map(numpy_helper.from_array, (rounded, scale), names))
        restored.append(helper.make_node("DequantizeLinear", names, [weight.name], axis=axis))
    _prepend(graph, restored)
    return model


def _prepend(graph: Any, first: Sequence[Any]) -> None:
    """Put the nodes ``first`` before the other nodes of an ONNX graph."""
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
