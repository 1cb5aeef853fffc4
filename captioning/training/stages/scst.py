"""Self-critical training: the decoder learns from captions that it draws, rewarded by CIDEr-D and perhaps more."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras
import numpy as np

from captioning.base.errors import UserError
from captioning.features.batches import FeatureBatches
from captioning.features.digests import encoder_digest
from captioning.features.prepared import Prepared
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.distinctness import Distinctness
from captioning.storage.members import settings_of
from captioning.storage.runs import Run
from captioning.training.image_batches import ReferenceBatches
from captioning.training.rewards import Judge, Rewards
from captioning.training.self_critical import SelfCritic, SelfCriticalTrainer
from captioning.training.similar_images import most_similar
from captioning.training.stages.base import CaptionerStage
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner


class SelfCriticalStage(CaptionerStage):
    """Every step draws captions with the current weights. So the stage has its own loop instead of Keras' ``fit``."""

    batches: ReferenceBatches
    trainer: SelfCriticalTrainer

    def __init__(self, config: Config, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None):
        super().__init__(config, prepared, vocabulary, run, initial)
        rows = prepared.store.rows
        self.rewards = Rewards(
            ((rows[name], text) for name, text in prepared.captions("train")),
            vocabulary,
            config,
            lambda images: most_similar(prepared.store, images, config.similar_images),
            self._make_judge(prepared, run),
        )
        self.columns = (*CaptionerStage.columns, "reward", *self.rewards.columns, "reward_share")

    @classmethod
    def check(cls, config: Config, initial: Captioner | None) -> None:
        if config.retrieval_weight and initial:
            load_aligner(config, initial.encoder)

    def make_batches(self, prepared: Prepared) -> ReferenceBatches:
        return self.stored_batches(ReferenceBatches, prepared)

    def make_trainer(self) -> SelfCriticalTrainer:
        return SelfCriticalTrainer(self.model.decoder, self.config)

    def _make_judge(self, prepared: Prepared, run: Run) -> Callable[[np.ndarray], Judge]:
        """What makes a judge of captions of the images with these rows in the store."""

        def make(rows: np.ndarray) -> Judge:
            if len(rows) < 2:
                raise UserError(
                    "retrieval_weight: one image is trained on, so there is none to tell it from; set it to 0"
                )
            aligner = load_aligner(self.config, prepared.encoder)
            refuse_strange_words(aligner, (text for _, text in prepared.captions("train")), self.config)
            run.keep_judge(self.config.retrieval_aligner, aligner.fingerprint)
            names = {row: name for name, row in prepared.store.rows.items()}
            features = FeatureBatches(
                prepared.store, [names[row] for row in rows.tolist()], self.config.decode_batch_size
            )
            vectors = aligner.embed_features(features)[: len(rows)]
            return Distinctness(aligner, vectors, self.config.retrieval_images).score

        return make

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


def load_aligner(config: Config, encoder: keras.Model) -> Aligner:
    """The aligner that ``config`` names, in float32. ``encoder`` is that of the captioner.

    Raises UserError if it cannot be read, or if it was trained with features of another encoder.
    """
    path = Path(config.retrieval_aligner)
    try:
        own = settings_of(path, "aligner")
    except UserError as error:
        raise UserError(f"retrieval_aligner: {error}") from None
    advice = f"make one for this captioner with: python train.py --stage align --init {config.init}"
    for name in ("image_size", "feature_grid"):
        if getattr(own, name) != getattr(config, name):
            raise UserError(
                f"retrieval_aligner: {path} has {name}={getattr(own, name)}, and the captioner of init has "
                f"{getattr(config, name)}, so its features are others; {advice}"
            )
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("float32")
    try:
        aligner = Aligner.load(path)
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    # A bundle may hold weights rounded to float16, so rounded ones are compared.
    digests = [
        encoder_digest(part, name, half=True)
        for part, name in ((aligner.encoder, own.encoder), (encoder, config.encoder))
    ]
    if digests[0] != digests[1]:
        raise UserError(
            f"retrieval_aligner: {path} was trained with another encoder ({own.encoder}) than the captioner of init has "
            f"({config.encoder}, perhaps fine-tuned), so its features are others; {advice}"
        )
    return aligner


def refuse_strange_words(aligner: Aligner, captions: Iterable[str], config: Config) -> None:
    """Raise UserError if the ``aligner`` does not know the words of the ``captions``, as those of another language."""
    unknown = aligner.vocabulary.coverage(captions).unknown_share
    if unknown > config.unknown_limit:
        raise UserError(
            f"retrieval_aligner: {config.retrieval_aligner} does not know {unknown:.1%} of the words of the training "
            f"captions, and unknown_limit is {config.unknown_limit:.0%}; name one that was trained on such captions"
        )


STAGE = SelfCriticalStage
