"""Alignment: images and captions learn to meet in one space, for retrieval."""

from collections.abc import Mapping
from typing import ClassVar

from captioning.features.prepared import Prepared
from captioning.metrics.recall import CUTS, SIDES
from captioning.retrieval.aligner import Aligner
from captioning.storage.runs import Run
from captioning.training.alignment import AlignmentTrainer
from captioning.training.batches import PairBatches
from captioning.training.dev_scoring import RECALLS, RecallScores
from captioning.training.stages.base import Stage
from captioning.words.vocabulary import Vocabulary
from model import Captioner


class AlignmentStage(Stage):
    """The two towers of an aligner learn. There is no decoder. The encoder is frozen."""

    bundle = "aligner"
    best_weights: ClassVar[Mapping[str, str]] = {"best": "towers"}
    columns = ("loss", "val_loss", "recall", *RECALLS)
    model: Aligner

    def make_model(self, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None) -> Aligner:
        return Aligner.untrained(self.config, vocabulary, prepared.encoder)

    def make_batches(self, prepared: Prepared) -> PairBatches:
        return self.stored_batches(PairBatches, prepared)

    def make_trainer(self) -> AlignmentTrainer:
        return AlignmentTrainer(self.model.towers, self.config, self.config.word_dropout)

    def make_dev(self, prepared: Prepared, run: Run) -> RecallScores:
        return RecallScores(self.model, prepared, self.config)

    def describe(self) -> str:
        return f"{self.config.text_encoder} and image towers"

    def training_summary(self, line: dict[str, float]) -> str:
        return f"loss {line['loss']:.3f}"

    def dev_summary(self, scores: dict[str, float]) -> str:
        text = f"dev loss {scores['val_loss']:.3f}, dev R@1/5/10"
        for side in SIDES:
            recalls = "/".join(f"{scores[f'{side}_r{cut}']:.1f}" for cut in CUTS)
            text += f" {side.replace('_', ' ')} {recalls}"
        return text


STAGE = AlignmentStage
