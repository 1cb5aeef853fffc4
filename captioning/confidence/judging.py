"""How sure a captioner is of its captions, beside what is true of them. No Keras.

Legend: N captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from captioning.metrics.calibration import ConfidenceScores, confidence_scores
from captioning.metrics.right import is_right

if TYPE_CHECKING:
    from captioning.confidence.stored import Confidence


@dataclass(frozen=True)
class Sure:
    """What a captioner thinks of its N captions, and what is true of them.

    confidence: float (N,). right: bool (N,). right_cider and unsure_below: those of the captioner's confidence.
    """

    confidence: np.ndarray
    right: np.ndarray
    right_cider: float
    unsure_below: float

    def scores(self) -> ConfidenceScores:
        """What the confidence is worth."""
        return confidence_scores(self.confidence, self.right, self.right_cider, self.unsure_below)

    @classmethod
    def of(
        cls,
        confidence: "Confidence",
        captions: Sequence[str],
        confidences: Sequence[float | None],
        references: Sequence[Sequence[str]],
        cider: np.ndarray,
    ) -> "Sure":
        """Of ``captions`` with these ``confidences``, which ``confidence`` gave. ``cider``: their CIDEr-D, float64 (N,)."""
        right = is_right(captions, references, cider, confidence.right_cider)
        return cls(np.array(confidences), right, confidence.right_cider, confidence.unsure_below)

    @classmethod
    def joined(cls, parts: Sequence["Sure"]) -> "Sure | None":
        """The captions of ``parts``, which one captioner said, together. None without parts."""
        if not parts:
            return None
        confidence, right = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("confidence", "right")
        )
        return replace(parts[0], confidence=confidence, right=right)
