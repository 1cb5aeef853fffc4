"""Self-critical training: the decoder learns from captions that it draws, rewarded by CIDEr-D."""

from collections.abc import Sequence

import keras

from captioning.features.prepared import Prepared
from captioning.storage.runs import Run
from captioning.training.image_batches import ReferenceBatches
from captioning.training.self_critical import Rewards, SelfCritic, SelfCriticalTrainer
from captioning.training.similar_images import most_similar
from captioning.training.stages.base import CaptionerStage
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner


class SelfCriticalStage(CaptionerStage):
    """Every step draws captions with the current weights. So the stage has its own loop instead of Keras' ``fit``."""

    columns = (*CaptionerStage.columns, "reward", "reward_share")
    batches: ReferenceBatches
    trainer: SelfCriticalTrainer

    def __init__(self, config: Config, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None):
        super().__init__(config, prepared, vocabulary, run, initial)
        rows = prepared.store.rows
        self.rewards = Rewards(
            ((rows[name], text) for name, text in prepared.captions("train")),
            vocabulary,
            lambda images: most_similar(prepared.store, images, config.similar_images),
            config.distinct_weight,
        )

    def make_batches(self, prepared: Prepared) -> ReferenceBatches:
        return self.stored_batches(ReferenceBatches, prepared)

    def make_trainer(self) -> SelfCriticalTrainer:
        return SelfCriticalTrainer(self.model.decoder, self.config)

    def drive(self, epochs: range, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        critic = SelfCritic(self.trainer, self.batches, self.rewards, self.config)
        self.trainer.stop_training = False
        listeners = keras.callbacks.CallbackList(callbacks, model=self.trainer)
        listeners.on_train_begin()
        for epoch in epochs:
            listeners.on_epoch_begin(epoch)
            listeners.on_epoch_end(epoch, critic.epoch(epoch))
            if self.trainer.stop_training:
                break
        listeners.on_train_end()


STAGE = SelfCriticalStage
