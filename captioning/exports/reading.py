"""Exports read back: pictures in, captions out, by the runtime of each format and without Keras.

What ``exporting`` writes is a folder with

    model/, model.onnx or model.tflite    encoder and search in one graph
    vocabulary.json                       {"words": [...]}: all words in id order, <pad> <start> <end> <unk> first
    export.json                           inputs, outputs, the pixel recipe, decoding settings, versions, sha256 of the rest
    check.json                            how its captions and times compare with the original's, once that was checked
    predictions.json                      the captions of that check, as evaluate.py --predictions reads them

``docs/exports.md`` shows how to do the same from scratch.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from captioning.base.errors import UserError
from captioning.search.hypotheses import IMPOSSIBLE
from captioning.words.vocabulary import Vocabulary

FORMAT = 1

# Each kind of export: the file or folder of its model, and what of requirements-export.txt it needs.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "savedmodel": ("model", ()),
    "onnx": ("model.onnx", ("tf2onnx", "onnx", "onnxruntime")),
    "litert": ("model.tflite", ("ai_edge_litert",)),
}

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class Exported:
    """One export, loaded: a function of uint8 RGB pixels ``(B, S, S, 3)``; LiteRT takes one picture at a time, B = 1.

    Gives ``tokens`` int32 ``(B, K, L)``, ``log_probs`` and ``scores`` float32 ``(B, K)``, as ``captioning.search.hypotheses.Hypotheses``.
    """

    def __init__(self, folder: Path):
        """Raises UserError when it is no whole export. The runtime starts with the first picture."""
        self.folder = folder
        try:
            self.about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
            words = (folder / "vocabulary.json").read_text(encoding="utf-8")
            self._start, self._model = _RUNTIMES[self.about["kind"]], folder / self.about["model"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: not a whole export ({error!r}); write it with export.py") from None
        self.vocabulary = Vocabulary.from_json(words, f"{folder}/vocabulary.json")

    @cached_property
    def _run(self) -> Run:
        try:
            return self._start(self._model)
        except ImportError as error:
            raise UserError(
                f"{self.folder}: cannot be run here ({error}); pip install -r requirements-export.txt"
            ) from None

    @property
    def megabytes(self) -> float:
        """Size of all that captioning needs, in units of 10^6 bytes."""
        return sum((self.folder / name).stat().st_size for name in self.about["sha256"]) / 1e6

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return self._run(pixels)

    def captions(self, pixels: np.ndarray) -> list[str]:
        """The captions of one picture ``(S, S, 3)``, best first, without those of an impossible rest of the beam."""
        found = self(pixels[None])
        texts = [self.vocabulary.decode(ids) for ids in found["tokens"][0]]
        return texts[:1] + [
            text for text, log_p in zip(texts[1:], found["log_probs"][0, 1:], strict=True) if log_p > IMPOSSIBLE
        ]


def _savedmodel(path: Path) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # whose variables live as long as the closure below

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {name: part.numpy() for name, part in loaded.signatures["serving_default"](tf.constant(pixels)).items()}

    return run


def _onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))


def _litert(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda pixels: signature(pixels=pixels)


_RUNTIMES: dict[str, Callable[[Path], Run]] = {"savedmodel": _savedmodel, "onnx": _onnx, "litert": _litert}


def compare(
    original: Callable[[np.ndarray], list[str]],
    exports: Iterable[Exported],
    pictures: Iterable[tuple[str, np.ndarray]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Caption each of ``pictures``, (name, pixels ``(S, S, 3)``), with the original and with all exports, one at a time.

    Every captioner sees a picture before the next picture comes, so that other work on the machine slows all alike. Gives a
    report on the original, ``{"pictures", "seconds"}``, and one on each export, ``{"same", "same_beams", "seconds",
    "different", "captions"}``: how many best captions and how many whole beams are the original's, the median time of a
    picture after a warm-up with the first one, where the best captions differ, and all of them, ``(name, caption)``. Raises
    UserError without pictures.
    """
    captioners = [original, *(exported.captions for exported in exports)]
    seconds: list[list[float]] = [[] for _ in captioners]
    reports = [{"same": 0, "same_beams": 0, "seconds": 0.0, "different": [], "captions": []} for _ in captioners[1:]]
    for name, pixels in pictures:
        if not seconds[0]:
            for captioner in captioners:
                captioner(pixels)
        found = []
        for captioner, times in zip(captioners, seconds, strict=True):
            started = time.perf_counter()
            found.append(captioner(pixels))
            times.append(time.perf_counter() - started)
        for report, captions in zip(reports, found[1:], strict=True):
            report["same_beams"] += captions == found[0]
            report["same"] += captions[0] == found[0][0]
            report["captions"].append((name, captions[0]))
            if captions[0] != found[0][0]:
                report["different"].append({"image": name, "original": found[0][0], "exported": captions[0]})
    if not seconds[0]:
        raise UserError("--check: none of the pictures can be read; name others")
    medians = [statistics.median(times) for times in seconds]
    for report, median in zip(reports, medians[1:], strict=True):
        report["seconds"] = median
    return {"pictures": len(seconds[0]), "seconds": medians[0]}, reports
