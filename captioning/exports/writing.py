"""Writes exports: a captioner from pixels to word ids as one graph, for TensorFlow, ONNX or LiteRT.

All three formats are made from one traced TensorFlow function, because TensorFlow's converters keep the loop of the
search. So exports are written under Keras' TensorFlow backend. The captioner may have been trained under any backend,
because a bundle is the same for all.
Legend: B images, S pixels per side, K captions per image, L longest caption in tokens.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from captioning.base.backend import backend_name
from captioning.base.environment import package_versions
from captioning.base.errors import UserError
from captioning.base.scratch import scratch_folder
from captioning.exports.reading import FORMAT, KINDS, Exported
from captioning.features.folding import fold
from captioning.pictures.loading import PREPROCESSING
from captioning.search.compiled import Search
from config import DecodingSettings
from model import Captioner

_UNFINISHED = ".export-"  # begins the names of folders in which exports are made
OPSET = 18  # the newest version of ONNX' operators that tf2onnx 1.17 writes


def whole_graph(captioner: Captioner, encoder: keras.Model, search: Search) -> Callable[[Any], dict[str, Any]]:
    """Encoder and search as one function of tensors. ``encoder`` is the captioner's own encoder, folded.

    The function takes RGB pixels uint8 ``(B, S, S, 3)``. It gives ``tokens`` int32 ``(B, K, L)``, and ``log_probs`` and
    ``scores`` float32 ``(B, K)``. If ``search`` has a judge, it also gives ``confidence`` float32 ``(B, K)``.
    """
    names = ("tokens", "log_probs", "scores", *(("confidence",) if search.judge is not None else ()))

    def graph(pixels):
        features = encoder(ops.cast(pixels, "float32"), training=False)
        # The decoder was trained on features that were rounded in the same way.
        features = ops.cast(ops.cast(features, captioner.config.feature_dtype), "float32")
        return dict(zip(names, search.call(features), strict=True))

    return graph


def write_export(captioner: Captioner, decoding: DecodingSettings, kind: str, folder: Path, int8: bool = False) -> None:
    """Write ``captioner`` as ``kind``, one of ``reading.KINDS``, into ``folder``. It will decode as ``decoding`` says.

    The export is written as a whole or not at all. It is made in a neighbouring folder, where it captions a blank
    picture as a trial. Then it replaces an older export. ``int8``: the weights have 8 bits (onnx, litert). Raises
    UserError if the converter cannot take this captioner, or if the folder cannot be written.
    """
    if backend_name() != "tensorflow":
        raise UserError(
            f"backend: exports are made under TensorFlow, and Keras runs on {backend_name()}; unset KERAS_BACKEND "
            "(a trained captioner is the same on every backend)"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder.parent, _UNFINISHED) as temporary:
            new = temporary / "new"
            new.mkdir()
            try:
                _WRITERS[kind](captioner, decoding, new / KINDS[kind].model, int8)
                _describe(captioner, decoding, kind, int8, new)
                # A trial, because tf2onnx does not stop at an operator that it does not know.
                Exported(new).captions(np.zeros((captioner.config.image_size,) * 2 + (3,), "uint8"))
            except (UserError, OSError):
                raise
            except Exception as error:  # converters and runtimes raise errors of many kinds
                reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
                raise UserError(f"--format: {kind} cannot hold this captioner: {reason}; take another format") from None
            if folder.exists():
                os.rename(folder, temporary / "old")
            os.rename(new, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --output") from None


def _traced(captioner: Captioner, decoding: DecodingSettings, batch: int | None):
    """A ``tf.Module`` whose ``serve`` is the whole graph. ``batch``: pictures at a time; None: any number."""
    import tensorflow as tf

    size = captioner.config.image_size
    module = tf.Module()
    search = Search(captioner.decoder, decoding, captioner.confidence, captioner.vocabulary)
    encoder, _ = fold(captioner.encoder)
    module.weights = [weight.value for part in (encoder, search) for weight in part.variables]
    pixels = tf.TensorSpec((batch, size, size, 3), tf.uint8, name="pixels")
    module.serve = tf.function(whole_graph(captioner, encoder, search), input_signature=[pixels])
    return module


def _savedmodel(captioner: Captioner, decoding: DecodingSettings, path: Path, int8: bool) -> None:
    import tensorflow as tf

    module = _traced(captioner, decoding, None)
    tf.saved_model.save(module, str(path), signatures=module.serve.get_concrete_function())


def _onnx(captioner: Captioner, decoding: DecodingSettings, path: Path, int8: bool) -> None:
    import tf2onnx

    # Its warnings are about the graph, which users cannot change.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    serve = _traced(captioner, decoding, None).serve
    tf2onnx.convert.from_function(
        serve,
        input_signature=serve.input_signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, ["Erf"])},
        output_path=str(path),
    )
    if int8:
        _round_weights(path)


def _round_weights(path: Path) -> None:
    """Store the large weights of an ONNX model in 8 bits, with one scale per output channel.

    The model still computes in float32. The alternative, onnxruntime's quantize_dynamic, rounds activations too. It
    made a ResNet50 three times as slow as in float. Its file was 1.5 times as large as with this function, and no more
    captions stayed the same.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph, restored = model.graph, []
    for weight in list(graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2 or np.prod(weight.dims) < 1024:
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
    nodes = [*restored, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


def _erfc(graph, node, name, args) -> None:
    """Write Erfc(x) as 1 - Erf(x). TensorFlow's GELU uses Erfc, which ONNX does not have."""
    one = graph.make_const(f"{name}_one", np.float32(1)).output[0]
    graph.insert_new_node_on_output("Sub", node.output[0], name=f"{name}_complement", inputs=[one, node.output[0]])


def _litert(captioner: Captioner, decoding: DecodingSettings, path: Path, int8: bool) -> None:
    import tensorflow as tf

    module = _traced(captioner, decoding, 1)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path.write_bytes(converter.convert())


_WRITERS: dict[str, Callable[[Captioner, DecodingSettings, Path, bool], None]] = {
    "savedmodel": _savedmodel,
    "onnx": _onnx,
    "litert": _litert,
}


def _describe(captioner: Captioner, decoding: DecodingSettings, kind: str, int8: bool, folder: Path) -> None:
    """Write ``vocabulary.json`` and ``export.json`` beside the model."""
    (folder / "vocabulary.json").write_text(captioner.vocabulary.to_json(), encoding="utf-8")
    size, beams = captioner.config.image_size, decoding.beam_size
    batch = 1 if kind == "litert" else None
    judged, confidence = captioner.confidence, {"dtype": "float32", "shape": [batch, beams]}
    about = {
        "format": FORMAT,
        "kind": kind,
        "int8": int8,
        "model": KINDS[kind].model,
        "inputs": {"pixels": {"dtype": "uint8", "shape": [batch, size, size, 3]}},
        "outputs": {
            "tokens": {"dtype": "int32", "shape": [batch, beams, decoding.max_caption_length + 1]},
            "log_probs": {"dtype": "float32", "shape": [batch, beams]},
            "scores": {"dtype": "float32", "shape": [batch, beams]},
            **({"confidence": confidence} if judged else {}),
        },
        **({"unsure_below": judged.unsure_below} if judged else {}),
        "image_size": size,
        "pixels": {
            "name": PREPROCESSING,
            "recipe": "RGB 0-255, upright by EXIF, transparency over white, squashed to image_size x image_size by "
            "Pillow's antialiased bicubic; JPEG decoded at a half, quarter or eighth where that leaves twice "
            "image_size",
        },
        "decoding": decoding.decoding(),
        "versions": package_versions(),
        "sha256": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    (folder / "export.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
