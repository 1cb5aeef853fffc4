"""Cross-entropy with the reference captions, on stored features: the stage that every captioner begins with."""

from captioning.features.prepared import Prepared
from captioning.training.batches import CaptionBatches
from captioning.training.cross_entropy import CaptionTrainer
from captioning.training.image_batches import batches_for
from captioning.training.stages.base import CaptionerStage


class CrossEntropyStage(CaptionerStage):
    """The decoder learns to predict each next word of the references. The encoder is frozen."""

    def make_batches(self, prepared: Prepared) -> CaptionBatches:
        return self.stored_batches(batches_for(self.model.decoder), prepared)

    def make_trainer(self) -> CaptionTrainer:
        config = self.config
        return CaptionTrainer(self.model.decoder, config.label_smoothing, config.word_dropout, config.attention_penalty)


STAGE = CrossEntropyStage
