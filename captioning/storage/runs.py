"""Run folders: everything that says how a captioner came about and how to go on with it.

runs/NAME/
    config.json             every setting, resolved
    vocabulary.json         words in id order
    embedding.npz           what the word embedding had before training, unless it is learned (see embedding_arrays.py)
    about.json              command, seed, versions, git commit, machine; the same of every time it was resumed
    history.csv             one line per epoch
    curves.png              the losses and scores of history.csv
    samples.txt             captions of a few dev images after each epoch
    state.json              epochs done, best epoch and its score
    checkpoints/last-NNNN.weights.h5    decoder and optimiser after the last whole epoch
    checkpoints/best-NNNN.weights.h5    decoder of the best epoch on dev (its moving average with ema_decay)
    checkpoints/encoder-NNNN.weights.h5     its encoder, after fine-tuning
    tensorboard/            logs for `tensorboard --logdir`
    captioner.zip           the trained captioner, for test.py and evaluate.py (see model.py), or
    aligner.zip             the trained aligner of stage=align, for retrieve.py (see aligner.py)
"""

import csv
import errno
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from captioning.embeddings.arrays import load_arrays, save_arrays
from captioning.features.store import write_atomically
from captioning.words.vocabulary import Vocabulary
from config import Config, UserError, search_name

# The two panels of curves.png: title, unit, and of columns of history.csv the label, style and colour.
_CURVES: dict[str, tuple[tuple[str, str, dict[str, tuple[str, str, str]]], ...]] = {
    "captioner": (
        (
            "Negative log-likelihood",
            "nats per word",
            {"nll": ("training (with dropout)", "o-", "tab:blue"), "val_nll": ("dev", "o-", "tab:orange")},
        ),
        (
            "Dev captions ({search}), coco protocol",
            "",
            {
                "bleu4": ("BLEU-4", "o-", "tab:green"),
                "cider": ("CIDEr-D", "o-", "tab:red"),
                "reward": ("CIDEr-D, drawn training captions", "o-", "tab:gray"),
            },
        ),
    ),
    "aligner": (
        (
            "Loss",
            "",
            {"loss": ("training (with dropout)", "o-", "tab:blue"), "val_loss": ("dev", "o-", "tab:orange")},
        ),
        (
            "Retrieval on dev",
            "recall, %",
            {
                f"{side}_r{cut}": (f"{side.replace('_', ' ')}, R@{cut}", style, colour)
                for side, colour in (("image_to_text", "tab:green"), ("text_to_image", "tab:red"))
                for cut, style in ((10, "o:"), (5, "o--"), (1, "o-"))
            },
        ),
    ),
}
_PACKAGES = (
    *("keras", "keras-hub", "tensorflow", "jax", "torch", "numpy", "nltk", "pillow"),
    *("tf2onnx", "onnx", "onnxruntime", "ai-edge-litert"),
)


class Run:
    """One run folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    @property
    def bundle(self) -> Path:
        """The trained model, in the end."""
        return self.folder / ("aligner.zip" if self.config().stage == "align" else "captioner.zip")

    @classmethod
    def create(
        cls,
        config: Config,
        vocabulary: Vocabulary,
        name: str | None,
        pretrained: Mapping[str, np.ndarray] | None = None,
    ) -> "Run":
        """Make ``run_dir/name`` (by default named after data, decoder (or align) and time) and write what is known already.

        Raises UserError when it exists or cannot be written.
        """
        cls.check(config, name)
        kind = config.stage if config.stage == "align" else config.decoder
        name = name or f"{config.dataset}-{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        run = cls(Path(config.run_dir) / name)
        try:
            run.checkpoints.mkdir(parents=True)
            write_atomically(run.folder / "config.json", config.to_json())
            write_atomically(run.folder / "vocabulary.json", vocabulary.to_json())
            if pretrained:
                save_arrays(run.folder / "embedding.npz", pretrained)
        except OSError as error:
            raise UserError(f"{run.folder}: cannot write there ({error.strerror}); choose another --run-dir") from None
        return run

    @staticmethod
    def check(config: Config, name: str | None) -> None:
        """Raise the UserError that ``create`` would, before there is anything to lose."""
        folder = Path(config.run_dir) / (name or "")
        if name and folder.exists():
            raise UserError(f"{folder}: exists; choose another --name, or go on with --resume {folder}")
        try:
            Path(config.run_dir).mkdir(parents=True, exist_ok=True)
            if not os.access(config.run_dir, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise UserError(f"{folder}: cannot write there ({error.strerror}); choose another --run-dir") from None

    @classmethod
    def open(cls, folder: str) -> "Run":
        """An existing run. Raises UserError when ``folder`` is none."""
        run = cls(Path(folder))
        if not (run.folder / "config.json").exists():
            raise UserError(f"{folder}: not a run folder (it holds no config.json)")
        return run

    def begin(self, config: Config) -> None:
        """Write down that training starts now or, in about.json's ``resumed``, that it goes on, and with which settings.

        Raises UserError when about.json is damaged.
        """
        path = self.folder / "about.json"
        about = describe(config)
        if path.exists():
            try:
                first = dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}: damaged ({error}); mend it, or start the run anew") from None
            resumed = [*first.get("resumed", []), {"after_epochs": self.state()["epochs"], **about}]
            about = first | {"resumed": resumed}
        write_atomically(self.folder / "config.json", config.to_json())
        write_atomically(path, json.dumps(about, indent=2) + "\n")

    def config(self) -> Config:
        path = self.folder / "config.json"
        return Config.from_json(path.read_text(encoding="utf-8"), str(path))

    def vocabulary(self) -> Vocabulary:
        path = self.folder / "vocabulary.json"
        return Vocabulary.from_json(path.read_text(encoding="utf-8"), str(path))

    def pretrained(self) -> dict[str, np.ndarray]:
        """The arrays of the word embedding; none if it is learned. Raises UserError when they are missing or damaged."""
        return load_arrays(self.folder / "embedding.npz") if self.config().embedding != "learned" else {}

    def state(self) -> dict[str, Any]:
        """``{"epochs", "best_epoch", "best_score"}``; zero epochs for a run that has finished none. Raises UserError."""
        path = self.folder / "state.json"
        if not path.exists():
            return {"epochs": 0, "best_epoch": 0, "best_score": None}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {name: found[name] for name in ("epochs", "best_epoch", "best_score")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error!r}); start the run anew") from None

    def checkpoint(self, which: str) -> Path:
        """The weights file of the "last" or "best" epoch that state.json names, or of the best one's "encoder"."""
        state = self.state()
        return self.checkpoints / f"{which}-{state['epochs' if which == 'last' else 'best_epoch']:04d}.weights.h5"

    def write_state(self, **state: Any) -> None:
        write_atomically(self.folder / "state.json", json.dumps(state, indent=2) + "\n")

    def history(self) -> list[dict[str, float]]:
        """The lines of history.csv, oldest first. Raises UserError."""
        path = self.folder / "history.csv"
        lines: list[dict[str, float]] = []
        try:
            if path.exists():
                with open(path, newline="", encoding="utf-8") as file:
                    lines = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]
            if [line["epoch"] for line in lines] != [*range(1, len(lines) + 1)]:
                raise ValueError("its lines are not of the epochs 1, 2, 3, ...")
            if len(lines) < (epochs := self.state()["epochs"]):
                raise ValueError(f"it tells of {len(lines)} epochs, state.json of {epochs}")
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise UserError(f"{path}: missing or damaged ({error}); mend it, or start the run anew") from None
        return lines

    def write_history(self, lines: list[dict[str, float]]) -> None:
        text = ",".join(lines[0]) + "\n"
        text += "".join(",".join(f"{value:.6g}" for value in line.values()) + "\n" for line in lines)
        write_atomically(self.folder / "history.csv", text)

    def draw_curves(self) -> None:
        """Draw history.csv as curves.png: the loss on the left, scores on dev on the right."""
        from matplotlib.figure import Figure

        lines = self.history()
        epochs = [line["epoch"] for line in lines]
        search = search_name(self.config().dev_search())
        figure = Figure(figsize=(10, 4), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        for axes, (title, unit, curves) in zip((losses, scores), _CURVES[self.bundle.stem], strict=True):
            for name, (label, style, colour) in curves.items():
                if name in lines[0]:
                    axes.plot(epochs, [line[name] for line in lines], style, color=colour, label=label)
            axes.set(xlabel="epoch", ylabel=unit, title=title.format(search=search))
            axes.legend()
        best = self.state()["best_epoch"]
        for axes in (losses, scores):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if best:
                axes.axvline(best, color="gray", linestyle=":", linewidth=1)
        figure.savefig(self.folder / "curves.png", dpi=110)


def describe(config: Config) -> dict[str, Any]:
    """The command, seed, versions, git commit and machine of this process."""
    import keras

    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seed": config.seed,
        "backend": keras.backend.backend(),
        "devices": devices(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "packages": package_versions(),
        "git_commit": _git_commit(),
    }


def devices() -> list[str]:
    """What Keras computes on."""
    import keras

    if keras.backend.backend() == "torch":  # for which Keras lists none
        import torch

        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    return keras.distribution.list_devices()


def cpu_model() -> str:
    """What the machine calls its processor."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on, of those that are installed."""
    return {name: found for name in _PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of this source tree, with ``+`` when it has been changed since; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
