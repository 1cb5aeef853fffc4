"""A thread that does the jobs that other threads queue. The engine and the photo search are made from it."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class Closed(Exception):
    """The worker has been stopped."""


class Job(Protocol):
    """A job in the queue. Its future gets the result."""

    @property
    def future(self) -> "Future": ...


J = TypeVar("J", bound=Job)


class Worker(ABC, Generic[J]):
    """A context manager whose thread runs inside the block. At the end of the block, the jobs that wait are refused."""

    def __init__(self, name: str, patience: float | None = None):
        """``name``: the name of the thread. ``patience``: seconds to wait for its end; None: as long as it takes.

        A thread that takes longer is left behind. It ends with the program.
        """
        self._jobs: deque[J] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._patience = patience
        self._worker = threading.Thread(target=self._run, name=name, daemon=patience is not None)

    def __enter__(self):
        self._worker.start()
        return self

    def __exit__(self, *_) -> None:
        """Finish the job in work, and refuse the jobs that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join(self._patience)

    @property
    def works(self) -> bool:
        """Whether the thread runs and takes jobs."""
        return self._worker.is_alive() and not self._closed

    def _put(self, jobs: Iterable[J]) -> None:
        """Queue ``jobs``. Raises Closed if the block has been left."""
        with self._changed:
            if self._closed:
                raise Closed("the server is stopping")
            self._jobs.extend(jobs)
            self._changed.notify_all()

    def _run(self) -> None:
        self._work()
        for job in self._jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Closed("the server is stopping"))

    @abstractmethod
    def _work(self) -> None:
        """Do jobs until ``_closed`` is true. Runs in the thread."""
