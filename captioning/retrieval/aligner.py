"""The aligner: images and captions as unit vectors of one space, and the one file it travels in.

    pixels (B, S, S, 3) --encoder--> features (B, R, D) --image tower--> vectors (B, J)
    captions --vocabulary--> token ids (N, T) --text tower--> vectors (N, J)

The cosine of an image's vector with a caption's, their product, says how well they go together. Encoder and bundle are
those of a captioner (``encoders``, ``bundles``); the towers are in ``towers``.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from captioning.features.batches import FeatureBatches
from captioning.features.digests import encoder_digest, weights_digest
from captioning.features.folding import FoldedEncoder
from captioning.pictures.loading import PREPROCESSING, UnreadableImage, load_ahead, load_image
from captioning.retrieval.towers import build_towers
from captioning.storage import bundles
from captioning.words.padding import pad
from captioning.words.vocabulary import Vocabulary
from config import Config

# Captions are read in widths that are multiples of this many tokens: few widths to compile, little padding.
_WIDTH = 8


class Aligner:
    """Encoder, towers and vocabulary of one trained run, with the settings it was trained with."""

    def __init__(self, config: Config, vocabulary: Vocabulary, encoder: keras.Model, towers: keras.Model):
        self.config, self.vocabulary, self.encoder, self.towers = config, vocabulary, encoder, towers
        self._encode = FoldedEncoder(encoder)

    @classmethod
    def untrained(cls, config: Config, vocabulary: Vocabulary, encoder: keras.Model) -> "Aligner":
        """An aligner around ``encoder`` with fresh towers."""
        return cls(config, vocabulary, encoder, build_towers(config, len(vocabulary), encoder.output_shape[-1]))

    def embed_pixels(self, pixels: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Unit vectors float32 ``(B, J)`` of RGB pixels ``(B, S, S, 3)`` from 0 to 255, so many at a time."""
        vectors = np.empty((len(pixels), self.config.joint_size), dtype=np.float32)
        for start in range(0, len(pixels), batch_size):
            # Rounded as those of a feature store are.
            features = self._encode(pixels[start : start + batch_size]).astype(self.config.feature_dtype)
            vectors[start : start + batch_size] = self.embed_features(features)
        return vectors

    def embed_features(self, features: np.ndarray | FeatureBatches) -> np.ndarray:
        """Unit vectors float32 ``(B, J)`` of features ``(B, R, D)``, or of all rows of a store's batches."""
        return np.asarray(self.towers.image.predict(features, verbose=0))

    def embed_files(
        self, paths: Mapping[str, Path], names: Sequence[str], batch_size: int, workers: int
    ) -> Iterator[tuple[Sequence[str], np.ndarray, dict[str, UnreadableImage]]]:
        """Of the pictures ``names``, found at ``paths``, in batches: names, unit vectors of those that can be read, and
        the reasons why others cannot. The next batch is decoded while one is embedded.
        """

        batches = [names[start : start + batch_size] for start in range(0, len(names), batch_size)]
        size = self.config.image_size
        with ThreadPoolExecutor(workers) as pool:
            ahead = load_ahead(pool, batches, lambda name: load_image(paths[name], size), size, batch_size)
            for batch, (pixels, reasons) in zip(batches, ahead, strict=True):
                readable = [i for i in range(len(batch)) if i not in reasons]
                yield (
                    batch,
                    self.embed_pixels(pixels, batch_size)[readable],
                    {batch[i]: reason for i, reason in reasons.items()},
                )

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 ``(N, J)`` of captions."""
        rows = [self.vocabulary.encode(text, self.config.max_caption_length) for text in texts]
        widths = np.asarray([-(-len(row) // _WIDTH) * _WIDTH for row in rows])
        vectors = np.empty((len(rows), self.config.joint_size), dtype=np.float32)
        for width in np.unique(widths):
            chosen = np.flatnonzero(widths == width)
            token_ids = pad([rows[row] for row in chosen], width)
            vectors[chosen] = self.towers.text.predict(token_ids, batch_size=256, verbose=0)
        return vectors

    @cached_property
    def fingerprint(self) -> str:
        """20 hex digits for all that decides the vectors: an index holds those of one model only."""
        parts = [
            encoder_digest(self.encoder, self.config.encoder),
            weights_digest(self.towers.image),
            weights_digest(self.towers.text),
            PREPROCESSING,
            *(str(getattr(self.config, name)) for name in ("image_size", "feature_grid", "feature_dtype")),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]

    def save(self, path: Path) -> None:
        """Write the bundle, or nothing."""
        with bundles.writing(path, "aligner", self.config, self.vocabulary, self.encoder) as folder:
            self.towers.save_weights(folder / "towers.weights.h5")

    @classmethod
    def load(cls, path: Path) -> "Aligner":
        """Read a bundle, or that of a run folder. Raises UserError when it is missing, damaged or not of an aligner."""
        with bundles.reading(path, "aligner") as (folder, config, vocabulary, encoder):
            aligner = cls.untrained(config, vocabulary, encoder)
            bundles.load_weights(aligner.towers, folder / "towers.weights.h5", path)
        return aligner
