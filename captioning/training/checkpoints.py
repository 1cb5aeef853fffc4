"""Checkpoints: the weights that a run goes on from, and those of its best epoch.

    last-NNNN.weights.h5    all weights of the trainer and its optimiser after epoch NNNN
    NAME-NNNN.weights.h5    weights of the best epoch NNNN, one file for each NAME of ``Stage.best_weights``

A file counts once state.json names its epoch. So a crash while files are written leaves the epoch before it whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from captioning.base.errors import UserError
from captioning.features.weight_files import save_weights
from captioning.storage.runs import Run


class Checkpoints:
    """The checkpoints of ``run``."""

    def __init__(self, run: Run, best_weights: Mapping[str, str]):
        """``best_weights``: what the best epoch consists of (see ``Stage.best_weights``)."""
        self.run, self.best_weights = run, best_weights

    def refuse_missing(self) -> None:
        """Raise UserError when the run has whole epochs and one of their files is missing."""
        if self.run.state()["epochs"]:
            for path in self._counting():
                if not path.exists():
                    raise UserError(f"{path}: missing. Without it the run cannot go on; start a new run")

    def load_last(self, trainer: keras.Model) -> None:
        """Give ``trainer`` the weights and the optimiser's state after the last epoch, if any.

        The optimiser must be built.
        """
        if self.run.state()["epochs"]:
            _load(trainer, self.run.checkpoint("last"))

    def load_best(self, model: Any) -> None:
        """Give the parts of ``model``, a captioner or an aligner, the weights of the best epoch."""
        for name, part in self.best_weights.items():
            _load(getattr(model, part), self.run.checkpoint(name))

    def save_best(self, model: Any, epoch: int) -> None:
        """Write the parts of ``model`` as those of the best epoch, which is ``epoch`` (from 1)."""
        for name, part in self.best_weights.items():
            save_weights(getattr(model, part), self._path(name, epoch))

    def save_last(self, trainer: keras.Model, epoch: int) -> None:
        """Write the weights of ``trainer`` and of its optimiser after ``epoch`` (from 1)."""
        save_weights(trainer, self._path("last", epoch))

    def remove_others(self) -> None:
        """Remove the files of epochs that state.json does not name any more."""
        counting = self._counting()
        for path in self.run.checkpoints.glob("*.weights.h5"):
            if path not in counting:
                path.unlink()

    def _counting(self) -> list[Path]:
        return [self.run.checkpoint(name) for name in ("last", *self.best_weights)]

    def _path(self, name: str, epoch: int) -> Path:
        return self.run.checkpoints / f"{name}-{epoch:04d}.weights.h5"


def _load(model: keras.Model, path: Path) -> None:
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise errors of many kinds on damaged files
        raise UserError(
            f"{path}: damaged, or written by a release with another model ({error}); start a new run"
        ) from None
