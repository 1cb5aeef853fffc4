"""Visual concepts: a detector learns which words fit a picture. Encoder and decoder stay as they are."""

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import keras
import numpy as np

from captioning.base.errors import UserError
from captioning.concepts.detector import Concepts
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
        shares = word_shares(prepared, vocabulary, self.config.max_caption_length)
        names = object_words()
        ids = sorted(sorted(shares, key=lambda i: (-shares[i], i))[: self.config.concept_words])
        if not ids:
            raise UserError(
                "stage: concepts learns from the words of the training captions, and the vocabulary of init has none of "
                "them; take a captioner that was trained on such captions"
            )
        objects = [names.get(vocabulary.words[i], "") for i in ids]
        size = int(prepared.encoder.output_shape[-1])
        self.concepts = captioner.concepts = Concepts(
            ids, objects, size, self.config.concept_size, prepared.store.padded
        )
        self.concepts.start_from(np.array([shares[i] for i in ids]))
        return captioner

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


def word_shares(prepared: Prepared, vocabulary: Vocabulary, max_length: int) -> dict[int, float]:
    """The share of the training captions that have each word, by its id. Special words have none.

    ``max_length``: longer captions are cut there.
    """
    counts: Counter[int] = Counter()
    total = 0
    for _, text in prepared.captions("train"):
        counts.update({*vocabulary.encode(text, max_length).tolist()})
        total += 1
    return {i: count / total for i, count in counts.items() if i >= len(SPECIALS)}


def object_words() -> dict[str, str]:
    """The object of ``metrics.chair`` that a word names. A name of several words has its last one here."""
    names = {name: kind for name, kind in class_names().items() if kind}
    return {name.split()[-1]: kind for name, kind in names.items()} | names


STAGE = ConceptStage
