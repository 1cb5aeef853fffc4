"""The aligner turns images and captions into unit vectors of one joint space. It is kept in one file, the bundle.

    pixels (B, S, S, 3) --encoder--> features (B, R, D) --image tower--> vectors (B, J)
    captions --vocabulary--> token ids (N, T) --text tower--> vectors (N, J)

The product of an image's vector and a caption's vector is their cosine. It says how well the two go together. An
aligner has the same encoders (``features.encoder``) and the same kind of file (``storage.bundles``) as a captioner. The
towers are in ``towers``.
Legend: B images, S pixels per side, R regions, D feature size, N captions, T tokens, J size of the joint space.
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
from captioning.features.spreading import predict
from captioning.features.store import FeatureStore
from captioning.features.weight_files import save_weights
from captioning.pictures.loading import PREPROCESSING, UnreadableImage, load_ahead, load_image
from captioning.pictures.notes import Notes
from captioning.retrieval.towers import build_towers
from captioning.storage import bundles
from captioning.words.padding import pad
from captioning.words.vocabulary import Vocabulary
from config import Config

# Captions are padded to a multiple of this many tokens. So few widths are compiled, and there is little padding.
_WIDTH = 8

# One batch of pictures, as ``index.Embed`` gives it: all names, unit vectors float32 (B, J) of the readable pictures,
# and the reasons why the other pictures cannot be read, by name.
Embedded = tuple[Sequence[str], np.ndarray, dict[str, UnreadableImage]]


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
        """Unit vectors float32 ``(B, J)`` of RGB pixels ``(B, S, S, 3)``, uint8 or float from 0 to 255.

        The encoder sees ``batch_size`` pictures at a time.
        """
        vectors = np.empty((len(pixels), self.config.joint_size), dtype=np.float32)
        for start in range(0, len(pixels), batch_size):
            # Features of a store are rounded to this type too.
            features = self._encode(pixels[start : start + batch_size]).astype(self.config.feature_dtype)
            vectors[start : start + batch_size] = self.embed_features(features)
        return vectors

    def embed_features(self, features: np.ndarray | FeatureBatches) -> np.ndarray:
        """Unit vectors float32 ``(B, J)`` of float features ``(B, R, D)``, or of all rows of a store's batches.

        A store's last batch may be filled up with copies of its last image. The copies get vectors too.
        """
        return np.asarray(predict(self.towers.image, features))

    def embed_files(
        self, names: Sequence[str], paths: Mapping[str, Path], batch_size: int, workers: int
    ) -> Iterator[Embedded]:
        """Read and embed the pictures ``names`` batch by batch. ``paths`` has the path of each name.

        ``workers`` threads read the next batch while the aligner embeds this one.
        """
        batches = [names[start : start + batch_size] for start in range(0, len(names), batch_size)]
        size = self.config.image_size
        with Notes() as notes, ThreadPoolExecutor(workers) as pool:
            ahead = load_ahead(pool, batches, lambda name: load_image(paths[name], size, notes), size, batch_size)
            for batch, (pixels, reasons) in zip(batches, ahead, strict=True):
                readable = [i for i in range(len(batch)) if i not in reasons]
                yield (
                    batch,
                    self.embed_pixels(pixels, batch_size)[readable],
                    {batch[i]: reason for i, reason in reasons.items()},
                )

    def embed_stored(self, names: Sequence[str], store: FeatureStore, batch_size: int) -> Iterator[Embedded]:
        """Embed the pictures ``names`` batch by batch. Their features are in ``store``."""
        for start in range(0, len(names), batch_size):
            batch = names[start : start + batch_size]
            yield batch, self.embed_features(store.read(np.asarray([store.rows[name] for name in batch]))), {}

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 ``(N, J)`` of N captions. Captions above ``max_caption_length`` words are cut."""
        rows = [self.vocabulary.encode(text, self.config.max_caption_length) for text in texts]
        widths = np.asarray([-(-len(row) // _WIDTH) * _WIDTH for row in rows])
        vectors = np.empty((len(rows), self.config.joint_size), dtype=np.float32)
        for width in np.unique(widths):
            chosen = np.flatnonzero(widths == width)
            token_ids = pad([rows[row] for row in chosen], width)
            vectors[chosen] = predict(self.towers.text, token_ids, batch_size=256)
        return vectors

    @cached_property
    def fingerprint(self) -> str:
        """20 hex digits that change with everything that decides the vectors. An index belongs to one fingerprint."""
        parts = [
            encoder_digest(self.encoder, self.config.encoder),
            weights_digest(self.towers.image),
            weights_digest(self.towers.text),
            PREPROCESSING,
            *(str(getattr(self.config, name)) for name in ("image_size", "feature_grid", "feature_dtype")),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]

    def save(self, path: Path, half: bool = False, lender: Path | None = None) -> None:
        """Write the bundle ``path`` as a whole or not at all.

        ``half``: kernels are rounded to float16, which halves the file. ``lender``: a captioner's bundle or a weights
        file that holds the same encoder, perhaps rounded. The bundle then has no encoder of its own. Raises UserError
        if the lender has another encoder.
        """
        with bundles.writing(path, "aligner", self.config, self.vocabulary, self.encoder, half, lender) as folder:
            save_weights(self.towers, folder / "towers.weights.h5")

    @classmethod
    def load(cls, path: Path) -> "Aligner":
        """The aligner in the bundle ``path``, or in the bundle of the run folder ``path``.

        Raises UserError if the bundle is missing, damaged or not of an aligner.
        """
        with bundles.reading(path, "aligner") as (folder, config, vocabulary, encoder):
            aligner = cls.untrained(config, vocabulary, encoder)
            bundles.load_weights(aligner.towers, folder / "towers.weights.h5", path)
        return aligner
