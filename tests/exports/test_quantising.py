"""Convolutions in 8 bits: all but the first compute with integers and give nearly the same. Nothing else changes."""

import numpy as np
import pytest

from captioning.exports.quantising import quantised

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIDE = 16


@pytest.fixture(scope="module")
def encoder():
    """A residual network like MobileNet's. One channel is dead but for its bias."""
    rng = np.random.default_rng(0)

    def weights(*shape):
        return rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype("float32")

    arrays = {
        "stem": weights(8, 3, 3, 3),
        "stem_bias": rng.normal(0, 0.3, 8).astype("float32"),
        "expand": weights(16, 8, 1, 1),
        "expand_bias": np.full(16, 0.2, "float32"),
        "depthwise": weights(16, 1, 3, 3),
        "project": weights(8, 16, 1, 1),
        "again": weights(8, 8, 1, 1),
        "head": weights(4, 8, 1, 1),
        "zero": np.float32(0),
        "six": np.float32(6),
        "scale": np.float32(1 / 128),
    }
    arrays["expand"][3], arrays["expand_bias"][3] = 1e-9, 0.5
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["float"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["float", "scale"], ["scaled"]),
        node("Transpose", ["scaled"], ["x"], perm=[0, 3, 1, 2]),
        node("Conv", ["x", "stem", "stem_bias"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "expand", "expand_bias"], ["c"]),
        node("Clip", ["c", "zero", "six"], ["d"]),
        node("Conv", ["d", "depthwise"], ["e"], group=16, pads=[1, 1, 1, 1]),
        node("Clip", ["e", "zero", "six"], ["f"]),
        node("Conv", ["f", "project"], ["g"]),
        node("Add", ["g", "b"], ["h"]),
        node("Conv", ["h", "again"], ["k"]),
        node("Add", ["k", "h"], ["l"]),
        node("Conv", ["l", "head"], ["i"]),
        node("Relu", ["i"], ["j"]),
        node("Transpose", ["j"], ["features"], perm=[0, 2, 3, 1]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "encoder",
        [value("pixels", onnx.TensorProto.UINT8, ["B", SIDE, SIDE, 3])],
        [value("features", onnx.TensorProto.FLOAT, ["B", SIDE // 2, SIDE // 2, 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)


def copy_of(model):
    return type(model).FromString(model.SerializeToString())


def opened(model, optimised=""):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_features_stay_nearly_the_same_and_convolutions_compute_with_integers(encoder, pictures, tmp_path):
    small = quantised(copy_of(encoder), pictures[:4])
    onnx.checker.check_model(small)
    (expected,) = opened(encoder).run(None, {"pixels": pictures[4:]})
    (found,) = opened(small, tmp_path / "optimised.onnx").run(None, {"pixels": pictures[4:]})
    assert np.linalg.norm(found - expected) < 0.04 * np.linalg.norm(expected)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 5  # but not the first of six, a fifth of them
    assert kinds.count("Conv") + kinds.count("FusedConv") == 1
    assert not {"Clip", "Relu"} & set(kinds[kinds.index("QLinearConv") :])


def test_the_first_convolution_keeps_its_weights(encoder, pictures):
    small = quantised(copy_of(encoder), pictures)
    arrays = {
        each.name: onnx.numpy_helper.to_array(each) for each in (*encoder.graph.initializer, *small.graph.initializer)
    }
    assert arrays["stem"].dtype == np.float32
    assert "expand_integers" in arrays
    assert "stem_integers" not in arrays


def test_a_sum_is_rounded_for_convolutions_but_not_for_the_next_sum(encoder, pictures):
    small = quantised(copy_of(encoder), pictures)
    read = {node.output[0]: list(node.input) for node in small.graph.node}
    assert read["l"] == ["k_rounded", "h"]
    assert read["k"][0] == "h_rounded"
    assert read["h"] == ["g_rounded", "b_rounded"]


def test_what_the_encoder_gives_is_not_rounded(encoder, pictures):
    bare = copy_of(encoder)
    del bare.graph.node[-1], bare.graph.output[:]
    bare.graph.output.append(onnx.ValueInfoProto(name="j"))
    (expected,) = opened(bare).run(None, {"pixels": pictures})
    (found,) = opened(quantised(bare, pictures)).run(None, {"pixels": pictures})
    assert found.min() == 0
    assert len(np.unique(found)) > 256
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_a_bias_fits_where_all_weights_are_tiny(encoder, pictures):
    small = quantised(copy_of(encoder), pictures)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in small.graph.initializer}
    restored = arrays["expand_bias_integers"] * arrays["expand_bias_scale"]
    assert restored[3] == pytest.approx(0.5, rel=1e-3)


def test_rounded_weights_do_not_shift_what_a_channel_gives():
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = np.array([1, -0.5, -0.5], "float32").reshape(1, 3, 1, 1)  # 127, -64 and -64 parts of 127
    nodes = [node("Cast", ["pixels"], ["x"], to=onnx.TensorProto.FLOAT), node("Conv", ["x", "weights"], ["y"])]
    inputs = [value("pixels", onnx.TensorProto.UINT8, ["B", 3, 4, 4])]
    outputs = [value("y", onnx.TensorProto.FLOAT, ["B", 1, 4, 4])]
    graph = onnx.helper.make_graph(nodes, "grey", inputs, outputs, [onnx.numpy_helper.from_array(weights, "weights")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    grey = np.full((2, 3, 4, 4), 200, np.uint8)
    (found,) = opened(quantised(model, grey)).run(None, {"pixels": grey})
    np.testing.assert_allclose(found, 0, atol=0.1)  # without the correction it is -1.6


def test_an_encoder_without_convolutions_is_refused(pictures):
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    with pytest.raises(ValueError, match="no convolutions"):
        quantised(empty, pictures)
