"""The epochs of a run so far: their lines in history.csv, and which of them is the best on dev."""

from typing import Literal

from captioning.storage.runs import Run

Monitor = Literal["bleu4", "cider", "loss", "recall"]


class History:
    """The lines of history.csv, oldest first, each with its scores by name."""

    def __init__(self, run: Run, monitor: Monitor):
        """Read the whole epochs of ``run``. ``monitor`` is the score that ranks them; loss stands for the dev nll.

        Among epochs with the same score the one with the lower nll is better, or with the lower loss for an aligner.
        """
        self.run, self.monitor = run, monitor
        state = run.state()
        # A crash may have left a line of an epoch that state.json does not count.
        self.lines = run.history()[: state["epochs"]]
        # Not searched for again: an earlier release may have kept another one of equals, and only its weights are
        # there.
        self.best = self.lines[state["best_epoch"] - 1] if self.lines else {}

    def add(self, line: dict[str, float]) -> bool:
        """Add the line of the epoch that has just ended. Returns whether that epoch is the best so far."""
        self.lines.append(line)
        if not self.best or self._rank(line) > self._rank(self.best):
            self.best = line
        return self.best is line

    @property
    def all_equal(self) -> bool:
        """Whether there are several epochs, and the monitor has the same score in all of them."""
        return len(self.lines) > 1 and len({self._goodness(line) for line in self.lines}) == 1

    def write(self) -> None:
        """Write history.csv, then state.json. From then on the last epoch counts, and the checkpoints of that epoch."""
        self.run.write_history(self.lines)
        self.run.write_state(
            epochs=int(self.lines[-1]["epoch"]),
            best_epoch=int(self.best["epoch"]),
            best_score=self._goodness(self.best),
        )

    def _goodness(self, line: dict[str, float]) -> float:
        return _as_stored(-_dev_loss(line) if self.monitor == "loss" else line[self.monitor])

    def _rank(self, line: dict[str, float]) -> tuple[float, float]:
        return self._goodness(line), -_as_stored(_dev_loss(line))


def _dev_loss(line: dict[str, float]) -> float:
    """The loss on dev. That of captions is without label smoothing."""
    return line["val_nll"] if "val_nll" in line else line["val_loss"]


def _as_stored(value: float) -> float:
    """``value`` as history.csv holds it, so that a resumed run ranks its epochs in the same way."""
    return float(f"{value:.6g}")
