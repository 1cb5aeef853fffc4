"""The confidence of a captioner: the probability that a caption is right. It travels in the captioner's bundle.

    confidence.json    {"format": 1,
                        "inputs": a set of ``inputs.INPUTS``, "signals": its signals,
                        "means", "deviations", "weights", "bias": the logistic regression on them (``logistic.py``),
                        "near", "far": the distances at which the probability begins to fall, and at which it is zero,
                        "unsure_below": captions with a lower probability are called unsure,
                        "right_cider": the CIDEr, times 100, above which a caption can be right (``metrics/right.py``),
                        "fitted": the data and decoding of the fit, and the results of cross-validation}
    confidence.npz     "mean", "directions", "deviations": where the training pictures lie (``signals.Subspace``)

The regression was fitted on dev, so it knows nothing about pictures that are stranger than those of dev. Beyond
``near`` the probability therefore falls. At ``far``, the distance of the strangest picture of dev, it is zero.
Legend: B images, K captions of each, R regions, D feature size, S signals.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.base.files import load_arrays, save_arrays
from captioning.base.json_files import load_json, take
from captioning.concepts.agreement import Reader
from captioning.confidence.inputs import INPUTS, PLAIN, places
from captioning.confidence.logistic import Regression
from captioning.confidence.signals import Signals, Subspace
from captioning.search.compiled import Judge

FORMAT = 1
MEMBERS = ("confidence.json", "confidence.npz")


@dataclass(frozen=True)
class Confidence:
    """Gives captions their probability of being right.

    The fields are those of confidence.json, described above. ``subspace`` is confidence.npz.
    """

    inputs: str
    regression: Regression
    near: float
    far: float
    subspace: Subspace
    unsure_below: float
    right_cider: float
    fitted: dict[str, Any]

    @property
    def needs_concepts(self) -> bool:
        """Whether it reads signals that only captioners with visual concepts have."""
        return max(places(INPUTS[self.inputs])) >= PLAIN

    def judge(self, reader: Reader | None) -> Judge:
        """What gives captions their probability of being right, float32 ``(B, K)``, in a search that keeps traces.

        ``reader``: that of the visual concepts of the captioner, if it has any.
        """
        signals = Signals(self.subspace, reader if self.needs_concepts else None)
        return lambda features, found: self.of_signals(signals(features, found))

    def of_signals(self, signals):
        """The probability that each caption with ``signals`` float32 ``(..., S)`` is right, float32 ``(...)``."""
        distance = signals[..., places(["distance"])[0]]
        return self.of_regression(signals) * ops.clip((self.far - distance) / (self.far - self.near), 0.0, 1.0)

    def of_regression(self, signals):
        """The same as ``of_signals``, as if no picture were strange."""
        means, deviations, weights, bias = self.regression
        # Signals that are not used have the weight zero.
        slopes = np.zeros(signals.shape[-1], "float32")
        slopes[places(INPUTS[self.inputs])] = weights / deviations
        start = float(bias - (means / deviations) @ weights)
        return ops.sigmoid(ops.sum(signals * ops.convert_to_tensor(slopes), axis=-1) + start)

    def save(self, folder: Path) -> None:
        """Write ``MEMBERS`` into ``folder``. Raises OSError."""
        about = {
            "format": FORMAT,
            "inputs": self.inputs,
            "signals": list(INPUTS[self.inputs]),
            **{name: np.asarray(value).tolist() for name, value in self.regression._asdict().items()},
            "near": self.near,
            "far": self.far,
            "unsure_below": self.unsure_below,
            "right_cider": self.right_cider,
            "fitted": self.fitted,
        }
        (folder / MEMBERS[0]).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        save_arrays(folder / MEMBERS[1], self.subspace._asdict())

    @classmethod
    def load(cls, folder: Path, bundle: Path) -> "Confidence | None":
        """The confidence that ``save`` wrote into ``folder``, or None if there is none.

        ``folder`` holds the members of ``bundle``. Raises UserError if this release cannot read the confidence.
        """
        if not (folder / MEMBERS[0]).exists():
            return None
        try:
            about = load_json(folder / MEMBERS[0], dict)
            inputs = take(about, "inputs", str)
            if take(about, "format", int) > FORMAT or list(INPUTS.get(inputs, ())) != about.get("signals"):
                raise ValueError("it is of a newer release")
            means, deviations, weights = (
                np.asarray(take(about, name, list), float) for name in ("means", "deviations", "weights")
            )
            if any(part.shape != (len(INPUTS[inputs]),) for part in (means, deviations, weights)):
                raise ValueError("means, deviations and weights are not one number for each signal")
            return cls(
                inputs=inputs,
                regression=Regression(means, deviations, weights, take(about, "bias", float)),
                subspace=Subspace(**load_arrays(folder / MEMBERS[1])),
                fitted=take(about, "fitted", dict),
                **{name: take(about, name, float) for name in ("near", "far", "unsure_below", "right_cider")},
            )
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{bundle}: its confidence cannot be read ({error!r}); update this software, or fit a new one with "
                "evaluate.py --fit-confidence"
            ) from None
