"""The 1,000 classes of ImageNet: what the encoder knew before it read any caption.

Captions of everyday photographs hardly name a lion or a croissant. The classifier that the encoder was trained with
knows both, and still does after the encoder has learned from captions (docs/results.md has the figures). Anderson et
al. (2017), https://arxiv.org/abs/1612.00576, bring the words of such a classifier into captions by constraints of the
search. Here the logits of these words grow instead (``detector.py``), so one beam serves all pictures.

Let c be the sum of the probabilities of the classes that a name stands for. People do not name all that a classifier
sees: of a picture with a moped they say "motorcycle". So each name has a trust r, the share of captions that say it
where the classifier sees it. Over the training images with c of at least ``SEEN``, let m be the sum of c times the
share of captions with the name, and t the sum of c.

    r = (m + 16) / (t + 20)

The 16 of 20 stand for photographs from elsewhere, of which the classifier knows four in five. Then s = r c is the
probability that a caption says the name. Names with s below ``NOTED`` count as not seen. What the training images do
not show, such as lions, has r = 0.8. class_words.py has the words of captions for the classes.

Legend: B images, R regions, D feature size, C classes, G names.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.concepts.class_words import COUNT
from captioning.features.efficientnet_lite import NAMES, WEIGHTS, plain
from captioning.features.weight_files import load_weights

SEEN = 0.5  # of c: less is no sight of a class
# The next two were chosen on dev and on pictures of ImageNet. With a lower NOTED or more trust more names of classes
# are right, and captions of everyday photographs are worse.
NOTED = 0.3  # of s
_PRIOR = 16.0, 20.0  # said and seen, before any training image
HELD = 10.0  # nats by which the bias of a new word is below that of its stand-in, so that only classes bring it up


class Classifier(keras.Model):
    """Features float ``(B, R, D)`` -> s of each name, float32 ``(B, G)``; zero below ``NOTED``."""

    def __init__(self, classes: Sequence[Sequence[int]], feature_size: int):
        """``classes``: the classes of each of the G names, as numbers below ``COUNT``."""
        super().__init__(dtype="float32", name="classifier")
        self.classes = [list(each) for each in classes]
        self._naming = np.array([[number in each for each in self.classes] for number in range(COUNT)], "float32")
        self.logits = keras.layers.Dense(COUNT, dtype="float32", name="logits")
        self.logits.build((None, feature_size))
        said, seen = _PRIOR
        self.trust = self.add_weight(
            shape=(len(self.classes),),
            initializer=keras.initializers.Constant(said / seen),
            dtype="float32",
            name="trust",
        )
        self.trainable = False
        self.built = True

    def call(self, features):
        likely = self.trust * self.see(features)
        return ops.where(likely >= NOTED, likely, 0.0)

    def see(self, features):
        """c of each name, float32 ``(B, G)``."""
        pooled = ops.mean(ops.cast(features, "float32"), axis=1)  # as in the training of the classifier
        return ops.matmul(ops.softmax(self.logits(pooled)), self._naming)

    def learn_trust(self, sights: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Set the trust by training images.

        ``sights``: batches of c and of the share of an image's captions that say each name, both float ``(B, G)``.
        """
        said, seen = (np.full(len(self.classes), start) for start in _PRIOR)
        for found, shares in sights:
            found = np.where(found >= SEEN, found, 0.0)
            said += (found * shares).sum(axis=0)
            seen += found.sum(axis=0)
        self.trust.assign(said / seen)


def last_layer(feature_size: int) -> keras.Sequential:
    """What the weights file of a classifier holds: pooled features float ``(B, D)`` -> logits float32 ``(B, C)``."""
    return keras.Sequential([keras.Input((feature_size,)), keras.layers.Dense(COUNT, name="logits")])


def classifier_file(encoder: str) -> Path:
    """The weights file of the classifier that ``encoder`` was trained with. Raises UserError: there is none."""
    name = NAMES.get(plain(encoder))
    path = WEIGHTS / f"{name}_classes.weights.h5"
    if name is None or not path.exists():
        raise UserError(
            f"imagenet_classes: there is no classifier of encoder {encoder} in {WEIGHTS}; take a captioner with "
            "efficientnet_lite2, or leave the setting out"
        )
    return path


def load_classifier(classifier: Classifier, encoder: str) -> None:
    """Give ``classifier`` the weights with which ``encoder`` was trained. Raises UserError: missing or damaged."""
    stored = last_layer(int(classifier.logits.kernel.shape[0]))
    load_weights(stored, classifier_file(encoder), encoder)
    classifier.logits.set_weights(stored.get_weights())
