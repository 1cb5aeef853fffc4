"""Run folders: how a model was trained, and all that training needs to go on.

runs/NAME/
    config.json             every setting
    vocabulary.json         the words in id order, see ``Vocabulary.to_json``
    embedding.npz           the arrays of a word embedding that is not learned, as they were before training
                            (see captioning/embeddings/arrays.py)
    about.json              command, seed, versions, git commit and machine, and "feature_size", the numbers per region
                            of the features. "resumed" lists the first ones for each time that the run went on
    history.csv             one line for each epoch: "epoch" from 1, then its losses and scores. With several data sets
                            a score on dev, such as "cider", is the mean over them, and "cider/NAME" that of one
    curves.png              the losses and scores of history.csv, drawn
    samples.txt             captions of a few dev images after each epoch
    judge.json              {"aligner": path, "fingerprint": digits} of the aligner that rewards captions, if any
    state.json              {"epochs": epochs done, "best_epoch": the best one on dev, "best_score": its score}
    checkpoints/last-NNNN.weights.h5    what learns and its optimiser after the last whole epoch NNNN
    checkpoints/best-NNNN.weights.h5    decoder or towers of the best epoch (with ema_decay, their moving average)
    checkpoints/encoder-NNNN.weights.h5     the encoder of the best epoch, after fine-tuning
    tensorboard/            logs for `tensorboard --logdir`
    captioner.zip           the trained captioner, for test.py and evaluate.py, or
    aligner.zip             the trained aligner of stage=align, for retrieve.py (see bundles.py for both)
"""

import csv
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from captioning.base.environment import describe
from captioning.base.errors import UserError
from captioning.base.files import is_unfinished, load_arrays, save_arrays, write_atomically
from captioning.base.json_files import read_json, take
from captioning.command_line.reading import read_settings
from captioning.words.vocabulary import Vocabulary
from config import Config


def column_of(score: str, dataset: str) -> str:
    """The column of history.csv that holds a score on the dev images of one of several data sets."""
    return f"{score}/{dataset}"


def by_data_set(line: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The scores on dev of each of several data sets, by its name, in a line of history.csv. Of one data set: none."""
    found: dict[str, dict[str, float]] = {}
    for column, value in line.items():
        score, slash, dataset = column.partition("/")
        if slash:
            found.setdefault(dataset, {})[score] = value
    return found


_MOST_EPOCHS = 10**6
_ADVICE = "mend it, or start the run anew"


def _text(path: Path) -> str:
    """The UTF-8 text of a file of a run. Raises UserError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); {_ADVICE}") from None


def _is_begun(folder: Path) -> bool:
    """Whether ``folder`` holds nothing but what ``Run.create`` leaves when its process is killed."""
    known = {"checkpoints", "vocabulary.json", "embedding.npz"}
    try:
        return all(path.name in known or is_unfinished(path) for path in folder.iterdir()) and not any(
            (folder / "checkpoints").glob("*")
        )
    except OSError:
        return False


class Run:
    """One run folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    def bundle(self, kind: str) -> Path:
        """The file of the trained model, which is of ``kind`` "captioner" or "aligner"."""
        return self.folder / f"{kind}.zip"

    @classmethod
    def create(
        cls,
        config: Config,
        vocabulary: Vocabulary,
        name: str,
        pretrained: Mapping[str, np.ndarray] | None = None,
    ) -> "Run":
        """Make the folder ``run_dir/name`` with settings, vocabulary and the ``pretrained`` arrays of the embedding.

        Raises UserError when the folder exists or cannot be written.
        """
        cls.check(config, name)
        run = cls(Path(config.run_dir) / name)
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=run.folder.exists())
            write_atomically(run.folder / "vocabulary.json", vocabulary.to_json())
            if pretrained:
                save_arrays(run.folder / "embedding.npz", pretrained)
            # The last file, because a folder that has it is a run that can go on.
            write_atomically(run.folder / "config.json", config.to_json())
        except OSError as error:
            raise UserError(f"{run.folder}: cannot write there ({error.strerror}); choose another --run-dir") from None
        return run

    @staticmethod
    def check(config: Config, name: str | None) -> None:
        """Raise the UserError that ``create`` would raise. This is for before the long work that precedes it."""
        folder = Path(config.run_dir) / (name or "")
        if name and folder.exists() and not _is_begun(folder):
            raise UserError(f"{folder}: exists; choose another --name, or go on with --resume {folder}")
        try:
            Path(config.run_dir).mkdir(parents=True, exist_ok=True)
            if not os.access(config.run_dir, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise UserError(f"{folder}: cannot write there ({error.strerror}); choose another --run-dir") from None

    @classmethod
    def open(cls, folder: str) -> "Run":
        """An existing run. Raises UserError when ``folder`` is not a run folder."""
        run = cls(Path(folder))
        if run.folder.is_file():
            raise UserError(
                f"{folder}: a file, and only a run folder can go on, as it keeps the state of the optimiser; "
                f"start a new training from a bundle with --init {folder}"
            )
        if not (run.folder / "config.json").exists():
            raise UserError(f"{folder}: not a run folder (it holds no config.json); name another folder")
        return run

    def begin(self, config: Config, feature_size: int) -> None:
        """Write down the settings, and in about.json that training starts now or goes on.

        ``feature_size``: the numbers per region of the features. Raises UserError when about.json is damaged.
        """
        path = self.folder / "about.json"
        about = describe(config.seed)
        if path.exists():
            first = read_json(path, _ADVICE, dict)
            earlier = first.get("resumed", [])
            if not isinstance(earlier, list):
                raise UserError(f"{path}: damaged (resumed is no list); {_ADVICE}")
            resumed = [*earlier, {"after_epochs": self.state()["epochs"], **about}]
            about = first | {"resumed": resumed}
        else:
            about["feature_size"] = feature_size
        write_atomically(self.folder / "config.json", config.to_json())
        write_atomically(path, json.dumps(about, indent=2) + "\n")

    def feature_size(self) -> int | None:
        """The numbers per region of the features; None before training, and for runs of older releases."""
        path = self.folder / "about.json"
        found = read_json(path, _ADVICE, dict).get("feature_size") if path.exists() else None
        return found if isinstance(found, int) else None

    def config(self) -> Config:
        """The settings in config.json. Raises UserError."""
        path = self.folder / "config.json"
        return read_settings(_text(path), str(path))

    def vocabulary(self) -> Vocabulary:
        """The words in vocabulary.json. Raises UserError."""
        path = self.folder / "vocabulary.json"
        return Vocabulary.from_json(_text(path), str(path))

    def pretrained(self) -> dict[str, np.ndarray]:
        """The arrays of the word embedding in embedding.npz. A learned embedding has none.

        Raises UserError when they are missing or damaged.
        """
        return load_arrays(self.folder / "embedding.npz") if self.config().embedding != "learned" else {}

    def keep_judge(self, aligner: str, fingerprint: str) -> None:
        """Remember the ``aligner`` that rewards captions. A run that goes on must have the same one.

        ``fingerprint`` is that of the aligner in this file now. Raises UserError if the run began with another one.
        """
        path = self.folder / "judge.json"
        if self.state()["epochs"] and path.exists():
            begun = read_json(path, _ADVICE, dict)
            if begun.get("fingerprint") != fingerprint:
                raise UserError(
                    f"retrieval_aligner: {aligner} holds another aligner than {self.folder} began with (then it was "
                    f"{begun.get('aligner')}); put that file back, or name its place now with --retrieval-aligner"
                )
        write_atomically(path, json.dumps({"aligner": aligner, "fingerprint": fingerprint}, indent=2) + "\n")

    def state(self) -> dict[str, Any]:
        """The content of state.json; zeros and None for a run without a whole epoch. Raises UserError."""
        path = self.folder / "state.json"
        if not path.exists():
            return {"epochs": 0, "best_epoch": 0, "best_score": None}
        found = read_json(path, "start the run anew", dict)
        try:
            epochs = take(found, "epochs", int, lambda epochs: 0 <= epochs < _MOST_EPOCHS)
            best = take(found, "best_epoch", int, lambda best: 0 <= best <= epochs)
            score = None if epochs == 0 and found.get("best_score") is None else take(found, "best_score", float)
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); start the run anew") from None
        return {"epochs": epochs, "best_epoch": best, "best_score": score}

    def checkpoint(self, which: str) -> Path:
        """The weights file of the "last" or "best" epoch that state.json names, or the "encoder" of the best epoch."""
        state = self.state()
        return self.checkpoints / f"{which}-{state['epochs' if which == 'last' else 'best_epoch']:04d}.weights.h5"

    def write_state(self, **state: Any) -> None:
        """Write state.json, whole or not at all."""
        write_atomically(self.folder / "state.json", json.dumps(state, indent=2) + "\n")

    def history(self) -> list[dict[str, float]]:
        """The lines of history.csv, oldest first: column -> value. Raises UserError."""
        path = self.folder / "history.csv"
        lines: list[dict[str, float]] = []
        try:
            if path.exists():
                with open(path, newline="", encoding="utf-8") as file:
                    lines = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]
            if [line["epoch"] for line in lines] != [*range(1, len(lines) + 1)]:
                raise ValueError("its lines are not of the epochs 1, 2, 3, ...")
            if len(lines) < (epochs := self.state()["epochs"]):
                raise ValueError(f"it has {len(lines)} epochs, state.json has {epochs}")
        except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
            raise UserError(f"{path}: missing or damaged ({error}); mend it, or start the run anew") from None
        return lines

    def write_history(self, lines: list[dict[str, float]]) -> None:
        """Write history.csv, whole or not at all. Values keep six digits.

        The columns are those of the last line. Lines of an earlier release may lack some, and have nan there.
        """
        columns = list(lines[-1])
        text = ",".join(columns) + "\n"
        text += "".join(",".join(f"{line.get(column, math.nan):.6g}" for column in columns) + "\n" for line in lines)
        write_atomically(self.folder / "history.csv", text)
