"""The loop of training, the same for all stages: begin or resume a run, train its epochs, write its bundle."""

import importlib.util
import sys
from pathlib import Path

import keras

from captioning.base.devices import process_count
from captioning.base.errors import Terminated
from captioning.base.files import alone_with
from captioning.base.scratch import sweep
from captioning.base.script import stops_between_batches
from captioning.features.prepared import Prepared
from captioning.reports.curves import draw_curves
from captioning.storage.bundles import UNFINISHED as UNFINISHED_BUNDLE
from captioning.storage.runs import Run
from captioning.training.checkpoints import Checkpoints
from captioning.training.recorder import Recorder
from captioning.training.stages.base import Stage, stage_named
from captioning.training.stopping import epochs_left
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner


def fit(config: Config, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None = None) -> int:
    """Train ``run`` to its last epoch and write its bundle from the best one. Returns the exit status.

    Training starts from the weights of ``initial``, if any. Its encoder is that of ``prepared``. A run that has whole
    epochs already goes on after the last of them. Ctrl-C keeps all whole epochs and returns 130, and SIGTERM 143. If a
    run has all its epochs, only its bundle is written, if that is missing or older than the best epoch. Raises
    UserError, also while another process trains the run.
    """
    with alone_with(run.folder, "another process is training this run; wait for its end, or stop it"):
        return _fit(config, prepared, vocabulary, run, initial)


def _fit(config: Config, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None) -> int:
    sweep(run.folder, UNFINISHED_BUNDLE)
    kind = stage_named(config.stage)
    checkpoints = Checkpoints(run, kind.best_weights)
    checkpoints.refuse_missing()
    if run.state()["epochs"]:
        _catch_up(run, checkpoints)
    epochs = epochs_left(config, run, run.bundle(kind.bundle))
    if config.precision != "float32":
        keras.mixed_precision.set_dtype_policy(f"mixed_{config.precision}")
    keras.utils.set_random_seed(config.seed)
    stage = kind(config, prepared, vocabulary, run, initial)
    stage.trainer.compile(optimizer=stage.make_optimizer())
    # TensorFlow traces a training step that creates variables twice, so the optimiser creates its own here.
    stage.trainer.optimizer.build(stage.trainer.trainable_variables)
    checkpoints.load_last(stage.trainer)
    callbacks = [Recorder(stage, run), *_tensorboard(config.tensorboard, run.folder)]
    print(_start_message(stage))
    if epochs:
        run.begin(config, int(prepared.encoder.output_shape[-1]))
    status = 0
    try:
        with stops_between_batches():
            stage.drive(epochs, callbacks)
    except KeyboardInterrupt as stop:
        whole, told = run.state()["epochs"], isinstance(stop, Terminated)
        print(
            f"\n{'terminated' if told else 'interrupted'}; {whole} whole epochs are saved. Go on with: python train.py "
            f"--resume {run.folder}",
            flush=True,
        )
        status = 143 if told else 130
        if process_count() > 1:  # the others are in the midst of a batch, so no bundle can be written
            raise
    if best := run.state()["best_epoch"]:
        checkpoints.load_best(stage.model)
        stage.model.save(run.bundle(stage.bundle))
        print(f"{stage.bundle} of epoch {best}: {run.bundle(stage.bundle)}")
    return status


def _catch_up(run: Run, checkpoints: Checkpoints) -> None:
    """Do what was still to come after the last whole epoch, if the process was killed just then."""
    checkpoints.remove_others()
    curves = run.folder / "curves.png"
    if not curves.exists() or curves.stat().st_mtime_ns < (run.folder / "state.json").stat().st_mtime_ns:
        draw_curves(run)


def _start_message(stage: Stage) -> str:
    batches, weights = stage.batches, getattr(stage.model, stage.best_weights["best"]).count_params()
    return (
        f"{batches.captions} captions in {len(batches)} batches ({batches.padding:.0%} padding), "
        f"{len(stage.model.vocabulary)} words, {stage.describe()} with {weights:,} weights"
    )


def _tensorboard(wanted: bool, folder: Path) -> list[keras.callbacks.Callback]:
    if not wanted:
        return []
    if not importlib.util.find_spec("tensorflow"):
        print(
            "note: no TensorBoard logs, because they need the package tensorflow; history.csv has the same figures",
            file=sys.stderr,
        )
        return []
    return [keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False)]
