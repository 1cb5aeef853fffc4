"""The epochs of a run so far: their lines in history.csv, and which of them is the best on dev."""

from typing import Literal

from captioning.storage.runs import Run

Monitor = Literal["bleu4", "cider", "loss", "recall"]


class History:
    """The lines of history.csv, oldest first, each with its scores by name."""

    def __init__(self, run: Run, monitor: Monitor):
        """Read the whole epochs of ``run``. ``monitor`` is the score that ranks them; loss stands for the dev nll."""
        self.run, self.monitor = run, monitor
        # A crash may have left a line of an epoch that state.json does not count.
        self.lines = run.history()[: run.state()["epochs"]]

    def add(self, line: dict[str, float]) -> bool:
        """Add the line of the epoch that has just ended. Returns whether that epoch is the best so far."""
        self.lines.append(line)
        return self.best is line

    @property
    def best(self) -> dict[str, float]:
        """The line of the best epoch; among equals of the first one."""
        return max(self.lines, key=self._goodness)

    def write(self) -> None:
        """Write history.csv, then state.json. From then on the last epoch counts, and the checkpoints of that epoch."""
        self.run.write_history(self.lines)
        self.run.write_state(
            epochs=int(self.lines[-1]["epoch"]),
            best_epoch=int(self.best["epoch"]),
            best_score=self._goodness(self.best),
        )

    def _goodness(self, line: dict[str, float]) -> float:
        value = -line["val_nll"] if self.monitor == "loss" else line[self.monitor]
        return float(f"{value:.6g}")  # as history.csv holds it, so that a resumed run ranks its epochs in the same way
