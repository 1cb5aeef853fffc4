"""Captions in words, made of what a search found, and what a captioner offers to those who want them. No Keras.

Legend: B images, S pixels per side, K captions per image, L longest caption in tokens, T words, R regions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from captioning.search.hypotheses import IMPOSSIBLE
from captioning.words.vocabulary import Vocabulary
from config import Config, DecodingSettings


@dataclass(frozen=True)
class Caption:
    """One caption of an image."""

    text: str
    log_prob: float  # natural log of its probability
    score: float  # the score that ranks it
    confidence: float | None = None  # the probability that it is right; None if the captioner gives none
    unsure: bool = False  # whether its confidence is below the threshold of the captioner


class PictureCaptioner(Protocol):
    """What captions pictures: Keras' ``model.Captioner``, or its ONNX graphs, ``exports.runtime.GraphCaptioner``."""

    config: Config
    vocabulary: Vocabulary

    @property
    def precision(self) -> str:
        """The number format in which the encoder computes."""

    @property
    def lanes(self) -> int:
        """How many batches it is made to encode and caption at a time."""

    @property
    def attends(self) -> bool:
        """Whether it has attention to show."""

    @property
    def regions(self) -> int:
        """The regions of an image that its decoder may look at."""

    @property
    def is_judged(self) -> bool:
        """Whether its captions have a confidence."""

    def check(self, decoding: DecodingSettings) -> None:
        """Raise UserError if no caption can hold the words that ``decoding`` asks for."""

    def encode(self, pixels: np.ndarray) -> Any:
        """The features of RGB pixels uint8 ``(B, S, S, 3)``, for the other two methods."""

    def caption(
        self, features: Any, decoding: DecodingSettings | None = None, *, names: Sequence[str] | None = None
    ) -> list[list[Caption]]:
        """The captions of each image, best first. ``decoding``: the settings of the search; None: its own.

        ``names``: those of the pictures, which decide what is drawn for them.
        """

    def attend(self, features: Any, captions: Sequence[str]) -> list[np.ndarray]:
        """Where the decoder looks for each word of ``captions``, one per image, and then for ``<end>``.

        An array float32 ``(T + 1, R)`` for each; with a sentinel ``(T + 1, R + 1)``.
        """


def spelled(vocabulary: Vocabulary, found: Sequence[np.ndarray], unsure_below: float = 0.0) -> list[Caption]:
    """The captions of one image, best first.

    ``found``: what a search found for the image: tokens int ``(K, L)``, log_probs and scores float ``(K,)``, and
    perhaps confidences float ``(K,)``. Captions with a confidence below ``unsure_below`` are unsure. If a search finds
    fewer than K captions, impossible ones fill the rest, and they are left out. The first one always counts.
    """
    tokens, log_probs, scores, *judged = found
    captions = [
        Caption(vocabulary.decode(ids), float(log_prob), float(score))
        for ids, log_prob, score in zip(tokens, log_probs, scores, strict=True)
    ]
    for confidences in judged:
        captions = [
            replace(caption, confidence=float(confidence), unsure=bool(confidence < unsure_below))
            for caption, confidence in zip(captions, confidences, strict=True)
        ]
    return captions[:1] + [caption for caption in captions[1:] if caption.log_prob > IMPOSSIBLE]


def read_ids(vocabulary: Vocabulary, captions: Iterable[str]) -> list[np.ndarray]:
    """What a decoder reads while it predicts each word of the captions, and then ``<end>``: int32 ``(tokens + 1,)``."""
    return [vocabulary.encode(text, max_length=len(text))[:-1] for text in captions]  # no caption is cut


def weights_of_words(vocabulary: Vocabulary, captions: Sequence[str], weights: np.ndarray) -> list[np.ndarray]:
    """The attention for each word of the captions, and then for ``<end>``: float32 ``(T + 1, R)`` for each caption.

    ``weights`` float ``(captions, tokens + 1, R)``: the attention for each token; rows may be longer. A word of several
    WordPieces gets the mean of its pieces.
    """
    found = []
    for text, rows in zip(captions, weights.astype("float32"), strict=True):
        lengths = np.asarray([*vocabulary.lengths(text), 1])
        sums = np.add.reduceat(rows[: lengths.sum()], np.cumsum(lengths) - lengths)
        found.append(sums / lengths[:, None].astype("float32"))
    return found
