"""Scores on dev: how good the model in training is after an epoch.

An object here is made once per run and called after every epoch. It returns scores by their names in history.csv, and a
text for each of the first dev images. The user sees these texts.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from captioning.base.scratch import scratch_folder
from captioning.data.mixture import joined_name
from captioning.features.batches import FeatureBatches
from captioning.features.extraction import extract_features
from captioning.features.folding import FoldedEncoder
from captioning.features.prepared import Prepared
from captioning.features.spreading import evaluate
from captioning.features.store import FeatureStore
from captioning.metrics.bleu_rouge import bleu
from captioning.metrics.cider import Cider
from captioning.metrics.recall import CUTS, SIDES
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.index import neighbours
from captioning.retrieval.ranking import score
from captioning.storage.runs import column_of
from captioning.training.batches import CaptionBatches, PairBatches
from config import Config
from model import Captioner

# Names of the recalls in history.csv, such as image_to_text_r1.
RECALLS = tuple(f"{side}_r{cut}" for side in SIDES for cut in CUTS)


class DevScores(ABC):
    """Scores a model on the dev images whose features exist."""

    def __init__(self, prepared: Prepared):
        self.records = prepared.usable("dev")

    @abstractmethod
    def __call__(self, trainer: keras.Model) -> tuple[dict[str, float], list[str]]:
        """The scores of the model that ``trainer`` trains, and texts for the first dev images.

        ``val_loss`` is among the scores: if it is not a finite number, training ends with an error.
        """

    @abstractmethod
    def cannot_rank(self, monitor: str) -> str:
        """Why the score ``monitor`` is the same for every model on this dev split; empty if it is not."""

    def sample_names(self, count: int) -> list[str]:
        """The names of the images whose texts are shown to the user; ``count`` of each data set."""
        return self.names[:count]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """File name and text of each dev caption."""
        return [(record.file_name, text) for record in self.records for text in record.captions]

    @property
    def names(self) -> list[str]:
        """The file names of the dev images."""
        return [record.file_name for record in self.records]


class CaptionScores(DevScores):
    """Scores a captioner: the loss of the dev captions, and BLEU-4 and CIDEr-D of the captions that it makes."""

    def __init__(self, captioner: Captioner, prepared: Prepared, config: Config):
        super().__init__(prepared)
        self.captioner, self.config, self.store = captioner, config, prepared.store
        self.references = [[*map(captioner.vocabulary.split, record.captions)] for record in self.records]
        self.cider = Cider(self.references)

    def __call__(self, trainer):
        with self._encoded() as (references, features):
            found = evaluate(trainer, references)
            captions = self._caption(features)
        scores = {f"val_{name}": value for name, value in found.items()}
        spoken = [*map(self.captioner.vocabulary.split, captions)]
        scores["bleu4"] = bleu(spoken, self.references)[3]
        scores["cider"] = self.cider.score(range(len(spoken)), spoken).mean()
        return scores, captions

    def cannot_rank(self, monitor):
        if monitor == "bleu4" and self.config.max_caption_length < 4:
            return f"BLEU-4 counts sequences of four words, and max_caption_length is {self.config.max_caption_length}"
        references = [(i, words) for i, group in enumerate(self.references) for words in group]
        if monitor == "bleu4" and not any(len(words) >= 4 for _, words in references):
            return "BLEU-4 counts sequences of four words, and no caption of dev has four words"
        if monitor == "cider" and not any(self.cider.score([i], [words])[0] > 0 for i, words in references):
            return "CIDEr counts what tells images apart, and all images of dev have the same captions"
        return ""

    @contextmanager
    def _encoded(self) -> Iterator[tuple[CaptionBatches, FeatureBatches]]:
        """The dev captions for teacher forcing and the dev images, with features of the encoder as it is now."""
        yield self._from_store

    @cached_property
    def _from_store(self) -> tuple[CaptionBatches, FeatureBatches]:
        return self._read(self.store)

    def _read(self, store: FeatureStore) -> tuple[CaptionBatches, FeatureBatches]:
        return (
            CaptionBatches(store, self.pairs, self.captioner.vocabulary, self.config, shuffle=False),
            FeatureBatches(store, self.names, self.config.decode_batch_size),
        )

    def _caption(self, features: FeatureBatches) -> list[str]:
        """The best caption of each dev image."""
        captions = self.captioner.caption(features, self.config.dev_search())
        return [found[0].text for found in captions[: len(self.records)]]


class TunedCaptionScores(CaptionScores):
    """CaptionScores for a captioner whose encoder learns: the features of dev are extracted anew each time.

    They lie in a temporary folder in ``folder`` while they are read. ``encode`` is the captioner's encoder, folded.
    """

    def __init__(self, captioner: Captioner, prepared: Prepared, config: Config, folder: Path, encode: FoldedEncoder):
        super().__init__(captioner, prepared, config)
        self.dataset, self.folder, self.encode = prepared.dataset.name, folder, encode

    @contextmanager
    def _encoded(self):
        with scratch_folder(self.folder, ".dev-") as folder:
            config = self.config.with_overrides({"feature_dir": str(folder)})
            self.encode.renew()
            [store] = extract_features(config, self.dataset, self.records, self.captioner.encoder, self.encode)
            yield self._read(store)


class JointScores(DevScores):
    """Scores a model on several data sets. Each score is the mean over the data sets, and stands beside those of each.

    The names of the scores of one data set are those of ``column_of``.
    """

    def __init__(self, parts: Mapping[str, DevScores], shown: int):
        """``parts``: the scores on each data set, by its name. ``shown``: how many images of each are shown."""
        self.parts, self.shown = parts, shown

    def __call__(self, trainer):
        found = {name: part(trainer) for name, part in self.parts.items()}
        each = {name: scores for name, (scores, _) in found.items()}
        names = next(iter(each.values()))
        together = {score: float(np.mean([scores[score] for scores in each.values()])) for score in names}
        apart = {column_of(score, name): value for name, scores in each.items() for score, value in scores.items()}
        return together | apart, [text for _, texts in found.values() for text in texts[: self.shown]]

    def cannot_rank(self, monitor):
        reasons = {name: part.cannot_rank(monitor) for name, part in self.parts.items()}
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) if all(reasons.values()) else ""

    def sample_names(self, count):
        return [joined_name(name, found) for name, part in self.parts.items() for found in part.sample_names(count)]


class RecallScores(DevScores):
    """Scores an aligner: its loss, and how well images and captions of dev find each other."""

    def __init__(self, aligner: Aligner, prepared: Prepared, config: Config):
        super().__init__(prepared)
        self.aligner, self.shown = aligner, config.sample_captions
        self.batches = PairBatches(prepared.store, self.pairs, aligner.vocabulary, config)
        self.features = FeatureBatches(prepared.store, self.names, config.decode_batch_size)
        self.texts = [text for _, text in self.pairs]
        self.image_of = np.repeat(np.arange(len(self.records)), [len(record.captions) for record in self.records])

    def __call__(self, trainer):
        loss = evaluate(trainer, self.batches)["loss"]
        images = self.aligner.embed_features(self.features)[: len(self.records)]
        captions = self.aligner.embed_texts(self.texts)
        found = score(images, captions, self.image_of)
        recalls = {f"{side}_r{cut}": found[side][f"r{cut}"] for side in SIDES for cut in CUTS}
        nearest, _ = neighbours(images[: self.shown], captions, 1)
        return {"val_loss": loss, "recall": found["recall"], **recalls}, [self.texts[i] for i in nearest[:, 0]]

    def cannot_rank(self, monitor):
        return "recall ranks images against each other, and dev has one image only" if len(self.records) == 1 else ""
