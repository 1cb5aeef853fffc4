"""What happens around the epochs of every stage: seeds, then scores on dev, checkpoints, the log and stopping."""

import sys
import time
from typing import Any

import keras

from captioning.base.devices import scores_of_first
from captioning.base.progress import Progress
from captioning.base.script import stop_if_told
from captioning.reports.curves import draw_curves
from captioning.storage.runs import Run, by_data_set, column_of
from captioning.training.checkpoints import Checkpoints
from captioning.training.epoch_log import add_samples, show_epoch
from captioning.training.history import History
from captioning.training.optimizers import learning_rate
from captioning.training.seeding import seed_epoch
from captioning.training.stages.base import Stage
from captioning.training.stopping import out_of_patience, refuse_broken


class Recorder(keras.callbacks.Callback):
    """After each epoch it scores dev, writes history, checkpoints and curves, and stops training when it should.

    An epoch depends on the weights and the optimiser before it, and on ``(seed, epoch)``. It depends on nothing else:
    the order of the captions and all dropout are drawn anew from these two. So a resumed run repeats an undisturbed
    one.
    """

    def __init__(self, stage: Stage, run: Run):
        super().__init__()
        self.stage, self.config, self.run = stage, stage.config, run
        self.history = History(run, stage.config.monitor)
        self.checkpoints = Checkpoints(run, stage.best_weights)
        self.average = keras.callbacks.SwapEMAWeights() if stage.config.ema_decay else keras.callbacks.Callback()

    def set_model(self, model):
        super().set_model(model)
        self.average.set_model(model)

    def on_train_begin(self, logs=None):
        if reason := self.stage.dev.cannot_rank(self.config.monitor):
            print(
                f"note: monitor: {self.config.monitor} is the same in every epoch: {reason}. The epoch with the lowest "
                f"dev {self._tie_breaker} is kept, and patience follows it",
                file=sys.stderr,
            )

    def on_train_end(self, logs=None):
        if self.history.all_equal and not self.stage.dev.cannot_rank(self.config.monitor):
            print(
                f"note: monitor: {self.config.monitor} was the same in all epochs, so the one with the lowest dev "
                f"{self._tie_breaker} is kept",
                file=sys.stderr,
            )

    @property
    def _tie_breaker(self) -> str:
        """What decides between epochs with the same score."""
        return "nll" if "val_nll" in self.stage.columns else "loss"

    def on_epoch_begin(self, epoch, logs=None):
        self.stage.batches.start_epoch(epoch)
        seed_epoch(self.model, self.config.seed, epoch)
        # In a terminal Keras shows a bar. The line of the epoch comes from ``_show``.
        batches = self.params.get("steps") if self.params else None
        self.progress = Progress(f"epoch {epoch + 1}", batches, "batches", bar=False, last=False)
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._check(logs["loss"])  # This waits for the batch, as Keras' progress bar does.
        self.progress.update(1)

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs["loss"])  # Self-critical training reports no batches.
        trained = time.perf_counter()
        self.average.on_test_begin()  # From here on the model holds the averaged weights, if there are any.
        scores, samples = self.stage.dev(self.model)
        scores = scores_of_first(scores)
        self._check(scores["val_loss"])  # The last step may have broken the weights.
        logs |= scores
        line = self._line(epoch, logs, trained)
        is_best = self.history.add(line)
        if is_best:
            self.checkpoints.save_best(self.stage.model, epoch + 1)
        self.average.on_test_end()
        self.checkpoints.save_last(self.model, epoch + 1)
        shown = list(zip(self.stage.dev.sample_names(self.config.sample_captions), samples, strict=False))
        add_samples(self.run.folder, epoch + 1, shown)
        self.history.write()
        self.checkpoints.remove_others()
        draw_curves(self.run)
        self._show(line, is_best, shown)
        if out_of_patience(self.config.patience, epoch + 1, int(self.history.best["epoch"])):
            print(f"no better epoch for {self.config.patience} epochs; stopping")
            self.model.stop_training = True
        stop_if_told()

    def _check(self, loss: float) -> None:
        refuse_broken(loss, self.config, self.run, len(self.history.lines))

    def _line(self, epoch: int, logs: dict[str, Any], trained: float) -> dict[str, float]:
        """The line of history.csv of ``epoch`` (from 0), whose training ended at the time ``trained``."""
        # An epoch may count its words itself. TensorBoard, which gets ``logs`` next, should not draw them.
        words = logs.pop("words", self.stage.batches.words)
        each = by_data_set(logs)
        return {
            "epoch": epoch + 1,
            **{name: float(logs[name]) for name in self.stage.columns},
            **{column_of(score, name): value for name, scores in each.items() for score, value in scores.items()},
            "learning_rate": learning_rate(self.model.optimizer),
            "words_per_second": words / (trained - self.began),
            "seconds": time.perf_counter() - self.began,
        }

    def _show(self, line: dict[str, float], is_best: bool, samples: list[tuple[str, str]]) -> None:
        summary = self.stage.summary(line) + (" *" if is_best else "")
        each = [f"{name}: {self.stage.dev_summary(scores)}" for name, scores in by_data_set(line).items()]
        show_epoch(line, self.config.epochs, summary, each, samples)
