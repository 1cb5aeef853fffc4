"""The two graphs of an ONNX export, run by ONNX Runtime. No Keras.

    encoder.onnx    pixels uint8 (B, S, S, 3) -> features (B, R, D), of the dtype ``feature_dtype``
    search.onnx     features (B, R, D) -> tokens int32 (B, K, L), log_probs and scores float32 (B, K), and confidence
                    float32 (B, K) if the captioner has one

Further inputs of search.onnx may be left out:

    beam_size int32 (), length_penalty float32 (), min_length int32 ()
                                by default those of the export. K is the beam size
    looked (M, R, D), given int32 (M, T)
                                the features of M pictures, and what the decoder reads about each, from <start> on.
                                Decoders with attention give one more output, attention float32 (M, T, R): where they
                                look for each next word. By default M is 0

So search.onnx is two functions that share the weights of the decoder: captions for ``features``, attention for
``looked``. Without rows of ``looked`` the second takes no time. ``features`` must have a row: some releases of ONNX
Runtime give the maximum over a dimension a wrong shape if there are no rows.
Legend: B images, S pixels per side, R regions, D feature size, K captions per image, L longest caption in tokens.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

# How much is computed at a time. More takes more memory, and is hardly faster.
_ENCODED = 2  # pictures
_LOOKED = 16  # captions whose attention is wanted


class Graphs:
    """Both graphs, opened. Raises whatever ONNX Runtime raises for files that it cannot run."""

    def __init__(self, encoder: Path, search: Path, threads: int | None = None, many: bool = False):
        """``threads``: how many compute each call. By default there is one for each core of this process.

        ``many``: whether it is to caption many pictures, as fast as it can.
        """
        # An arena keeps memory for the next batch. It makes the encoder a third faster, but the search only 7%. The
        # search of one picture would hold much more memory than it needs. It has very many small nodes, and to look for
        # some to fuse takes longer than it saves.
        threads = threads or cores()
        self._encoder = _session(encoder, "ORT_ENABLE_ALL", threads, arena=True)
        self._search = _session(search, "ORT_ENABLE_BASIC", threads, arena=many)
        (features,) = self._encoder.get_outputs()
        self._dtype, self._shape = _DTYPES[features.type], features.shape[1:]
        self._outputs = [output.name for output in self._search.get_outputs()]

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """The features ``(B, R, D)`` of RGB pixels uint8 ``(B, S, S, 3)``."""
        pixels = np.asarray(pixels, "uint8")
        return np.concatenate([self._encoder.run(None, {"pixels": part})[0] for part in _slices(_ENCODED, pixels)])

    def search(self, **inputs: Any) -> dict[str, np.ndarray]:
        """The outputs of search.onnx by name. ``inputs``: those described above, as arrays."""
        return dict(zip(self._outputs, self._search.run(None, inputs), strict=True))

    def attend(self, features: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
        """Where the decoder looks while it reads ``token_ids`` int32 ``(M, T)``: float32 ``(M, T, R)``."""
        blank = {"features": np.zeros((1, *self._shape), self._dtype), "beam_size": np.array(1, "int32")}
        parts = zip(_slices(_LOOKED, features), _slices(_LOOKED, token_ids), strict=True)
        return np.concatenate([self.search(**blank, looked=one, given=ids)["attention"] for one, ids in parts])


def _slices(count: int, rows: np.ndarray) -> list[np.ndarray]:
    """At most ``count`` of the ``rows`` at a time, in order. There is at least one slice, which may be empty."""
    return [rows[i : i + count] for i in range(0, max(1, len(rows)), count)]


_DTYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32}


def onnx_runtime() -> Any:
    """The library ONNX Runtime, which then tells its makers nothing about this machine.

    Its release 1.32 sends them events by itself, and keeps a number of the machine in the user's cache. A user who
    wants that sets the environment variable ORT_DISABLE_TELEMETRY to 0. Raises ImportError.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read when the library is imported
    import onnxruntime

    return onnxruntime


def _session(path: Path, level: str, threads: int, arena: bool) -> Any:
    """``path``, opened.

    ``level``: how far the graph is optimised first. ``threads`` compute each call. ``arena``: whether memory is kept
    between runs.
    """
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 4  # it warns of inputs that may be left out, and raises its errors anyway
    options.intra_op_num_threads = threads
    # Threads that wait for work by spinning would take the cores from the other graph and from the readers of pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # This one would round the weights of convolutions in float32 between two in 8 bits, all channels on one scale.
    unwanted = ["WeightBiasQuantization"]
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted)


_taken: list[int] = []


def take_cores(count: int) -> None:
    """Let this process use so many cores from now on, because other workers of its machine use the others."""
    _taken[:] = [count]


def cores() -> int:
    """The cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([found, *_taken])
