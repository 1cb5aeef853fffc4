"""Visual concepts: which words fit a picture, whatever the sentence.

A detector looks at the features of an image. For each of the commonest words of the training captions it gives the
probability that a caption of the image has this word. It learns after the decoder (``training/stages/concepts.py``).
The idea is that of Fang et al. (2015), https://arxiv.org/abs/1411.4952: detect words first, then make sentences of
them. Here the detected words change the logits of a decoder that was trained without them (``decoder.py``), like the
external language model in the shallow fusion of Gulcehre et al. (2015), https://arxiv.org/abs/1503.03535.

Let p be the probability of the word, and q the share of training captions that have it. Let o be the probability of the
object that the word names: 1 - (1 - p) (1 - p') ... over all words for this object. The logit of a word then grows by

    concept_weight * (log p - log q)     if the detector knows it
    object_weight * log o                if it names an object
    rare_weight * log (c / q)            if q is below c, which is 0.5%

The first part prefers words that the picture suggests. The second part avoids objects that are unlikely to be there.
The third part prefers rare words, like the logit adjustment of Menon et al. (2021), https://arxiv.org/abs/2007.07314.
Words that the detector does not know count as rare as the rarest word that it knows. All parts depend on the image
alone, so they are computed once per image.

With ``names`` the detector also asks the classifier that the encoder came from (``classes.py``). Let s be the
probability that the word names a class in the picture, and n the least one that counts. Then p becomes
1 - (1 - p) (1 - s). The logit of the word grows by

    class_weight * log (s / n) + h

until a word of that name has been said. h is the bias that new words were lowered by (``HELD``); others have none.

A decoder that was trained by rewards says words twice: "a couch sitting on top of a couch". Let a be the number of the
training captions with a word, and b that of those that have it more than once.

    t = (b + 0.1) / (a + 10)

Once a word has been said, repeat_weight * log t takes the place of what made it likelier. The same holds for the other
words of its name, each with its own t. This avoids a second couch and allows a second "a".

Legend: B images, R regions, D feature size, W words, O objects, V vocabulary size, G names of classes.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.base.json_files import load_json, take
from captioning.base.regions import masked, mean_over_regions, region_mask
from captioning.concepts.class_words import COUNT, ClassName, read_names
from captioning.concepts.classes import HELD, NOTED, Classifier
from captioning.features.weight_files import refuse_oversized, save_weights
from captioning.words.vocabulary import SPECIALS, Vocabulary
from config import DecodingSettings

FORMAT = 2  # 1: without classes
MEMBERS = ("concepts.json", "concepts.weights.h5")
LEAST = 1e-4  # no word is less probable: a word that no training picture of a kind has is rare, not impossible
_COMMON = 0.005  # words that a larger share of the training captions has are not preferred for being rare
_DROPOUT = 0.3
_REPEATED = 0.01  # t of words that no training caption has
_COUNTED = 10  # captions that weigh as much as that
_MOST_OBJECTS = 1000  # in a bundle; the memory grows with words times objects


class Concepts(keras.Model):
    """Features float ``(B, R, D)`` -> logits float32 ``(B, W)``: whether a caption of the image has each word.

    Mean and maximum over the regions are normalised, and go through one hidden layer. The words are those that this
    layer knows and, behind them, those that only classes of ImageNet name.
    """

    def __init__(
        self,
        ids: Sequence[int],
        objects: Sequence[str],
        feature_size: int,
        hidden_size: int,
        padded: bool = False,
        names: Sequence[ClassName] = (),
    ):
        """``ids``: the words of the hidden layer, as their ids in the vocabulary. ``objects``: what each of them names.

        A word that names no object has ``""``. ``padded``: images have different numbers of regions (see
        ``captioning/base/regions.py``). ``names``: those of classes of ImageNet, if the encoder has a classifier.
        """
        super().__init__()
        further = sorted({i for name in names for i in name.ids} - {*ids})
        self.learned = len(ids)
        self.ids, self.objects = [*ids, *further], [*objects, *[""] * len(further)]
        self.names = list(names)
        every = sorted({*objects} - {""})
        # float32 (W, O): 1 where a word names an object.
        self.naming = np.array([[name == each for name in every] for each in self.objects], "float32")
        self.feature_size, self.hidden_size, self.padded = feature_size, hidden_size, padded
        self.mean_norm = keras.layers.LayerNormalization(dtype="float32", name="mean_norm")
        self.peak_norm = keras.layers.LayerNormalization(dtype="float32", name="peak_norm")
        self.dropout = keras.layers.Dropout(_DROPOUT, dtype="float32", name="dropout")
        self.hidden = keras.layers.Dense(hidden_size, activation="relu", dtype="float32", name="hidden")
        self.words = keras.layers.Dense(self.learned, dtype="float32", name="words")
        self.mean_norm.build((None, feature_size))
        self.peak_norm.build((None, feature_size))
        self.hidden.build((None, 2 * feature_size))
        self.words.build((None, hidden_size))
        # The share of the training captions that have each word of the hidden layer.
        self.shares = self.add_weight(shape=(self.learned,), dtype="float32", trainable=False, name="shares")
        self.classifier = Classifier([name.classes for name in names], feature_size) if names else None
        # t of each word of the hidden layer. Bundles of older releases have None.
        self.repeated: list[float] | None = None
        self.built = True

    def start_from(self, shares: np.ndarray) -> None:
        """Begin with a detector that knows only how common each word is: ``shares`` float ``(W,)``, from 0 to 1."""
        shares = np.clip(shares, LEAST, 1 - LEAST)
        self.shares.assign(shares)
        self.words.bias.assign(np.log(shares) - np.log1p(-shares))

    def count_repeated(self, once: np.ndarray, again: np.ndarray) -> None:
        """Learn t from how many training captions have each word of the hidden layer, and have it more than once.

        Both are int ``(W,)``.
        """
        self.repeated = ((again + _REPEATED * _COUNTED) / (once + _COUNTED)).tolist()

    def call(self, features):
        """What hidden layer and classes say together."""
        detected = self.detect(features)
        if self.classifier is None:
            return detected
        seen = self._of_words(self.classifier(features), self.ids)
        further = ((0, 0), (0, len(self.ids) - self.learned))
        log_none = ops.pad(ops.log_sigmoid(-detected), further, constant_values=math.log1p(-LEAST))
        log_none += ops.log(1.0 - ops.minimum(seen, 1 - LEAST))
        return ops.log(ops.maximum(1.0 - ops.exp(log_none), LEAST)) - log_none

    def detect(self, features, training=None):
        """What the hidden layer says: logits of its words, the first ones."""
        features = ops.cast(features, "float32")
        mask = region_mask(features) if self.padded else None
        peaks = ops.max(masked(features, None if mask is None else mask[..., None]), axis=1)
        pooled = [self.mean_norm(mean_over_regions(features, mask)), self.peak_norm(peaks)]
        pooled = self.dropout(ops.concatenate(pooled, axis=-1), training=training)  # (B, 2 D)
        return self.words(self.dropout(self.hidden(pooled), training=training))

    def count_in(self, decoding: DecodingSettings) -> bool:
        """Whether a search with these settings asks for any of their preferences."""
        weights = decoding.concept_weight, decoding.object_weight, decoding.rare_weight, decoding.repeat_weight
        return any(weights) or self.classes_count_in(decoding)

    def classes_count_in(self, decoding: DecodingSettings) -> bool:
        """Whether a search with these settings prefers the names of classes."""
        return self.classifier is not None and decoding.class_weight > 0

    def names_of(self, ids: Sequence[int]) -> np.ndarray:
        """The place of the name that each word is for, int32; G for words that are for none."""
        places = {i: place for place, name in enumerate(self.names) for i in name.ids}
        return np.array([places.get(i, len(self.names)) for i in ids], "int32")

    def _of_words(self, values, ids: Sequence[int]):
        """Values of names float ``(B, G)`` as those of the words ``ids``; zero for words that are no name."""
        return ops.take(ops.pad(values, ((0, 0), (0, 1))), self.names_of(ids), axis=1)

    def places(self, vocabulary_size: int) -> np.ndarray:
        """The place of each word of the vocabulary among the W words, int32 ``(V,)``; W for all others."""
        places = np.full(vocabulary_size, len(self.ids), "int32")
        places[self.ids] = np.arange(len(self.ids), dtype="int32")
        return places

    def preferences(self, features, decoding: DecodingSettings, vocabulary_size: int):
        """What is added to the logit of each word of the vocabulary, float32 ``(B, V)``, for ``features (B, R, D)``.

        ``decoding`` has the three weights.
        """
        logits, log_q = self(features), self.log_shares()
        log_p = ops.maximum(ops.log_sigmoid(logits), math.log(LEAST))
        of_words = decoding.concept_weight * (log_p - log_q)
        if self.naming.size:
            log_o = ops.log(self.of_objects(logits))
            of_words += decoding.object_weight * ops.matmul(log_o, ops.transpose(self.naming))
        # Words that the detector does not know take the place behind its own.
        places = self.places(vocabulary_size)
        added = ops.take(ops.pad(of_words, ((0, 0), (0, 1))), places, axis=1)
        if decoding.rare_weight:
            rarity = ops.maximum(math.log(_COMMON) - ops.append(log_q, ops.min(log_q)), 0.0)
            is_word = (np.arange(vocabulary_size) >= len(SPECIALS)).astype("float32")
            added += decoding.rare_weight * ops.take(rarity, places) * is_word
        return added

    def of_names(self, features, weight: float, vocabulary_size: int):
        """What is added to the logit of each word for the class that it names, float32 ``(B, V)``.

        ``weight`` is the setting class_weight.
        """
        assert self.classifier is not None
        seen = self.classifier(features)
        held = np.array([HELD if name.new else 0.0 for name in self.names], "float32")
        added = ops.where(seen > 0, weight * ops.log(ops.maximum(seen, NOTED) / NOTED) + held, 0.0)
        return self._of_words(added, range(vocabulary_size))

    def repetition(self, weight: float, vocabulary_size: int) -> np.ndarray:
        """What is added to the logit of each word once it has been said, float32 ``(V,)``.

        ``weight`` is the setting repeat_weight. Raises UserError if it is not 0 and t was not counted.
        """
        if not weight:
            return np.zeros(vocabulary_size, "float32")
        if self.repeated is None:
            raise UserError(
                "repeat_weight: the visual concepts of this captioner are of an older release, which did not count "
                "repeated words; leave it at 0, or train them anew with train.py --stage concepts"
            )
        added = np.full(vocabulary_size, math.log(_REPEATED))
        added[: len(SPECIALS)] = 0
        added[self.ids[: self.learned]] = np.log(self.repeated)
        return (weight * added).astype("float32")

    def log_shares(self):
        """The log of the share of the training captions that have each word, float32 ``(W,)``."""
        further = (0, len(self.ids) - self.learned)
        return ops.pad(ops.log(ops.maximum(self.shares, LEAST)), further, constant_values=math.log(LEAST))

    def of_objects(self, logits):
        """The probability of each object, float32 ``(B, O)``, from ``logits`` ``(B, W)``. None is below ``LEAST``."""
        log_none = ops.matmul(ops.log_sigmoid(-logits), self.naming)  # that no word for the object fits
        return ops.maximum(1 - ops.exp(log_none), LEAST)

    def save_in(self, folder: Path, vocabulary: Vocabulary) -> None:
        """Write ``MEMBERS`` into ``folder``. Raises OSError.

        concepts.json is {"format": 1, "words": those of the hidden layer, "objects": {word: the object that it names},
        "hidden_size": int}. With t it also has "repeated", a list of numbers. With classes it is of format 2 and also
        has "names", a list of {"words": [...], "classes": [...], "new": true or false}.
        """
        words = [vocabulary.words[i] for i in self.ids[: self.learned]]
        about = {
            "format": FORMAT if self.names else 1,
            "words": words,
            "objects": {word: name for word, name in zip(words, self.objects, strict=False) if name},
            "hidden_size": self.hidden_size,
        }
        if self.repeated is not None:
            about["repeated"] = self.repeated
        if self.names:
            about["names"] = [
                {"words": [vocabulary.words[i] for i in name.ids], "classes": [*name.classes], "new": name.new}
                for name in self.names
            ]
        (folder / MEMBERS[0]).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
        save_weights(self, folder / MEMBERS[1])

    @classmethod
    def load_from(
        cls, folder: Path, bundle: Path, vocabulary: Vocabulary, feature_size: int, padded: bool = False
    ) -> "Concepts":
        """The detector that ``save_in`` wrote into ``folder``, which holds the members of ``bundle``.

        Raises UserError if it is missing, damaged or of a newer release.
        """
        try:
            about = load_json(folder / MEMBERS[0], dict)
            if take(about, "format", int) > FORMAT:
                raise ValueError("they are of a newer release")
            ids_of = {word: i for i, word in enumerate(vocabulary.words)}
            words, objects = [str(word) for word in take(about, "words", list)], take(about, "objects", dict)
            if len({*words}) < len(words) or not {*words} <= ids_of.keys():
                raise ValueError("their words are not those of the vocabulary")
            hidden_size = take(about, "hidden_size", int)
            names = read_names(about.get("names", []), vocabulary)

            def are_shares(found: list) -> bool:
                return len(found) == len(words) and all(type(t) in (int, float) and 0 < t <= 1 for t in found)

            repeated = take(about, "repeated", list, are_shares) if "repeated" in about else None
            held, least = refuse_oversized(folder / MEMBERS[1]), hidden_size * (2 * feature_size + len(words))
            least += feature_size * COUNT if names else 0
            if hidden_size < 1 or held < least:
                raise ValueError(f"{MEMBERS[1]} holds {held:,} numbers, and {MEMBERS[0]} needs {least:,}")
            named = [str(objects.get(word, "")) for word in words]
            if len({*named}) > _MOST_OBJECTS:
                raise ValueError(f"their words name more than {_MOST_OBJECTS} objects")
            found = cls([ids_of[word] for word in words], named, feature_size, hidden_size, padded, names)
            found.load_weights(folder / MEMBERS[1])
            found.repeated = repeated
        except Exception as error:  # h5py and Keras raise errors of many kinds on damaged files
            raise UserError(
                f"{bundle}: its visual concepts cannot be read ({error}); update this software, or train them anew with "
                "train.py --stage concepts"
            ) from None
        return found
