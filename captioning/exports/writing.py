"""Writes exports: a captioner from pixels to word ids as graphs, for TensorFlow, ONNX or LiteRT.

All three formats are made from traced TensorFlow functions, because TensorFlow's converters keep the loop of the
search. So exports are written under Keras' TensorFlow backend. The captioner may have been trained under any backend,
because a bundle is the same for all.

SavedModel and LiteRT have one graph with the decoding settings of the export. ONNX has two, which leave beam size,
length penalty and shortest caption open (see ``graphs.py``). ``test.py`` and ``app.py`` caption with these.
Its encoder may be written once more, computing in 8 bits (see ``quantising.py``).
Legend: B images, S pixels per side, R regions, D feature size, K captions per image, L longest caption in tokens.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from captioning.base.backend import backend_name, models_within
from captioning.base.environment import package_versions
from captioning.base.errors import UserError, first_line
from captioning.base.scratch import scratch_folder, temporary_files_in
from captioning.exports.graphs import Graphs
from captioning.exports.onnx_models import halve_weights, round_weights, to_onnx, with_defaults
from captioning.exports.quantising import quantised
from captioning.exports.reading import FORMAT, INT8_ENCODER, KINDS, Exported
from captioning.features.folding import fold
from captioning.pictures.loading import PREPROCESSING
from captioning.search.compiled import Search
from captioning.search.looking import looks
from config import DecodingSettings
from model import Captioner

_UNFINISHED = ".export-"  # begins the names of folders in which exports are made
_ROOM = 1 << 20  # bytes; on a disk with less, a converter that fails has found it full


def whole_graph(captioner: Captioner, encoder: keras.Model, search: Search) -> Callable[[Any], dict[str, Any]]:
    """Encoder and search as one function of tensors. ``encoder`` is the captioner's own encoder, folded.

    The function takes RGB pixels uint8 ``(B, S, S, 3)``. It gives ``tokens`` int32 ``(B, K, L)``, and ``log_probs`` and
    ``scores`` float32 ``(B, K)``. If ``search`` has a judge, it also gives ``confidence`` float32 ``(B, K)``.
    """
    encode = _encoder_graph(captioner, encoder)

    def graph(pixels):
        return _named(search.call(ops.cast(encode(pixels), "float32")))

    return graph


def _encoder_graph(captioner: Captioner, encoder: keras.Model) -> Callable[[Any], Any]:
    """The features ``(B, R, D)`` of pixels uint8 ``(B, S, S, 3)``, as a function. They are of ``feature_dtype``."""
    # The decoder was trained on features that were rounded in the same way.
    return lambda pixels: ops.cast(encoder(ops.cast(pixels, "float32"), training=False), captioner.config.feature_dtype)


def _search_graph(captioner: Captioner, search: Search) -> Callable[..., dict[str, Any]]:
    """The function that search.onnx is made of. ``graphs.py`` describes what it takes and gives."""
    decoder = captioner.decoder

    def graph(features, beam_size, length_penalty, min_length, looked=None, given=None):
        found = _named(search.call_with(ops.cast(features, "float32"), beam_size, length_penalty, min_length))
        if looked is None:
            return found
        state = decoder.init_state(ops.cast(looked, "float32"))
        return found | {"attention": looks(decoder.look, state, given, _looked_at(captioner))}

    return graph


def _looked_at(captioner: Captioner) -> int:
    """How many weights the attention for a word has: one for each region, and perhaps one for a sentinel."""
    return captioner.regions + captioner.decoder.has_sentinel


def _named(found: Sequence[Any]) -> dict[str, Any]:
    """What a ``Search`` gives, by name."""
    return dict(zip(("tokens", "log_probs", "scores", "confidence"), found, strict=False))


def write_export(
    captioner: Captioner,
    decoding: DecodingSettings,
    kind: str,
    folder: Path,
    int8: bool = False,
    fingerprint: str = "",
    calibration: np.ndarray | None = None,
) -> None:
    """Write ``captioner`` as ``kind``, one of ``reading.KINDS``, into ``folder``. It will decode as ``decoding`` says.

    The export is written as a whole or not at all. It is made in a neighbouring folder, where it captions a blank
    picture as a trial. Then it replaces an older export. ``int8``: the weights have 8 bits (onnx, litert).
    ``fingerprint``: that of the captioner's bundle (``base.trained.fingerprint``). ``calibration``: with onnx, also
    write an encoder that computes in 8 bits, in ranges seen on these RGB pixels uint8 ``(B, S, S, 3)``. Raises
    UserError if the converter cannot take this captioner, or if the folder cannot be written, as on a full disk.
    """
    if backend_name() != "tensorflow":
        raise UserError(
            f"backend: exports are made under TensorFlow, and Keras runs on {backend_name()}; unset KERAS_BACKEND "
            "(a trained captioner is the same on every backend)"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder.parent, _UNFINISHED) as temporary:
            new, parts = temporary / "new", temporary / "parts"
            new.mkdir()
            parts.mkdir()
            try:
                with temporary_files_in(parts):  # converters keep whole models there
                    _WRITERS[kind](captioner, decoding, new, int8)
                    if calibration is not None:
                        _int8_encoder(captioner, decoding, new, calibration)
                    _describe(captioner, decoding, kind, int8, fingerprint, new)
                    # A trial, because tf2onnx does not stop at an operator that it does not know.
                    Exported(new).captions(np.zeros((captioner.config.image_size,) * 2 + (3,), "uint8"))
            except (UserError, OSError):
                raise
            except Exception as error:  # converters and runtimes raise errors of many kinds
                if shutil.disk_usage(temporary).free < _ROOM:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
                raise UserError(
                    f"--format: {kind} cannot hold this captioner: {first_line(error)}; take another format"
                ) from None
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
    search = captioner.new_search(decoding)
    encoder, _ = fold(captioner.encoder)
    # Without the states of random numbers, which no caption needs. They would be others in each export.
    module.weights = [weight.value for part in (encoder, search) for weight in part.weights]
    pixels = tf.TensorSpec((batch, size, size, 3), tf.uint8, name="pixels")
    module.serve = tf.function(whole_graph(captioner, encoder, search), input_signature=[pixels])
    return module


def _savedmodel(captioner: Captioner, decoding: DecodingSettings, folder: Path, int8: bool) -> None:
    import tensorflow as tf

    module = _traced(captioner, decoding, None)
    path = folder / KINDS["savedmodel"].graphs[0]
    tf.saved_model.save(module, str(path), signatures=module.serve.get_concrete_function())


def _onnx(captioner: Captioner, decoding: DecodingSettings, folder: Path, int8: bool) -> None:
    import onnx

    for name, make in zip(KINDS["onnx"].graphs, (_onnx_encoder, _onnx_search), strict=True):
        model = make(captioner, decoding, int8)
        onnx.save(round_weights(model) if int8 else halve_weights(model), folder / name)


def _int8_encoder(captioner: Captioner, decoding: DecodingSettings, folder: Path, calibration: np.ndarray) -> None:
    """Write the encoder that computes in 8 bits beside the graphs in ``folder``, and try it."""
    import onnx

    onnx.save(quantised(_onnx_encoder(captioner, decoding, True), calibration), folder / INT8_ENCODER)
    Graphs(folder / INT8_ENCODER, folder / KINDS["onnx"].graphs[1]).encode(calibration[:1])


def _onnx_encoder(captioner: Captioner, decoding: DecodingSettings, int8: bool) -> Any:
    """encoder.onnx as an ONNX model.

    Unless it is for 8 bits, kernels stay apart from the batch norms behind them. Then the kernels of a bundle in half
    precision are still float16, and ``halve_weights`` loses nothing. ONNX Runtime folds them when it opens the file.
    """
    import tensorflow as tf

    encoder = fold(captioner.encoder)[0] if int8 else captioner.encoder
    size = captioner.config.image_size
    pixels = tf.TensorSpec((None, size, size, 3), tf.uint8, name="pixels")
    # TensorFlow would fold the batch norms too. As an input of the graph, the variance of a batch norm stops that.
    variances = [norm.moving_variance for norm in _batch_norms(encoder)]
    names = [f"variance_{i}" for i in range(len(variances))]
    specs = [tf.TensorSpec(each.shape, each.dtype, name=name) for each, name in zip(variances, names, strict=True)]
    encode = _encoder_graph(captioner, encoder)

    def graph(pixels, *values):
        with keras.StatelessScope(state_mapping=list(zip(variances, values, strict=True))):
            return {"features": encode(pixels)}

    model = to_onnx(graph, [pixels, *specs])
    return with_defaults(model, dict(zip(names, map(ops.convert_to_numpy, variances), strict=True)), fixed=True)


def _batch_norms(model: keras.Model) -> list[Any]:
    """The batch norms of ``model`` and of the models nested in it."""
    found = [layer for part in models_within(model) for layer in part.layers]
    return [layer for layer in dict.fromkeys(found) if isinstance(layer, keras.layers.BatchNormalization)]


def _onnx_search(captioner: Captioner, decoding: DecodingSettings, int8: bool) -> Any:
    """search.onnx as an ONNX model."""
    import tensorflow as tf

    width, dtype = int(captioner.encoder.output_shape[-1]), captioner.config.feature_dtype
    shape = (None, captioner.regions, width)
    specs = {
        "features": tf.TensorSpec(shape, dtype),
        "beam_size": tf.TensorSpec((), tf.int32),
        "length_penalty": tf.TensorSpec((), tf.float32),
        "min_length": tf.TensorSpec((), tf.int32),
    }
    defaults = {
        "beam_size": np.array(decoding.beam_size, "int32"),
        "length_penalty": np.array(decoding.length_penalty, "float32"),
        "min_length": np.array(decoding.min_length, "int32"),
    }
    if captioner.attends:
        specs |= {"looked": tf.TensorSpec(shape, dtype), "given": tf.TensorSpec((None, None), tf.int32)}
        defaults |= {"looked": np.zeros((0, *shape[1:]), dtype), "given": np.zeros((0, 0), "int32")}
    search = captioner.new_search(decoding)
    fixed = {}
    if search.phrases.banks > 1 or search.groups > 1:  # required phrases and groups share a beam of fixed size
        del specs["beam_size"], defaults["beam_size"]
        fixed["beam_size"] = search.beam_size
    compute = _search_graph(captioner, search)

    def graph(*values):
        return compute(**dict(zip(specs, values, strict=True)), **fixed)

    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()]
    return with_defaults(to_onnx(graph, signature), defaults)


def _litert(captioner: Captioner, decoding: DecodingSettings, folder: Path, int8: bool) -> None:
    import tensorflow as tf

    module = _traced(captioner, decoding, 1)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    (folder / KINDS["litert"].graphs[0]).write_bytes(converter.convert())


_WRITERS: dict[str, Callable[[Captioner, DecodingSettings, Path, bool], None]] = {
    "savedmodel": _savedmodel,
    "onnx": _onnx,
    "litert": _litert,
}


def _describe(
    captioner: Captioner, decoding: DecodingSettings, kind: str, int8: bool, fingerprint: str, folder: Path
) -> None:
    """Write ``vocabulary.json`` and ``export.json`` beside the model."""
    (folder / "vocabulary.json").write_text(captioner.vocabulary.to_json(), encoding="utf-8")
    size, beams = captioner.config.image_size, decoding.beam_size
    batch = 1 if kind == "litert" else None
    judged, confidence = captioner.confidence, {"dtype": "float32", "shape": [batch, beams]}
    about = {
        "format": FORMAT,
        "kind": kind,
        "int8": int8,
        "graphs": KINDS[kind].graphs,
        "bundle": fingerprint,
        "inputs": {"pixels": {"dtype": "uint8", "shape": [batch, size, size, 3]}},
        "outputs": {
            "tokens": {"dtype": "int32", "shape": [batch, beams, decoding.max_caption_length + 1]},
            "log_probs": {"dtype": "float32", "shape": [batch, beams]},
            "scores": {"dtype": "float32", "shape": [batch, beams]},
            **({"confidence": confidence} if judged else {}),
        },
        **({"unsure_below": judged.unsure_below} if judged else {}),
        "attends": captioner.attends,
        "regions": captioner.regions,
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
