"""Fine-tuning: cross-entropy as before, and the encoder learns too, from pixels."""

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import keras

from captioning.features.encoder import let_learn
from captioning.features.folding import FoldedEncoder
from captioning.features.looks import Look
from captioning.features.prepared import Prepared
from captioning.storage.runs import Run
from captioning.training.dev_scoring import TunedCaptionScores
from captioning.training.fine_tuning import PixelTrainer
from captioning.training.image_batches import PixelBatches
from captioning.training.optimizers import make_tuning_optimizer
from captioning.training.stages.base import CaptionerStage
from config import Config


class FineTuningStage(CaptionerStage):
    """Decoder and encoder learn together, each at its own rate. Dev is encoded anew in every epoch."""

    best_weights: ClassVar[Mapping[str, str]] = {"best": "decoder", "encoder": "encoder"}

    def make_batches(self, prepared: Prepared) -> PixelBatches:
        return PixelBatches(
            prepared.store,
            {record.file_name: record.path for record in prepared.usable("train")},
            prepared.captions("train"),
            self.model.vocabulary,
            self.config,
            self.config.image_size,
            self.weights,
        )

    def make_trainer(self) -> PixelTrainer:
        config = self.config
        losses = (config.label_smoothing, config.word_dropout, config.attention_penalty)
        return PixelTrainer(self.model.encoder, self.model.decoder, *losses)

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        learning = let_learn(self.model.encoder, self.config.tuned_layers)
        return make_tuning_optimizer(self.config, len(self.batches), learning)

    def make_dev(self, prepared: Prepared, run: Run) -> TunedCaptionScores:
        return TunedCaptionScores(self.model, prepared, self.config, run.folder, self._encode)

    @cached_property
    def _encode(self) -> FoldedEncoder:
        """The encoder as it encodes dev, of all data sets: it is compiled once."""
        return FoldedEncoder(self.model.encoder)

    @classmethod
    def looks(cls, config: Config) -> list[Look]:
        """None: every epoch crops and mirrors the pixels anew."""
        return []


STAGE = FineTuningStage
