"""Visual concepts: a detector learns which words fit a picture. Encoder and decoder stay as they are."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.base.progress import track
from captioning.concepts.class_words import known_names, new_words
from captioning.concepts.classes import HELD, Classifier, classifier_file, load_classifier
from captioning.concepts.detector import Concepts
from captioning.decoders.widening import take_weights
from captioning.features.batches import FeatureBatches
from captioning.features.prepared import Prepared
from captioning.metrics.chair import class_names
from captioning.storage.runs import Run
from captioning.training.batches import CaptionBatches
from captioning.training.concept_learning import ConceptTrainer
from captioning.training.image_batches import WholeBatches
from captioning.training.stages.base import CaptionerStage
from captioning.words.vocabulary import SPECIALS, Vocabulary
from config import Config
from model import Captioner


class ConceptStage(CaptionerStage):
    """The last stage of a captioner. Dev is captioned with the concepts of each epoch."""

    best_weights: ClassVar[Mapping[str, str]] = {"best": "concepts"}
    columns = ("loss", "val_loss", "bleu4", "cider")
    concepts: Concepts

    def make_model(self, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None) -> Captioner:
        captioner = super().make_model(prepared, vocabulary, run, initial)
        names = known_names(vocabulary, new_words_of(initial)) if self.config.imagenet_classes else []
        once, again, captions = count_words(prepared, vocabulary, self.config.max_caption_length)
        kinds = object_words()
        ids = sorted(sorted(once, key=lambda i: (-once[i], i))[: self.config.concept_words])
        if not ids:
            raise UserError(
                "stage: concepts learns from the words of the training captions, and the vocabulary of init has none of "
                "them; take a captioner that was trained on such captions"
            )
        objects = [kinds.get(vocabulary.words[i], "") for i in ids]
        size = int(prepared.encoder.output_shape[-1])
        self.concepts = captioner.concepts = Concepts(
            ids, objects, size, self.config.concept_size, prepared.store.padded, names
        )
        self.concepts.start_from(np.array([once[i] / captions for i in ids]))
        self.concepts.count_repeated(np.array([once[i] for i in ids]), np.array([again[i] for i in ids]))
        if self.concepts.classifier is not None:
            load_classifier(self.concepts.classifier, self.config.encoder)
            names_of = self.concepts.names_of(range(len(vocabulary)))
            self.concepts.classifier.learn_trust(
                sights(self.concepts.classifier, names_of, prepared, vocabulary, self.config)
            )
        return captioner

    @classmethod
    def check(cls, config: Config, initial: Captioner | None) -> None:
        if config.imagenet_classes:
            classifier_file(config.encoder)

    def start_from(self, captioner: Captioner, initial: Captioner) -> None:
        ids = {word: i for i, word in enumerate(captioner.vocabulary.words)}
        copies = {ids[word]: ids[stand_in] for word, stand_in in new_words(initial.vocabulary).items() if word in ids}
        take_weights(captioner.decoder, initial.decoder, copies, HELD)

    def make_batches(self, prepared: Prepared) -> CaptionBatches:
        return self.stored_batches(WholeBatches, prepared)

    def make_trainer(self) -> keras.Model:
        return ConceptTrainer(self.concepts, len(self.model.vocabulary))

    def describe(self) -> str:
        return f"{len(self.concepts.ids):,} visual concepts"

    def training_summary(self, line: dict[str, float]) -> str:
        return f"loss {line['loss']:.4f}"

    def dev_loss(self, scores: dict[str, float]) -> str:
        return f"dev loss {scores['val_loss']:.3f}"

    @classmethod
    def subject(cls, config: Config) -> str:
        return config.stage


def new_words_of(initial: Captioner | None) -> set[str]:
    """The words for classes that the decoder of ``initial`` has not learned: it lacks them, or got them as copies."""
    if initial is None:
        return set()
    names = initial.concepts.names if initial.concepts else []
    return {*new_words(initial.vocabulary)} | {
        initial.vocabulary.words[i] for name in names if name.new for i in name.ids
    }


def sights(
    classifier: Classifier, names_of: np.ndarray, prepared: Prepared, vocabulary: Vocabulary, config: Config
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What ``Classifier.learn_trust`` reads of the training images: what the classifier sees and what captions say.

    ``names_of`` int32 ``(V,)``: the name of each word, or the number of names for words that are none.
    """
    count = len(classifier.classes)
    captions: dict[str, list[np.ndarray]] = {}
    for image, text in prepared.captions("train"):
        captions.setdefault(image, []).append(names_of[vocabulary.encode(text, config.max_caption_length)])
    batches = FeatureBatches(prepared.store, [*captions], config.batch_size)
    for index in track(range(len(batches)), "classes of ImageNet", "batches"):
        (features,) = batches[index]
        # The last batch is filled up with repetitions of its last image, which must not count again.
        images = batches.names(index)[: len(captions) - index * batches.batch_size]
        said = np.zeros((len(images), count + 1))
        for place, image in enumerate(images):
            for names in captions[image]:
                said[place, np.unique(names)] += 1 / len(captions[image])
        seen = ops.convert_to_numpy(classifier.see(features))
        yield seen[: len(images)], said[:, :count]


def count_words(prepared: Prepared, vocabulary: Vocabulary, max_length: int) -> tuple[Counter[int], Counter[int], int]:
    """How many training captions have each word, how many have it more than once, and how many there are.

    Words are given by their ids, without special ones. ``max_length``: longer captions are cut there.
    """
    once: Counter[int] = Counter()
    again: Counter[int] = Counter()
    total = 0
    for _, text in prepared.captions("train"):
        found = Counter(i for i in vocabulary.encode(text, max_length).tolist() if i >= len(SPECIALS))
        once.update(found.keys())
        again.update(i for i, count in found.items() if count > 1)
        total += 1
    return once, again, total


def object_words() -> dict[str, str]:
    """The object of ``metrics.chair`` that a word names. A name of several words has its last one here."""
    names = {name: kind for name, kind in class_names().items() if kind}
    return {name.split()[-1]: kind for name, kind in names.items()} | names


STAGE = ConceptStage
