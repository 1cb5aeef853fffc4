"""The signals of a caption, which need no references: how sure the model was, and how strange the picture is.

captioning/confidence/inputs.py says what each signal means.
Legend: B images, K captions of each, L longest caption in tokens, R regions, D feature size, P directions, S signals.

The entropy of the attention and the agreement within a beam are not used. On Flickr8k dev they did not tell the
Lite0 captioner's right captions from its wrong ones. Besides, greedy search has no beam.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from captioning.concepts.agreement import Reader
from captioning.confidence.inputs import USED
from captioning.search.hypotheses import Hypotheses, Trace
from captioning.words.vocabulary import PAD

DIRECTIONS = 32  # of the subspace
_TINY = 1e-12
_LEAST_ENTROPY = 1e-3  # nats; the mean entropy of a caption is higher, unless the model knows only one sentence


class Subspace(NamedTuple):
    """The subspace near which the pooled features of the training pictures lie.

    Pooled features are the mean over the regions, scaled to length one. They lie around ``mean``, mostly along
    ``directions``.
    """

    mean: np.ndarray  # float16 (D,)
    directions: np.ndarray  # float16 (D, P): orthonormal, by falling variance
    deviations: np.ndarray  # float32 (P,): standard deviations along them

    @classmethod
    def of(cls, pooled: np.ndarray) -> "Subspace":
        """The subspace of ``pooled`` float ``(N, D)``, by principal component analysis.

        A row of ``pooled`` is the mean over the regions of the features of a training picture. The subspace has at most
        ``DIRECTIONS`` directions, and at most D and N - 1.
        """
        unit = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), _TINY)
        mean = unit.mean(axis=0)
        _, stretch, axes = np.linalg.svd(unit - mean, full_matrices=False)
        count = min(DIRECTIONS, int((stretch > 1e-6 * stretch[0]).sum()))
        deviations = stretch[:count] / np.sqrt(len(pooled))
        return cls(mean.astype("float16"), axes[:count].T.astype("float16"), deviations.astype("float32"))


class Signals:
    """Gives the ``SIGNALS`` of each caption, float32 ``(B, K, S)``. It is a ``Judge`` of ``search.compiled.Search``."""

    def __init__(self, subspace: Subspace, reader: Reader | None = None):
        """``reader``: that of the visual concepts. Without one only the ``PLAIN`` first signals are given."""
        self.subspace, self.reader = subspace, reader

    def __call__(self, features, found: Hypotheses):
        """The signals float32 ``(B, K, S)`` of the captions ``found``, which hold their traces.

        ``features`` float ``(B, R, D)`` are those of the images.
        """
        of_words = _of_words(found)  # (B, K, 5)
        of_pictures = self._of_pictures(features)[:, None]  # (B, 1, 18)
        parts = [of_words, ops.repeat(of_pictures, ops.shape(of_words)[1], axis=1)]
        if self.reader is not None:
            parts.append(ops.stack([*self.reader.read(features, found.tokens)], axis=-1))
        return ops.concatenate(parts, axis=-1)

    def _of_pictures(self, features):
        mean, directions, deviations = (ops.convert_to_tensor(part.astype("float32")) for part in self.subspace)
        pooled = ops.mean(ops.cast(features, "float32"), axis=1)  # (B, R, D) -> (B, D)
        unit = pooled / ops.sqrt(ops.sum(ops.square(pooled), axis=-1, keepdims=True) + _TINY)
        centred = unit - mean
        along = ops.matmul(centred, directions)  # (B, P)
        outside = ops.sum(ops.square(centred), axis=-1) - ops.sum(ops.square(along), axis=-1)
        scaled = along / deviations
        distance = ops.log(ops.maximum(outside, _TINY))
        spread = ops.log(ops.sum(ops.square(scaled), axis=-1) + _TINY)
        # A subspace of few pictures has fewer directions. Zeros take the places of the missing ones.
        used = ops.pad(scaled, [[0, 0], [0, max(0, USED - scaled.shape[1])]])[:, :USED]
        return ops.concatenate([distance[:, None], spread[:, None], used], axis=-1)


def _of_words(found: Hypotheses):
    """The first five signals, float32 ``(B, K, 5)``."""
    log_p, entropy = Trace(*found.trace)
    length = ops.maximum(ops.sum(ops.cast(found.tokens != PAD, "float32"), axis=-1), 1.0)
    # The trace is zero at <pad>. Zero is never the lowest log p nor the highest entropy, so minimum and maximum are
    # right.
    parts = [
        ops.sum(log_p, axis=-1) / length,
        ops.log(ops.maximum(ops.sum(entropy, axis=-1) / length, _LEAST_ENTROPY)),
        ops.min(log_p, axis=-1),
        ops.max(entropy, axis=-1),
        length,
    ]
    return ops.stack(parts, axis=-1)
