"""The trainings of a sweep, run one after the other: train.py and evaluate.py as processes of their own. No Keras.

A sweep folder holds:

    ROW-seedN/              a run folder of train.py, with evaluation/ of evaluate.py in it
    logs/ROW-seedN-SCRIPT.log    what the script printed
    sweep.json              the options of each training, so that no other sweep goes on in this folder
    table.md, .tex, .json   see tables.py
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.base.files import LOCK, alone_with, write
from captioning.base.json_files import as_written, read_json
from captioning.base.script import quiet
from captioning.base.texts import printable
from captioning.reports.rows import read_rows
from captioning.storage.runs import Run
from captioning.sweeps.plan import Sweep, Training
from captioning.sweeps.results import score_files
from captioning.training.stopping import is_complete

_REPORT_EVERY = 60.0  # seconds between two lines about a running script
_MERCY = 120.0  # seconds that a script has to end by itself when it is told to
_TAIL = 8192  # bytes of a log that hold its last line


def claim(sweep: Sweep, folder: Path) -> None:
    """Make ``folder`` the folder of ``sweep``. Raises UserError when it belongs to another one, or cannot be written.

    Rows and seeds may come and go. What is already there must have been trained and scored with the same options.
    """
    path = folder / "sweep.json"
    known: dict[str, Any] = {}
    if path.exists():
        known = read_json(path, "choose another --output", dict)
    elif folder.exists() and (not folder.is_dir() or any(found.name != LOCK for found in folder.iterdir())):
        raise UserError(f"{folder}: holds something else than a sweep (no sweep.json); choose another --output")
    wanted = {
        training.name: {"train": [*training.train], "evaluate": [*training.evaluate]} for training in sweep.trainings
    }
    for name in wanted.keys() & known.keys():
        if known[name] != as_written(wanted[name]):
            raise UserError(
                f"{folder}: belongs to another sweep: there {name} has the options {_shown(known[name])}, and now "
                f"{_shown(wanted[name])}; choose another --output"
            )
    if known and not wanted.keys() & known.keys():
        raise UserError(f"{folder}: belongs to another sweep, which has none of these rows; choose another --output")
    write(path, json.dumps(known | wanted, indent=1) + "\n")


def _shown(options: Any) -> str:
    """The options of both scripts, as sweep.json holds them."""
    if not isinstance(options, dict):
        return repr(options)
    return " and ".join(f"{script}.py {' '.join(map(str, own))}" for script, own in options.items())


def is_trained(training: Training, folder: Path) -> bool:
    """Whether the run of ``training`` in the sweep ``folder`` has all its epochs and its bundle."""
    run = Run(folder / training.name)
    if not (run.folder / "config.json").exists():
        return False
    return is_complete(run.config(), run, run.bundle("captioner"))


def is_scored(training: Training, sweep: Sweep, folder: Path) -> bool:
    """Whether a trained captioner is scored. Scores that are older than the captioner do not count."""
    run = folder / training.name
    found = score_files(run, sweep.split)
    return any(path.stat().st_mtime >= (run / "captioner.zip").stat().st_mtime for path in found)


def commands(training: Training, sweep: Sweep, folder: Path) -> list[list[str]]:
    """What is still to be run for ``training``: the names of scripts, with their options."""
    run = folder / training.name
    found = []
    trained = is_trained(training, folder)
    if not trained:
        begun = (run / "config.json").exists()
        found.append(["train.py", "--resume", str(run)] if begun else train_command(training, folder))
    if not trained or not is_scored(training, sweep, folder):
        found.append(evaluate_command(training, folder))
    return found


def train_command(training: Training, folder: Path) -> list[str]:
    """The whole command of a training, from its beginning."""
    return ["train.py", *training.train, "--run-dir", str(folder), "--name", training.name]


def evaluate_command(training: Training, folder: Path) -> list[str]:
    """The command that scores a training."""
    run = folder / training.name
    return ["evaluate.py", "--model", str(run), *training.evaluate, "--output", str(run / "evaluation")]


class Runner:
    """Runs what is to be run. ``scripts``: the folder of train.py and evaluate.py."""

    def __init__(self, sweep: Sweep, folder: Path, scripts: Path):
        self.sweep, self.folder, self.scripts = sweep, folder, scripts

    def run(self) -> list[Training]:
        """Run all that is not finished. Returns the trainings that failed; each one is named when it fails."""
        failed = []
        for number, training in enumerate(self.sweep.trainings, 1):
            label = f"[{number}/{len(self.sweep.trainings)}] {printable(training.row)}, seed {training.seed}"
            begun = time.monotonic()
            try:
                count = self._run_one(training, label)
            except UserError as error:
                failed.append(training)
                print(printable(f"{label}: failed: {error}"), flush=True)
                continue
            took = f"{(time.monotonic() - begun) / 60:.1f} minutes" if count else "was finished before"
            print(f"{label}: {took}; {self._scores(training)}", flush=True)
        return failed

    def _scores(self, training: Training) -> str:
        """The last scores of ``training``, which are of the largest beam and of all data sets together."""
        path = score_files(self.folder / training.name, self.sweep.split)[-1]
        row = read_rows(path)[-1]
        return f"CIDEr {row.coco.cider_d:.2f}, BLEU-4 {row.coco.bleu[3]:.2f} ({row.decoding})"

    def _run_one(self, training: Training, label: str) -> int:
        """Run the scripts of a training. Returns how many there were. Raises UserError when one fails."""
        run = self.folder / training.name
        if (run / "config.json").exists():
            with alone_with(run):  # a training that outlived a killed sweep
                pass
        wanted = commands(training, self.sweep, self.folder)
        for command in wanted:
            script = Path(command[0]).stem
            log = self.folder / "logs" / f"{training.name}-{script}.log"
            status = self._run_script(command, log, f"{label}: {script}")
            if status:
                raise UserError(f"{command[0]} ended with status {status}: {_complaint(log)} (all of it: {log})")
        return len(wanted)

    def _run_script(self, command: Sequence[str], log: Path, label: str) -> int:
        """Run a script, with all that it prints in ``log``. Returns its status."""
        log.parent.mkdir(exist_ok=True)
        whole = [sys.executable, str(self.scripts / command[0]), *command[1:]]
        with open(log, "ab") as file:
            file.write(f"$ python {shlex.join(command)}\n".encode("utf-8", "backslashreplace"))
            file.flush()
            # In a session of its own, Ctrl-C reaches the script through us only, and once.
            process = subprocess.Popen(
                whole, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                return _wait(process, log, label)
            except BaseException:
                print(f"{label}: stopping; the same command goes on", file=sys.stderr, flush=True)
                _stop(process)
                raise


def _wait(process: "subprocess.Popen[bytes]", log: Path, label: str) -> int:
    """Wait for ``process``, and show the last line of its log once a minute. Returns its status."""
    while True:
        try:
            return process.wait(timeout=_REPORT_EVERY)
        except subprocess.TimeoutExpired:
            if not quiet():
                print(printable(f"{label}: {_last_line(log)}"), file=sys.stderr, flush=True)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Tell ``process`` to end, as train.py keeps whole epochs then. Kill it if it does not end."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_MERCY)
    process.kill()
    process.wait()


def _lines(log: Path) -> list[str]:
    """The lines at the end of ``log``. A bar that was drawn anew counts as a line each time."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        text = file.read().decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _last_line(log: Path) -> str:
    return next(reversed(_lines(log)), "")


def _complaint(log: Path) -> str:
    """What the script said last of what went wrong."""
    lines = _lines(log)
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "no output")
