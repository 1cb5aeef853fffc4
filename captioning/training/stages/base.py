"""The seam between the stages of training and the loop that runs them.

A stage says what is read, what is minimised, how dev is scored and what is kept. ``loop.fit`` and ``recorder.Recorder``
do the rest. They use nothing of a stage but what stands here.

``fit`` makes one object of the stage, after it has set the random seed. The object then has:

    config      all settings
    model       what is trained: a Captioner or an Aligner
    batches     what an epoch reads. ``batches.start_epoch(number)`` lays an epoch out
    trainer     the Keras model whose loss is minimised. Its weights are the checkpoint "last"
    dev         the scores on dev (see ``dev_scoring``)

To add a stage, write ``stages/NAME.py`` that ends in ``STAGE = YourStage``, and add NAME to the setting ``stage`` in
config.py. ``stages/xe.py`` is the shortest example.
"""

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import keras

from captioning.base.script import hide_progress, quiet
from captioning.base.settings import listed
from captioning.data.mixture import MixedDataset
from captioning.decoders.widening import take_weights
from captioning.features.looks import Look, training_looks
from captioning.features.prepared import Prepared
from captioning.features.spreading import spread
from captioning.retrieval.aligner import Aligner
from captioning.storage.runs import Run, by_data_set
from captioning.training.batches import CaptionBatches
from captioning.training.dev_scoring import CaptionScores, DevScores, JointScores
from captioning.training.optimizers import make_optimizer
from captioning.words.vocabulary import Vocabulary
from config import Config, search_name
from model import Captioner

Batches = TypeVar("Batches", bound=CaptionBatches)


def stage_named(name: str) -> type["Stage"]:
    """The class of the stage with this ``name``, a value of the setting ``stage``."""
    return importlib.import_module(f"captioning.training.stages.{name}").STAGE


class Stage(ABC):
    """One way of training. The module's docstring lists what an object of it has."""

    # The kind of bundle that training leaves (see ``storage.bundles``).
    bundle: ClassVar[str]
    # What the best epoch consists of: the name of each checkpoint, and the attribute of ``model`` whose weights it
    # holds. The first one must be called "best".
    best_weights: ClassVar[Mapping[str, str]]
    # The scores in history.csv, in this order. They come from the training of an epoch and from ``dev``.
    columns: Sequence[str]

    def __init__(self, config: Config, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None):
        """``initial`` is the captioner that training starts from, if any. Its encoder is that of ``prepared``."""
        self.config = config
        # How often the captions of each data set come per epoch.
        self.weights = [data_set.data_weight for data_set in config.data_sets()]
        # The order of these lines decides the random draws of initial weights.
        self.model = self.make_model(prepared, vocabulary, run, initial)
        self.batches = self.make_batches(prepared)
        self.trainer = self.make_trainer()
        self.dev = self._make_dev_of_all(prepared, run)

    @classmethod
    def check(cls, config: Config, initial: Captioner | None) -> None:
        """Raise UserError if a file that ``config`` names does not suit ``initial``. Comes before features are made."""
        # Most stages read no files of their own.
        return None

    @abstractmethod
    def make_model(
        self, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None
    ) -> Captioner | Aligner:
        """The model, with the weights that training starts from."""

    @abstractmethod
    def make_batches(self, prepared: Prepared) -> CaptionBatches:
        """The batches of the split train."""

    def stored_batches(self, kind: type[Batches], prepared: Prepared) -> Batches:
        """Batches of this ``kind`` with stored features of the split train."""
        captions, vocabulary = prepared.captions("train"), self.model.vocabulary
        return kind(prepared.store, captions, vocabulary, self.config, views=prepared.views, weights=self.weights)

    @abstractmethod
    def make_trainer(self) -> keras.Model:
        """The Keras model that computes the loss on these batches. ``fit`` compiles it."""

    @abstractmethod
    def make_dev(self, prepared: Prepared, run: Run) -> DevScores:
        """The scores on the split dev of one data set."""

    def _make_dev_of_all(self, prepared: Prepared, run: Run) -> DevScores:
        """The scores on dev; with several data sets those on each that has a dev split, and their mean."""
        dataset = prepared.dataset
        if not isinstance(dataset, MixedDataset):
            return self.make_dev(prepared, run)
        dataset.split("dev")  # some data set must have it
        scored = {name: part for name, part in prepared.parts.items() if dataset.has(name, "dev")}
        parts = {name: self.make_dev(part, run) for name, part in scored.items()}
        return JointScores(parts, self.config.sample_captions)

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimiser of ``trainer``."""
        return make_optimizer(self.config, len(self.batches))

    def drive(self, epochs: range, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Train ``epochs`` (from 0) and call ``callbacks`` as Keras does. Ends early if they set ``stop_training``."""
        self.trainer.fit(
            spread(self.batches),
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            callbacks=callbacks,
            # The batches are shuffled already. Keras would shuffle them from a random state that no resume restores.
            shuffle=False,
            verbose=0 if hide_progress() or quiet() else 1,
        )

    @abstractmethod
    def describe(self) -> str:
        """What is trained, for the line that is printed first, such as "merge decoder"."""

    def summary(self, line: dict[str, float]) -> str:
        """What is printed of an epoch with this ``line`` of history.csv."""
        together = "together: " if by_data_set(line) else ""
        return f"{self.training_summary(line)}, {together}{self.dev_summary(line)}"

    @abstractmethod
    def training_summary(self, line: dict[str, float]) -> str:
        """What ``summary`` says of the training captions."""

    @abstractmethod
    def dev_summary(self, scores: dict[str, float]) -> str:
        """What is printed of these ``scores`` on dev. They are a line of history.csv, or those of one data set."""

    @classmethod
    def looks(cls, config: Config) -> list[Look]:
        """The further looks of the training images, besides the images as they are. Each has its own feature store."""
        return training_looks(config)

    @classmethod
    def run_name(cls, config: Config) -> str:
        """The name of a run folder if the user gave it none: data, decoder (or stage) and time."""
        return f"{'+'.join(listed(config.dataset))}-{cls.subject(config)}-{time.strftime('%Y%m%d-%H%M%S')}"

    @classmethod
    def subject(cls, config: Config) -> str:
        """What a run folder is named after."""
        return config.stage


class CaptionerStage(Stage):
    """What the stages that train a captioner have in common."""

    bundle = "captioner"
    best_weights: ClassVar[Mapping[str, str]] = {"best": "decoder"}
    columns: Sequence[str] = ("loss", "nll", "val_loss", "val_nll", "bleu4", "cider")
    model: Captioner

    def make_model(self, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None) -> Captioner:
        captioner = Captioner.untrained(self.config, vocabulary, prepared.encoder, run.pretrained())
        captioner.check(self.config)  # dev is captioned as the settings say
        if initial:
            self.start_from(captioner, initial)
        return captioner

    def start_from(self, captioner: Captioner, initial: Captioner) -> None:
        """Give ``captioner`` the weights of ``initial``, which may know fewer words."""
        take_weights(captioner.decoder, initial.decoder)

    def make_dev(self, prepared: Prepared, run: Run) -> DevScores:
        return CaptionScores(self.model, prepared, self.config)

    def describe(self) -> str:
        return f"{self.config.decoder} decoder"

    def training_summary(self, line: dict[str, float]) -> str:
        return f"nll {line['nll']:.3f}"

    def dev_loss(self, scores: dict[str, float]) -> str:
        """What ``dev_summary`` says of the loss."""
        return f"dev nll {scores['val_nll']:.3f}"

    def dev_summary(self, scores: dict[str, float]) -> str:
        return (
            f"{self.dev_loss(scores)}, "
            f"dev BLEU-4 {scores['bleu4']:.2f}, CIDEr {scores['cider']:.1f} ({search_name(self.config.dev_search())})"
        )

    @classmethod
    def subject(cls, config: Config) -> str:
        return config.decoder
