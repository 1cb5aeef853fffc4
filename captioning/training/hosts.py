"""Training in several processes: the run folder belongs to process 0, and each other process has a copy of its own."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from captioning.base.devices import is_first, process_count, tells_of_lost_process, wait_for_all
from captioning.base.errors import UserError, first_line
from captioning.base.scratch import temporary_folder
from captioning.storage.runs import Run
from config import Config


@contextmanager
def run_of_this_process(config: Config, begun: Run | None, create: Callable[[Config], Run]) -> Iterator[Run]:
    """Gives the run that this process trains: ``begun``, or else the one that ``create`` makes.

    Process 0 has that run itself. Every other process has a copy among its temporary files, removed at the end. Weights
    and scores are the same in all processes, so nothing in the copies is missed. Raises UserError, also when another
    process ends before its time.
    """
    if is_first():
        run = begun or create(config)
        wait_for_all()
        with _others_alive(str(run.folder)):
            yield run
        return
    with temporary_folder("a copy of the run") as folder:
        if begun:
            run = Run(folder / "run")
            shutil.copytree(begun.folder, run.folder, ignore=shutil.ignore_patterns("tensorboard", "*.zip", ".*"))
        else:
            run = create(config.model_copy(update={"run_dir": str(folder)}))
        wait_for_all()
        with _others_alive(str(begun.folder) if begun else "the run folder of process 0"):
            yield run


@contextmanager
def _others_alive(folder: str) -> Iterator[None]:
    """Turn the error that JAX raises when another process has ended into a UserError. ``folder``: where the run is."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if process_count() == 1 or not tells_of_lost_process(error):
            raise
        raise UserError(
            f"hosts: another process has ended, or cannot be reached ({first_line(error)[:200]}). Whole epochs are kept. "
            f"Start all processes again, with --resume and {folder}"
        ) from None
