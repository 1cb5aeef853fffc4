"""Batches for training: one whole caption per row, features read from the store as they are needed.

What stays in memory is two bytes per caption word (four where the vocabulary is beyond 65,535), and some thirty per caption;
features, shifted inputs and targets exist per batch only.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from captioning.base.backend import compiles_per_shape
from captioning.features.store import FeatureStore, View
from captioning.pictures.loading import load_varied
from captioning.words.padding import pad
from captioning.words.tokenizer import tokenize
from captioning.words.vocabulary import PAD, Vocabulary
from config import Config

# Batches are trimmed to a multiple of this many tokens. JAX compiles anew for every width, so it should meet few.
_ROUND_TO = 4 if compiles_per_shape() else 1
# Captions are sorted by length within this many shuffled batches: enough to pad little, too few to lose randomness.
_POOL_BATCHES = 50
# Captions with these words are wrong of a mirrored image.
_SIDES = {"left", "right", "leftmost", "rightmost", "lefthand", "righthand", "left-hand", "right-hand"}


def round_width(tokens: int, coarseness: int = 1) -> int:
    """The width that rows of so many tokens get: the next multiple of ``coarseness``, or of four times that on JAX."""
    step = _ROUND_TO * coarseness
    return -(-tokens // step) * step


class CaptionBatches(keras.utils.PyDataset):
    """Shuffled batches ``((features, inputs), targets)`` for teacher forcing.

    ``features`` ``(B, R, D)`` in the store's dtype, ``inputs`` int32 ``(B, T)`` from ``<start>`` on, ``targets`` int32
    ``(B, T)`` the same shifted by one. Rows end in ``<pad>`` (0). Each caption comes once an epoch; the order depends
    on ``seed`` and ``epoch`` alone, so that a resumed run meets the same batches.
    """

    def __init__(
        self,
        store: FeatureStore,
        captions: Iterable[tuple[str, str]],
        vocabulary: Vocabulary,
        config: Config,
        shuffle: bool = True,
        views: Sequence[View] = (),
    ):
        """``captions`` holds pairs (file name, caption); those of images that the store lacks are left out.

        In each epoch a caption meets its image as it is or in one of the ``views``, all equally likely, but in no mirrored
        one when it says left or right. All views hold the training images that ``store`` holds, in the same rows.
        """
        super().__init__(workers=config.workers, max_queue_size=8)
        self.shuffle = shuffle
        self.store = store
        # Mirrored ones first, the image as it is last.
        views = sorted(views, key=lambda view: not view.mirrored)
        self.looks = [*(view.store for view in views), self.store]
        self.mirrored_looks = sum(view.mirrored for view in views)
        self.batch_size, self.seed = config.batch_size, config.seed
        # All captions end to end; caption i is tokens[offsets[i] : offsets[i] + lengths[i]].
        tokens, lengths, rows, view_rows, names_side = array("i"), array("i"), array("i"), array("i"), array("b")
        for name, caption in captions:
            if name not in store.rows:
                continue
            found = vocabulary.encode(caption, config.max_caption_length)
            tokens.extend(found)
            lengths.append(len(found))
            rows.append(store.rows[name])
            if views:  # whose images are those of training alone
                view_rows.append(views[0].store.rows[name])
            names_side.append(self.mirrored_looks > 0 and not _SIDES.isdisjoint(tokenize(caption)))
        self.tokens = np.asarray(tokens, dtype=np.min_scalar_type(len(vocabulary)))
        self.rows, self.lengths, self.view_rows = (np.array(column, np.int32) for column in (rows, lengths, view_rows))
        self.names_side = np.array(names_side, bool)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self.epoch = 0
        self._lay_out()

    def _lay_out(self) -> None:
        """Decide the batches of this epoch: shuffle, sort by length within pools, cut, shuffle the batches."""
        rng = np.random.default_rng((self.seed, self.epoch))
        count = len(self.rows)
        order = rng.permutation(count) if self.shuffle else np.argsort(self.lengths, kind="stable")
        self.batches = self._cut(order, self.lengths, self.batch_size)
        if self.shuffle:
            rng.shuffle(self.batches)
        self._put_extremes_first()
        self.look = self._draw_looks(rng, self.names_side)

    def _draw_looks(self, rng: np.random.Generator, names_side: np.ndarray) -> np.ndarray:
        """Which of ``looks`` each caption or image gets; never a mirrored one where ``names_side``."""
        first = np.where(names_side, self.mirrored_looks, 0).astype(np.uint8)
        return first + (rng.random(len(names_side)) * (len(self.looks) - first)).astype(np.uint8)

    def _cut(self, order: np.ndarray, lengths: np.ndarray, size: int) -> list[np.ndarray]:
        """``order`` in batches of ``size`` entries with about the same of ``lengths``: sorted within pools, then cut."""
        batches, pool = [], size * _POOL_BATCHES
        for start in range(0, len(order), pool):
            chunk = order[start : start + pool]
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        return batches

    def _put_extremes_first(self) -> None:
        """The widest batch first, so that too large a batch fails at once; then the narrowest.

        Keras' TensorFlow adapter takes a dimension for fixed when the first two batches agree in it.
        """
        for extreme in (np.argmin, np.argmax):
            widths = [self._width(batch) for batch in self.batches]
            self.batches.insert(0, self.batches.pop(extreme(widths)))

    def start_epoch(self, epoch: int) -> None:
        """Lay out the batches of ``epoch`` (from 0)."""
        self.epoch = epoch
        self._lay_out()

    def _width(self, batch: np.ndarray) -> int:
        """Tokens per row of a batch: those of its longest caption but one, since inputs and targets are shifted."""
        return round_width(int(self.lengths[batch].max()) - 1)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int):
        chosen = self.batches[index]
        tokens = self._read_tokens(chosen)
        return (self._read_features(chosen), tokens[:, :-1]), tokens[:, 1:]

    def _read_tokens(self, captions: np.ndarray) -> np.ndarray:
        """Token ids int32 ``(len(captions), T + 1)`` from ``<start>`` on, padded."""
        starts, lengths = self.offsets[captions], self.lengths[captions]
        rows = [self.tokens[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return pad(rows, self._width(captions) + 1)

    def _read_features(self, captions: np.ndarray) -> np.ndarray:
        """Features ``(len(captions), R, D)`` of the captions' images, as they look in this epoch."""
        looks = self.look[captions]
        features = np.empty((len(captions), self.store.regions, self.store.feature_size), self.store.dtype)
        for look in np.unique(looks):
            store, chosen = self.looks[look], looks == look
            features[chosen] = store.read((self.rows if store is self.store else self.view_rows)[captions[chosen]])
        return features

    @property
    def words(self) -> int:
        """Targets of this epoch: its words and ``<end>`` tokens."""
        return int(sum((self.lengths[batch] - 1).sum() for batch in self.batches))

    @property
    def padding(self) -> float:
        """Share of this epoch's target positions that hold padding, but for rows that only fill a batch up."""
        positions = sum(len(batch) * self._width(batch) for batch in self.batches)
        return 1 - self.words / positions


class PairBatches(CaptionBatches):
    """Shuffled batches ``((features (B, R, D), tokens (B, T), images int32 (B,)),)`` of captions and their images.

    ``tokens`` run from ``<start>`` on; ``images`` are the images' rows in the store. Captions of one batch are about equally
    long, so that little is padded and length does not tell the right one from the others.
    """

    def __getitem__(self, index: int):
        chosen = self.batches[index]
        return ((self._read_features(chosen), self._read_tokens(chosen), self.rows[chosen]),)


class ImageBatches(CaptionBatches):
    """Shuffled batches of whole images: ``(features (B, R, D), tokens (N, T + 1), image of each row int32 (N,), rows (B,))``.

    ``tokens`` int32 are all N captions of the B images from ``<start>`` on; ``rows`` are the images' rows in the store.
    An image looks the same for all its captions.
    """

    def _full_width(self) -> int:
        """What ``_width`` is where all batches are as wide as the longest caption."""
        return round_width(int(self.lengths.max()) - 1)

    @property
    def images_per_batch(self) -> int:
        return self.batch_size

    def _chosen(self, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Those of an image's captions that this epoch holds."""
        return group

    def _lay_out(self) -> None:
        rng = np.random.default_rng((self.seed, self.epoch))
        images, self.image_of = np.unique(self.rows, return_inverse=True)
        by_image = np.argsort(self.image_of, kind="stable")
        groups = np.split(by_image, np.flatnonzero(np.diff(self.image_of[by_image])) + 1)
        names_side = np.asarray([self.names_side[group].any() for group in groups])
        groups = [self._chosen(group, rng) for group in groups]
        longest = np.asarray([self.lengths[group].max() for group in groups])
        self.batches = [
            np.concatenate([groups[image] for image in batch])
            for batch in self._cut(rng.permutation(len(images)), longest, self.images_per_batch)
        ]
        rng.shuffle(self.batches)
        self._put_extremes_first()
        self.look = self._draw_looks(rng, names_side)[self.image_of]

    def __getitem__(self, index: int):
        captions, tokens, image, rows = self._read_images(index)
        return self._read_features(captions), tokens, image, rows

    def _read_images(self, index: int):
        """Of a batch: one caption of each image ``(B,)``, tokens ``(N, T + 1)``, image of each row, images' rows ``(B,)``."""
        chosen = self.batches[index]
        _, first, image = np.unique(self.image_of[chosen], return_index=True, return_inverse=True)
        captions = chosen[first]
        return captions, self._read_tokens(chosen), image.astype("int32"), self.rows[captions]

    def _fill_up(self, tokens: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """On JAX, which compiles anew for every number of captions too, few of these: by rows of padding, of the first image."""
        if not compiles_per_shape():
            return tokens, image
        missing = -len(tokens) % max(1, self.batch_size // 8)
        return np.pad(tokens, ((0, missing), (0, 0)), constant_values=PAD), np.pad(image, (0, missing))


class ReferenceBatches(ImageBatches):
    """ImageBatches with one caption of each image, drawn anew in every epoch.

    All are as wide as the longest caption: where widths vary, TensorFlow traces another graph in a resumed run, whose
    results differ in their last bits.
    """

    def _width(self, batch):
        return self._full_width()

    def _chosen(self, group, rng):
        return rng.choice(group, 1)


class GroupedBatches(ImageBatches):
    """Batches ``((features (B, R, D), inputs, image of each row), targets)`` of whole images with all their captions.

    For decoders that compute so much of an image alone that once for all its captions saves more than the padding costs.
    ``inputs`` and ``targets`` int32 ``(N, T)``, N about ``batch_size`` captions; image of each row int32 ``(N,)``. On JAX rows
    of nothing but ``<pad>`` may follow.
    """

    @property
    def images_per_batch(self) -> int:
        return max(1, round(self.batch_size * len(np.unique(self.rows)) / len(self.rows)))

    def __getitem__(self, index: int):
        captions, tokens, image, _ = self._read_images(index)
        tokens, image = self._fill_up(tokens, image)
        return (self._read_features(captions), tokens[:, :-1], image), tokens[:, 1:]


class PixelBatches(ImageBatches):
    """Batches ``((pixels, inputs, image of each row), targets)`` of whole images, for an encoder that learns too.

    ``pixels`` uint8 ``(B, S, S, 3)``, RGB 0-255, cropped, coloured and mirrored anew in every epoch; ``inputs`` and
    ``targets`` int32 ``(N, T)``; image of each row int32 ``(N,)``. On JAX rows of nothing but ``<pad>`` may follow.
    """

    def __init__(
        self, store: FeatureStore, paths: Mapping[str, Path], captions, vocabulary: Vocabulary, config: Config
    ):
        """``store`` tells which images can be read, ``paths`` (by file name) where they lie."""
        self.config = config
        self.paths = {store.rows[name]: path for name, path in paths.items() if name in store.rows}
        # The store stands in for a mirrored one, so that mirroring is drawn; the pictures themselves are turned below.
        super().__init__(store, captions, vocabulary, config, views=[View(store, True)] * config.mirror)

    def _width(self, batch):
        # On JAX all are as wide as the longest caption: to compile encoder and decoder once more costs more than padding.
        return self._full_width() if compiles_per_shape() else super()._width(batch)

    def __getitem__(self, index: int):
        captions, tokens, image, rows = self._read_images(index)
        pixels = np.stack([self._load(row) for row in rows.tolist()])
        swap = self.look[captions] < self.mirrored_looks
        pixels[swap] = pixels[swap, :, ::-1]
        tokens, image = self._fill_up(tokens, image)
        return (pixels, tokens[:, :-1], image), tokens[:, 1:]

    def _load(self, row: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, self.epoch, row))
        return load_varied(self.paths[row], self.config.image_size, self.config.crop, self.config.colour_jitter, rng)
