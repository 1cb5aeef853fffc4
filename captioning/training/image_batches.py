"""Batches for training of whole images with their captions.

Legend: B images, S captions of each image, N captions of all B images, T tokens, R regions, D feature size, P pixels
per side.
Where a batch has ``image_of``, int32 ``(N,)``, it says which of its B images a caption is about.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from captioning.base.backend import compiles_per_shape
from captioning.decoders.base import Decoder
from captioning.decoders.loops import read_to_the_end
from captioning.features.store import FeatureStore, View
from captioning.pictures.loading import load_varied
from captioning.training.batches import CaptionBatches, round_width
from captioning.words.vocabulary import PAD, Vocabulary
from config import BatchSettings


def batches_for(decoder: Decoder | type[Decoder]) -> type[CaptionBatches]:
    """The class of batches for teacher forcing on stored features: of whole images if the ``decoder`` gains by them."""
    return GroupedBatches if decoder.by_image else CaptionBatches


class ImageBatches(CaptionBatches):
    """Shuffled batches ``(features (B, R, D), tokens (N, T + 1), image_of (N,), rows (B,))`` of whole images.

    ``tokens`` int32 are all captions of the images and begin with ``<start>``. ``rows`` are the images' rows in the
    store. An image looks the same for all its captions.
    """

    def __getitem__(self, index: int):
        captions, tokens, image_of, rows = self._read_images(index)
        return self._read_features(captions), tokens, image_of, rows

    @property
    def images_per_batch(self) -> int:
        return self.batch_size

    def _groups(self) -> np.ndarray:
        """A number for each caption, int64: the same for captions that stand together. Copies of an image are apart."""
        return self.rows + self.copy.astype(np.int64) * self.store.size

    def _chosen(self, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The captions of one image that this epoch holds, of all its captions ``group``."""
        return group

    def _size(self, group: np.ndarray) -> int:
        """Groups of captions that are alike in this number stand in the same batch."""
        return self.lengths[group].max()

    def _lay_out(self) -> None:
        rng = np.random.default_rng((self.seed, self.epoch))
        _, firsts, self.image_of = np.unique(self._groups(), return_index=True, return_inverse=True)
        by_image = np.argsort(self.image_of, kind="stable")
        groups = np.split(by_image, np.flatnonzero(np.diff(self.image_of[by_image])) + 1)
        names_side = np.asarray([self.names_side[group].any() for group in groups])
        drawn = self._drawn(self.lottery[firsts], rng)
        groups = [self._chosen(group, rng) for group in groups]
        sizes = np.asarray([self._size(group) for group in groups])
        self.batches = [
            np.concatenate([groups[image] for image in batch])
            for batch in self._cut(rng.permutation(drawn), sizes, self.images_per_batch)
        ]
        rng.shuffle(self.batches)
        self._put_extremes_first()
        self.look = self._draw_looks(rng, names_side)[self.image_of]

    def _full_width(self) -> int:
        """What ``_width`` is where all batches are as wide as the longest caption."""
        return round_width(int(self.lengths.max()) - 1)

    def _read_images(self, index: int):
        """One caption of each image ``(B,)``, tokens ``(N, T + 1)``, ``image_of (N,)``, images' rows ``(B,)``."""
        chosen = self.batches[index]
        _, first, image_of = np.unique(self.image_of[chosen], return_index=True, return_inverse=True)
        captions = chosen[first]
        return captions, self._read_tokens(chosen), image_of.astype("int32"), self.rows[captions]

    def _fill_up(self, tokens: np.ndarray, image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``tokens`` and ``image_of``, on JAX with rows of padding for the first image.

        Then there are few different numbers of captions. On JAX each of them costs a compilation.
        """
        if not compiles_per_shape():
            return tokens, image_of
        missing = -len(tokens) % max(1, self.batch_size // 8)
        return np.pad(tokens, ((0, missing), (0, 0)), constant_values=PAD), np.pad(image_of, (0, missing))


class ReferenceBatches(ImageBatches):
    """ImageBatches with one caption of each image. Every epoch draws it anew.

    All batches are as wide as the longest caption. With other widths TensorFlow would trace another graph in a resumed
    run, whose results differ in their last bits.
    """

    def _width(self, batch):
        return self._full_width()

    def _chosen(self, group, rng):
        return rng.choice(group, 1)


class WholeBatches(ImageBatches):
    """Batches ``((features (B, R, D), inputs, image_of), targets)`` of whole images with all their captions.

    ``inputs`` and ``targets`` are int32 ``(N, T)``, and N is about ``batch_size``. On JAX rows of ``<pad>`` alone may
    follow.
    """

    @property
    def images_per_batch(self) -> int:
        return max(1, round(self.batch_size * (self.image_of.max() + 1) / len(self.rows)))

    def __getitem__(self, index: int):
        captions, tokens, image_of, _ = self._read_images(index)
        tokens, image_of = self._fill_up(tokens, image_of)
        return (self._read_features(captions), tokens[:, :-1], image_of), tokens[:, 1:]


class GroupedBatches(ImageBatches):
    """Batches ``((features (B, R, D), inputs), targets)`` of images with S captions each.

    They suit decoders whose work depends on the image alone in a large part. That work is done once for S captions.
    ``inputs`` and ``targets`` are int32 ``(B, S, T)``, and B * S is about ``batch_size``. The captions of an image
    come longest first.

    S suits the data set. It is 5 where most images have five captions. An image with more captions comes more than
    once, and one with fewer has rows of ``<pad>`` alone.
    """

    @cached_property
    def captions_each(self) -> int:
        """S. An image is taken to cost as much as reading one of its captions."""
        _, counts = np.unique(super()._groups(), return_counts=True)
        return int(min(range(1, counts.max() + 1), key=lambda each: (-(-counts // each)).sum() * (each + 1)))

    @property
    def images_per_batch(self) -> int:
        return max(1, round(self.batch_size / self.captions_each))

    def _groups(self) -> np.ndarray:
        """Captions of an image stand together, S at most. They are of similar length."""
        image = super()._groups()
        order = np.lexsort((self.lengths, image))
        rank = np.empty(len(order), np.int64)
        rank[order] = _places_in_groups(image[order])
        return image * (rank.max() // self.captions_each + 1) + rank // self.captions_each

    def _chosen(self, group, rng):
        return group[np.argsort(-self.lengths[group], kind="stable")]

    def _size(self, group):
        """The length of the longest caption, and among equal ones that of the longest one that the loop leaves out.

        ``read_captions`` leaves out the shorter half of the captions once they have ended.
        """
        lengths, kept = self.lengths[group], read_to_the_end(self.captions_each)
        return int(lengths[0]) << 16 | int(lengths[kept] if kept < len(lengths) else 0)

    def __getitem__(self, index: int):
        captions, tokens, image_of, _ = self._read_images(index)
        order = np.argsort(image_of, kind="stable")
        grouped = np.full((len(captions), self.captions_each, tokens.shape[1]), PAD, tokens.dtype)
        grouped[image_of[order], _places_in_groups(image_of[order])] = tokens[order]
        return (self._read_features(captions), grouped[..., :-1]), grouped[..., 1:]


def _places_in_groups(groups: np.ndarray) -> np.ndarray:
    """The place of each entry in its group, from 0. Equal numbers in ``groups`` follow one another."""
    places = np.arange(len(groups))
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return places - np.repeat(starts, np.diff(starts, append=len(groups)))


class PixelBatches(ImageBatches):
    """Batches ``((pixels, inputs, image_of), targets)`` of whole images, for an encoder that learns too.

    ``pixels`` are uint8 ``(B, P, P, 3)``, RGB 0-255. Every epoch crops, colours, erases and mirrors them anew.
    ``inputs`` and ``targets`` are int32 ``(N, T)``. On JAX rows of ``<pad>`` alone may follow.
    """

    def __init__(
        self,
        store: FeatureStore,
        paths: Mapping[str, Path],
        captions: Iterable[tuple[str, str]],
        vocabulary: Vocabulary,
        settings: BatchSettings,
        image_size: int,
        weights: Sequence[float] = (),
    ):
        """``store`` tells which images can be read. ``paths`` has their files by file name. ``image_size`` is P."""
        self.image_size, self.crop, self.colour_jitter = image_size, settings.crop, settings.colour_jitter
        self.erase = settings.erase
        self.paths = {store.rows[name]: path for name, path in paths.items() if name in store.rows}
        # This view makes the base class draw which images are mirrored. The pixels themselves are mirrored below.
        super().__init__(
            store, captions, vocabulary, settings, views=[View(store, True)] * settings.mirror, weights=weights
        )

    def __getitem__(self, index: int):
        captions, tokens, image_of, _ = self._read_images(index)
        captions = self.own_images(captions)
        rows, copies = self.rows[captions].tolist(), self.copy[captions].tolist()
        pixels = np.stack([self._load(row, copy) for row, copy in zip(rows, copies, strict=True)])
        swap = self.look[captions] < self.mirrored_looks
        pixels[swap] = pixels[swap, :, ::-1]
        tokens, image_of = self._fill_up(tokens, image_of)
        return (pixels, tokens[:, :-1], image_of), tokens[:, 1:]

    def _width(self, batch):
        # On JAX one more compilation of encoder and decoder costs more than padding to the longest caption.
        return self._full_width() if compiles_per_shape() else super()._width(batch)

    def _load(self, row: int, copy: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, self.epoch, row, *[copy] * (copy > 0)))
        return load_varied(self.paths[row], self.image_size, self.crop, self.colour_jitter, rng, erase=self.erase)
