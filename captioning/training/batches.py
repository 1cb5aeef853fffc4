"""Batches for training with one caption per row. Features are read from the store as they are needed.

Two bytes per caption word stay in memory, or four where the vocabulary has more than 65,535 words, and about thirty
bytes per caption. Features, shifted inputs and targets exist for one batch at a time.
Legend: B captions, R regions, D feature size, T tokens.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from captioning.base.backend import compiles_per_shape
from captioning.features.store import FeatureStore, View
from captioning.words.padding import pad
from captioning.words.sides import names_sides
from captioning.words.vocabulary import Vocabulary
from config import BatchSettings

# The width of a batch is a multiple of this many tokens. JAX compiles every width anew, so it should get few widths.
_ROUND_TO = 4 if compiles_per_shape() else 1
# Captions are sorted by length within so many shuffled batches. That is enough to pad little, and keeps batches random.
_POOL_BATCHES = 50


def round_width(tokens: int, coarseness: int = 1) -> int:
    """The width of a batch whose longest row has so many tokens: the next multiple of ``coarseness``.

    On JAX it is the next multiple of four times that.
    """
    step = _ROUND_TO * coarseness
    return -(-tokens // step) * step


class CaptionBatches(keras.utils.PyDataset):
    """Shuffled batches ``((features, inputs), targets)`` for teacher forcing.

    ``features`` ``(B, R, D)`` have the dtype of the store. ``inputs`` int32 ``(B, T)`` begin with ``<start>``.
    ``targets`` int32 ``(B, T)`` are the same shifted by one. Rows end in ``<pad>`` (0).

    Each caption comes once per epoch, unless ``weights`` say otherwise. Which captions come, and in which order,
    depends on ``seed`` and ``epoch`` alone, so a resumed run gets the same batches.
    """

    def __init__(
        self,
        store: FeatureStore,
        captions: Iterable[tuple[str, str]],
        vocabulary: Vocabulary,
        settings: BatchSettings,
        shuffle: bool = True,
        views: Sequence[View] = (),
        weights: Sequence[float] = (),
    ):
        """``captions`` are pairs (file name, caption). Captions of images that the store lacks are left out.

        Each epoch shows a caption its image as it is or in one of the ``views``, all with equal probability. Captions
        that say left or right get no mirrored view. Every view has the same training images in the same rows as the
        others.

        ``weights``: how often the captions of each data set in ``store`` come per epoch; none: once. With 2.5 they come
        twice, and a random half of them, drawn anew in each epoch, comes a third time.
        """
        super().__init__(workers=settings.workers, max_queue_size=8)
        self.shuffle = shuffle
        self.store = store
        # The mirrored looks come first, and the image as it is comes last.
        views = sorted(views, key=lambda view: not view.mirrored)
        self.looks = [*(view.store for view in views), self.store]
        self.mirrored_looks = sum(view.mirrored for view in views)
        self.batch_size, self.seed = settings.batch_size, settings.seed
        # Of the captions or images of a batch those whose features this process reads (see ``SpreadBatches``).
        self.own_images: Callable[[np.ndarray], np.ndarray] = lambda chosen: chosen
        # All captions end to end: caption i is tokens[offsets[i] : offsets[i] + lengths[i]].
        tokens, lengths, rows, view_rows, names_side = array("i"), array("i"), array("i"), array("i"), array("b")
        for name, caption in captions:
            if name not in store.rows:
                continue
            found = vocabulary.encode(caption, settings.max_caption_length)
            tokens.extend(found)
            lengths.append(len(found))
            rows.append(store.rows[name])
            if views:  # views have rows of their own, because they hold only training images
                view_rows.append(views[0].store.rows[name])
            names_side.append(self.mirrored_looks > 0 and names_sides(caption, vocabulary.splitting))
        self.tokens = np.asarray(tokens, dtype=np.min_scalar_type(len(vocabulary)))
        self.rows, self.lengths, self.view_rows = (np.array(column, np.int32) for column in (rows, lengths, view_rows))
        self.names_side = np.array(names_side, bool)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self._repeat(weights)
        self.epoch = 0
        self._lay_out()

    def _repeat(self, weights: Sequence[float]) -> None:
        """Lay out as many copies of each caption as an epoch may need. Copies share their tokens.

        copy: the number of each copy, from 0. lottery: the data set, from 1, of a copy that not every epoch holds; 0
        for others. shares: how many of the copies an epoch holds, by these numbers.
        """
        self.copy = np.zeros(len(self.rows), np.uint8)
        self.lottery = np.zeros(len(self.rows), np.uint8)
        self.shares = {number: weight % 1 for number, weight in enumerate(weights, 1) if weight % 1}
        if all(weight == 1 for weight in weights):
            return
        data_set = self.store.part_of(self.rows)
        copies = np.ceil(weights).astype(int)[data_set]
        caption = np.repeat(np.arange(len(copies)), copies)
        self.copy = (np.arange(len(caption)) - np.repeat(np.cumsum(copies) - copies, copies)).astype(np.uint8)
        drawn = np.isin(data_set + 1, list(self.shares))[caption] & (self.copy == copies[caption] - 1)
        self.lottery = np.where(drawn, data_set[caption] + 1, 0).astype(np.uint8)
        self.rows, self.lengths, self.offsets = self.rows[caption], self.lengths[caption], self.offsets[caption]
        self.names_side = self.names_side[caption]
        if len(self.view_rows):
            self.view_rows = self.view_rows[caption]

    def _drawn(self, lottery: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The places of the captions or images that this epoch holds, where ``lottery`` is theirs (see ``_repeat``)."""
        drawn = [np.flatnonzero(lottery == 0)]
        for number, share in self.shares.items():
            places = np.flatnonzero(lottery == number)
            drawn.append(rng.permutation(places)[: max(1, round(share * len(places)))])
        return np.concatenate(drawn)

    def start_epoch(self, epoch: int) -> None:
        """Lay out the batches of ``epoch`` (from 0)."""
        self.epoch = epoch
        self._lay_out()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int):
        chosen = self.batches[index]
        tokens = self._read_tokens(chosen)
        return (self._read_features(chosen), tokens[:, :-1]), tokens[:, 1:]

    @property
    def captions(self) -> int:
        """Captions of this epoch."""
        return sum(map(len, self.batches))

    @property
    def words(self) -> int:
        """Targets of this epoch: its words and ``<end>`` tokens."""
        return int(sum((self.lengths[batch] - 1).sum() for batch in self.batches))

    @property
    def padding(self) -> float:
        """The share of this epoch's target positions that is padding. Rows that only fill up a batch do not count."""
        positions = sum(len(batch) * self._width(batch) for batch in self.batches)
        return 1 - self.words / positions

    def _lay_out(self) -> None:
        """Decide the batches of this epoch: shuffle, sort by length within pools, cut, shuffle the batches."""
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn = self._drawn(self.lottery, rng)
        order = rng.permutation(drawn) if self.shuffle else drawn[np.argsort(self.lengths[drawn], kind="stable")]
        self.batches = self._cut(order, self.lengths, self.batch_size)
        if self.shuffle:
            rng.shuffle(self.batches)
        self._put_extremes_first()
        self.look = self._draw_looks(rng, self.names_side)

    def _draw_looks(self, rng: np.random.Generator, names_side: np.ndarray) -> np.ndarray:
        """The number in ``looks`` that each caption or image gets; no mirrored one where ``names_side`` is true."""
        first = np.where(names_side, self.mirrored_looks, 0).astype(np.uint8)
        return first + (rng.random(len(names_side)) * (len(self.looks) - first)).astype(np.uint8)

    def _cut(self, order: np.ndarray, lengths: np.ndarray, size: int) -> list[np.ndarray]:
        """``order`` in batches of ``size`` entries of similar ``lengths``: sorted within pools, then cut."""
        batches, pool = [], size * _POOL_BATCHES
        for start in range(0, len(order), pool):
            chunk = order[start : start + pool]
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        return batches

    def _put_extremes_first(self) -> None:
        """Put the widest batch first, so that a batch that is too large fails at once, and the narrowest batch second.

        Keras' TensorFlow adapter assumes that a dimension is fixed if the first two batches agree in it.
        """
        for extreme in (np.argmin, np.argmax):
            widths = [self._width(batch) for batch in self.batches]
            self.batches.insert(0, self.batches.pop(extreme(widths)))

    def _width(self, batch: np.ndarray) -> int:
        """Tokens per row of a batch: one less than its longest caption has, since inputs and targets are shifted."""
        return round_width(int(self.lengths[batch].max()) - 1)

    def _read_tokens(self, captions: np.ndarray) -> np.ndarray:
        """Token ids int32 ``(len(captions), T + 1)`` that begin with ``<start>``, padded."""
        starts, lengths = self.offsets[captions], self.lengths[captions]
        rows = [self.tokens[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return pad(rows, self._width(captions) + 1)

    def _read_features(self, captions: np.ndarray) -> np.ndarray:
        """Features ``(B, R, D)`` of the captions' images, as they look in this epoch: those that this process reads."""
        captions = self.own_images(captions)
        looks = self.look[captions]
        features = np.empty((len(captions), self.store.regions, self.store.feature_size), self.store.dtype)
        for look in np.unique(looks):
            store, chosen = self.looks[look], looks == look
            features[chosen] = store.read((self.rows if store is self.store else self.view_rows)[captions[chosen]])
        return features


class PairBatches(CaptionBatches):
    """Shuffled batches ``((features (B, R, D), tokens (B, T), images int32 (B,)),)`` of captions and their images.

    ``tokens`` begin with ``<start>``. ``images`` are the images' rows in the store. Captions of one batch are about
    equally long. So little is padded, and length does not tell the right caption from the others.
    """

    def __getitem__(self, index: int):
        chosen = self.batches[index]
        return ((self._read_features(chosen), self._read_tokens(chosen), self.rows[chosen]),)
