"""When training ends: after the last epoch, when patience runs out, or when the loss is no longer a finite number."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.storage.runs import Run
from config import TrainingSettings


def epochs_left(settings: TrainingSettings, run: Run, bundle: Path) -> range:
    """The epochs (from 0) that ``run`` still has to train; none if it is complete.

    Raises UserError when there is nothing left to do: the run is complete, and its ``bundle`` is as new as its best
    epoch.
    """
    state = run.state()
    if not _has_all_epochs(settings, state):
        return range(state["epochs"], settings.epochs)
    if is_complete(settings, run, bundle):
        impatient = out_of_patience(settings.patience, state["epochs"], state["best_epoch"])
        setting = "patience" if impatient else "epochs"
        raise UserError(
            f"{setting}: {run.folder} has its {state['epochs']} epochs already; ask for more with --{setting}"
        )
    return range(state["epochs"], state["epochs"])


def is_complete(settings: TrainingSettings, run: Run, bundle: Path) -> bool:
    """Whether ``run`` has all its epochs, and its ``bundle`` is as new as its best epoch. Raises UserError."""
    best = run.checkpoint("best")
    return (
        _has_all_epochs(settings, run.state())
        and bundle.exists()
        and (not best.exists() or bundle.stat().st_mtime >= best.stat().st_mtime)
    )


def _has_all_epochs(settings: TrainingSettings, state: Mapping[str, Any]) -> bool:
    """Whether no epoch is to come in the ``state`` of a run."""
    impatient = out_of_patience(settings.patience, state["epochs"], state["best_epoch"])
    return state["epochs"] >= settings.epochs or impatient


def out_of_patience(patience: int, epochs: int, best_epoch: int) -> bool:
    """Whether the best of so many ``epochs`` was ``patience`` epochs ago; never with a patience of 0."""
    return 0 < patience <= epochs - best_epoch


def refuse_broken(loss: float, settings: TrainingSettings, run: Run, whole_epochs: int) -> None:
    """Raise UserError when ``loss``, a mean of the epoch so far, is not a finite number. No later batch mends that."""
    if math.isfinite(loss):
        return
    clip = f"a clip_norm below {settings.clip_norm:g}" if settings.clip_norm else "a clip_norm, say 5"
    raise UserError(
        f"{run.folder}: in epoch {whole_epochs + 1} the loss became {loss}; whole epochs that are kept: "
        f"{whole_epochs}. Train anew with a lower learning_rate, a longer warmup_steps or {clip}"
        + ("" if settings.precision == "float32" else ", or with precision float32")
    )
