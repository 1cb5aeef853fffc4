"""Compares exports with the original captioner: their captions and their speed. No Keras."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from captioning.base.errors import UserError
from captioning.exports.reading import Exported


class Original(NamedTuple):
    """The original in the comparison: how many pictures it captioned, and the median seconds of one picture."""

    pictures: int
    seconds: float


@dataclass
class Comparison:
    """How the captions of one export compare with those of the original.

    ``same``: the number of pictures with the same best caption. ``same_beams``: the number of pictures with the same
    captions in the same order. ``seconds``: the median of one picture. ``different``: the best captions that differ.
    ``captions``: the name of each picture and its best caption.
    """

    same: int = 0
    same_beams: int = 0
    seconds: float = 0.0
    different: list[dict[str, str]] = field(default_factory=list)
    captions: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, original: Sequence[str], exported: Sequence[str]) -> None:
        """Count the captions of one more picture, best first."""
        self.same_beams += exported == original
        self.same += exported[0] == original[0]
        self.captions.append((name, exported[0]))
        if exported[0] != original[0]:
            self.different.append({"image": name, "original": original[0], "exported": exported[0]})

    def to_json(self) -> dict[str, Any]:
        """All fields but ``captions``, which have a file of their own."""
        entry = asdict(self)
        del entry["captions"]
        return entry


def compare(
    original: Callable[[np.ndarray], list[str]],
    exports: Iterable[Exported],
    pictures: Iterable[tuple[str, np.ndarray]],
) -> tuple[Original, list[Comparison]]:
    """Caption ``pictures`` with the original and with each export, and compare.

    A picture is its name and its RGB pixels uint8 ``(S, S, 3)``. Each picture goes to all captioners before the next
    one comes, so other work on the machine slows all of them alike. Times are measured after a warm-up with the first
    picture. Raises UserError if there are no pictures.
    """
    captioners = [original, *(exported.captions for exported in exports)]
    seconds: list[list[float]] = [[] for _ in captioners]
    comparisons = [Comparison() for _ in captioners[1:]]
    for name, pixels in pictures:
        if not seconds[0]:
            for captioner in captioners:
                captioner(pixels)
        found = []
        for captioner, times in zip(captioners, seconds, strict=True):
            started = time.perf_counter()
            found.append(captioner(pixels))
            times.append(time.perf_counter() - started)
        for comparison, captions in zip(comparisons, found[1:], strict=True):
            comparison.add(name, found[0], captions)
    if not seconds[0]:
        raise UserError("--check: none of the pictures can be read; name others")
    medians = [statistics.median(times) for times in seconds]
    for comparison, median in zip(comparisons, medians[1:], strict=True):
        comparison.seconds = median
    return Original(len(seconds[0]), medians[0]), comparisons
