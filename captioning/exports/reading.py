"""Reads an export and runs it with the runtime of its format: pixels in, captions out. No Keras.

An export is a folder, which ``writing`` makes:

    model/ or model.tflite           encoder and search in one graph
    encoder.onnx, search.onnx        with ONNX they are two graphs (see ``graphs.py``)
    encoder-int8.onnx                perhaps the encoder once more, computing in 8 bits (see ``quantising.py``)
    vocabulary.json                  {"words": [...]}: all words in id order, <pad> <start> <end> <unk> first; see
                                     ``Vocabulary.to_json``
    export.json                      inputs, outputs, the recipe for pixels, decoding settings, versions, the sha256 of
                                     the other files, and the fingerprint of the bundle that it was made of
                                     (``base.trained.fingerprint``). With a confidence also "unsure_below": captions
                                     with a lower confidence are called unsure
    check.json                       how its captions and times compare with the original's, from export.py --check
    predictions.json                 the captions of that check, as evaluate.py --predictions reads them
    check-int8.json, predictions-int8.json
                                     the same with encoder-int8.onnx

``docs/exports.md`` shows how to read an export without this module.
Legend: B images, S pixels per side, K captions per image, L longest caption in tokens.
"""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from captioning.base.errors import UserError
from captioning.base.json_files import load_json, take
from captioning.exports.graphs import Graphs
from captioning.search.hypotheses import IMPOSSIBLE
from captioning.words.vocabulary import Vocabulary

FORMAT = 2  # 1: with ONNX, encoder and search were one graph


class Kind(NamedTuple):
    """A kind of export: the names of its graphs' files or folders, and the libraries that write it and run it."""

    graphs: tuple[str, ...]
    libraries: tuple[str, ...]


# A SavedModel needs TensorFlow only. The other libraries come with the extra "export".
KINDS = {
    "savedmodel": Kind(("model",), ()),
    "onnx": Kind(("encoder.onnx", "search.onnx"), ("tf2onnx", "onnx", "onnxruntime")),
    "litert": Kind(("model.tflite",), ("ai_edge_litert",)),
}

INT8_ENCODER = "encoder-int8.onnx"

# A loaded graph: uint8 RGB pixels (B, S, S, 3) to named arrays.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class Exported:
    """One export, loaded: a function of RGB pixels uint8 ``(B, S, S, 3)``. LiteRT takes B = 1 only.

    It gives ``tokens`` int32 ``(B, K, L)``, ``log_probs`` and ``scores`` float32 ``(B, K)``. They are the parts of
    ``search.hypotheses.Hypotheses``. If the captioner had a confidence, it also gives ``confidence`` float32 ``(B,
    K)``.
    """

    def __init__(self, folder: Path, int8_encoder: bool = False):
        """Open the export in ``folder``. The runtime starts with the first picture.

        ``int8_encoder``: take the encoder that computes in 8 bits, which there must be. Raises UserError if the export
        is not complete, or of another release. The first picture raises UserError if the runtime is missing.
        """
        self.folder = folder
        try:
            self.about = load_json(folder / "export.json", dict)
            words = (folder / "vocabulary.json").read_text(encoding="utf-8")
            kind = take(self.about, "kind", str, _RUNTIMES.__contains__)
            found = take(self.about, "format", int)
            take(self.about, "sha256", dict)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: not a whole export ({error!r}); write it with export.py") from None
        if found != FORMAT:
            raise UserError(
                f"{folder}: written by another release (format {found}, this one reads {FORMAT}); write it anew with "
                "export.py"
            )
        self.int8_encoder = int8_encoder
        encoder, *others = KINDS[kind].graphs
        names = [INT8_ENCODER if int8_encoder else encoder, *others]
        self._start, self._graphs = _RUNTIMES[kind], [folder / name for name in names]
        self.vocabulary = Vocabulary.from_json(words, f"{folder}/vocabulary.json")

    @cached_property
    def _run(self) -> Run:
        try:
            return self._start(*self._graphs)
        except ImportError as error:
            raise UserError(f'{self.folder}: cannot be run here ({error}); pip install -e ".[export]"') from None

    @property
    def name(self) -> str:
        """What reports call it: its folder, and the encoder if that is another one."""
        return f"{self.folder.name}, int8 encoder" if self.int8_encoder else self.folder.name

    @property
    def has_int8_encoder(self) -> bool:
        """Whether there is an encoder that computes in 8 bits. Installed packages leave it out."""
        return INT8_ENCODER in self.about["sha256"] and (self.folder / INT8_ENCODER).is_file()

    @property
    def megabytes(self) -> float:
        """The size of its graphs and its vocabulary, in units of 10^6 bytes."""
        found = [self.folder / "vocabulary.json"]
        for graph in self._graphs:
            found += [path for path in graph.rglob("*") if path.is_file()] if graph.is_dir() else [graph]
        return sum(path.stat().st_size for path in found) / 1e6

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return self._run(pixels)

    def captions(self, pixels: np.ndarray) -> list[str]:
        """The captions of one picture, RGB uint8 ``(S, S, 3)``, best first. Impossible captions are left out."""
        found = self(pixels[None])
        texts = [self.vocabulary.decode(ids) for ids in found["tokens"][0]]
        return texts[:1] + [
            text for text, log_p in zip(texts[1:], found["log_probs"][0, 1:], strict=True) if log_p > IMPOSSIBLE
        ]


def _savedmodel(path: Path) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # its variables live as long as the function below

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {name: part.numpy() for name, part in loaded.signatures["serving_default"](tf.constant(pixels)).items()}

    return run


def _onnx(encoder: Path, search: Path) -> Run:
    graphs = Graphs(encoder, search)
    return lambda pixels: graphs.search(features=graphs.encode(pixels))


def _litert(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda pixels: signature(pixels=pixels)


_RUNTIMES: dict[str, Callable[..., Run]] = {"savedmodel": _savedmodel, "onnx": _onnx, "litert": _litert}
