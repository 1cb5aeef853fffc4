"""A thread that does what other threads queue: the frame that the captioner and the photo search share."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class Closed(Exception):
    """The worker has been stopped."""


class Job(Protocol):
    """What is queued. Its future gets the result."""

    @property
    def future(self) -> "Future": ...


J = TypeVar("J", bound=Job)


class Worker(ABC, Generic[J]):
    """A context manager: the thread runs as long as the block. At its end it refuses the jobs that wait."""

    def __init__(self, name: str, patience: float | None = None):
        """``name``: of the thread. ``patience``: seconds to wait for its end before it is left behind; None: for ever."""
        self._jobs: deque[J] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._patience = patience
        self._worker = threading.Thread(target=self._run, name=name, daemon=patience is not None)

    def __enter__(self):
        self._worker.start()
        return self

    def __exit__(self, *_) -> None:
        """Finish what is being done, and refuse the jobs that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join(self._patience)

    def _put(self, jobs: Iterable[J]) -> None:
        """Queue ``jobs``. Raises Closed."""
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
