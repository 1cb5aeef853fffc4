"""A confidence for the small captioners of the tests, whose features have five numbers."""

import numpy as np

from captioning.confidence.logistic import Regression
from captioning.confidence.signals import Subspace
from captioning.confidence.stored import Confidence

_directions = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0]

CONFIDENCE = Confidence(
    inputs="words",
    regression=Regression(
        means=np.array([-1.0, 0.5, -2.0, 1.0, 5.0]),
        deviations=np.array([0.5, 1.0, 1.0, 0.5, 2.0]),
        weights=np.array([0.8, -0.6, 0.3, -0.2, 0.1]),
        bias=0.2,
    ),
    near=5.0,
    far=6.0,
    subspace=Subspace(np.full(5, 0.1, "float16"), _directions.astype("float16"), np.array([0.5, 0.2], "float32")),
    unsure_below=0.4,
    right_cider=33.0,
    fitted={"dataset": "toy"},
)
