"""How sure a captioner is of its captions, and which of them are right. No Keras.

Legend: N captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from captioning.metrics.calibration import ConfidenceScores, confidence_intervals, confidence_scores
from captioning.metrics.references import Caption
from captioning.metrics.right import is_right


@dataclass(frozen=True)
class Sure:
    """The confidence of a captioner in its N captions, and which of them are right.

    ``confidence``: float ``(N,)`` from 0 to 1. ``right``: bool ``(N,)``. ``right_cider`` and ``unsure_below``: the
    bounds of the captioner's confidence.
    """

    confidence: np.ndarray
    right: np.ndarray
    right_cider: float
    unsure_below: float

    def scores(self, with_intervals: bool = False) -> ConfidenceScores:
        """What the confidence is worth. Intervals take a second for 5,000 captions."""
        scores = confidence_scores(self.confidence, self.right, self.right_cider, self.unsure_below)
        if with_intervals:
            scores = replace(scores, intervals=confidence_intervals(self.confidence, self.right))
        return scores

    @classmethod
    def of(
        cls,
        bounds: tuple[float, float],
        captions: Sequence[Caption],
        confidences: Sequence[float | None],
        references: Sequence[Sequence[Caption]],
        cider: np.ndarray,
    ) -> "Sure":
        """The judgement of N ``captions`` with their ``confidences``. ``bounds``: ``right_cider``, ``unsure_below``.

        ``cider``: the CIDEr-D of each, float64 ``(N,)``. ``references``: the captions of people for each image.
        """
        right_cider, unsure_below = bounds
        right = is_right(captions, references, cider, right_cider)
        return cls(np.array(confidences), right, right_cider, unsure_below)

    @classmethod
    def joined(cls, parts: Sequence["Sure"]) -> "Sure | None":
        """All captions of ``parts`` together, or None without parts. One captioner made all of them."""
        if not parts:
            return None
        confidence, right = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("confidence", "right")
        )
        return replace(parts[0], confidence=confidence, right=right)
