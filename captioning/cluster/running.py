"""Shards on a Ray cluster. Each is a task: Ray starts the processes, and does the shards of dead machines again.

Only settings, the numbers of shards and short reports travel between machines. Each worker reads the names of its
pictures from the manifest. Ray keeps a process for further tasks, so a captioner is loaded once in each. Actors would
do that too, but the shard of a dead actor waits for its successor, which may find no free core.

Workers find this software as Ray does: installed on each machine, at the same path as here, or sent by
``ray job submit --working-dir``.
"""

import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from captioning.base import script
from captioning.base.errors import Terminated, UserError, first_line
from captioning.base.progress import Progress
from captioning.base.scratch import temporary_folder
from captioning.cluster.jobs import BUSY, LOCAL, Kind, refuse_strangers, todo, written_alone
from captioning.cluster.manifest import Manifest
from captioning.cluster.places import INSTALL, Place, parts_of
from config import ROOT

_CONNECT = 10  # seconds
_LEAVING = 15  # seconds in which Ray notices that a driver was killed
_SAID = 5  # messages of a shard that are printed
_RETRIES = 5  # how often a shard whose machine or process dies is done again


@dataclass
class Report:
    """What a shard gave. ``unreadable`` pictures are no pictures. ``missing`` ones could not be opened."""

    shard: int = -1
    pictures: int = 0
    unreadable: int = 0
    missing: int = 0
    said: list[str] = field(default_factory=list)  # messages for the user


# Does a shard: takes its pictures (names, and where they are) and the path of a new file, and writes that.
Do = Callable[[Mapping[str, str], Path], Report]


@dataclass(frozen=True)
class Work:
    """What workers do. It is sent to each of them.

    ``load(source, *arguments)``: called once by each worker, for what does its shards. ``source`` and ``destination``:
    addresses. ``cores``: those of a worker. ``name`` tells works apart. ``backend``: that of Keras, if it is chosen.
    ``here``: the folder that relative paths begin at.
    """

    kind: Kind
    source: str
    destination: str
    load: Callable[..., Do]
    arguments: tuple[Any, ...]
    cores: int
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    backend: str = field(default_factory=lambda: os.environ.get("KERAS_BACKEND", ""))
    here: str = field(default_factory=os.getcwd)

    def settle(self) -> None:
        """Let this process use the cores of one worker, and compute as the driver would."""
        from captioning.exports.graphs import take_cores

        script.be_quiet()
        take_cores(self.cores)
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ.setdefault(name, str(self.cores))
        script.set_up_tensorflow()
        script.let_memory_grow()
        if self.backend:
            os.environ["KERAS_BACKEND"] = self.backend
        with suppress(OSError):  # a machine that lacks the folder may have all that absolute paths name
            os.chdir(self.here)


class Worker:
    """Does one shard after the other, in one process of a machine of the cluster."""

    def __init__(self, work: Work):
        self._work, self._do = work, work.load(Place(work.source, "the source"), *work.arguments)
        self._destination = Place(work.destination, "--output")
        self._manifest = Manifest(self._destination)

    def publish(self, shard: int) -> Report:
        """Do a shard and publish its file. Raises UserError."""
        kind, destination, paths = self._work.kind, self._destination, self._manifest.paths(shard)
        with temporary_folder("the results of a shard") as scratch:
            output = scratch / kind.file(shard)
            report = self._do(paths, output)
            report.shard, report.pictures = shard, len(paths)
            if report.missing == len(paths):
                raise UserError(f"none of the {len(paths):,} pictures of shard {shard} can be opened: {report.said[0]}")
            if report.missing:  # before the file, so that a kill between them lets the shard be done again
                destination.publish(kind.marker(shard), [str(report.missing).encode()])
            destination.publish(output.name, parts_of(output))
            if not report.missing:
                destination.remove(kind.marker(shard))
        report.said = report.said[:_SAID]
        return report


_workers_here: dict[str, Worker] = {}  # by the name of their work


def _do_shard(work: Work, shard: int) -> Report:
    """Do a shard in this process, which loads what that needs once."""
    if work.name not in _workers_here:
        work.settle()
        _workers_here[work.name] = Worker(work)
    return _workers_here[work.name].publish(shard)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to the Ray cluster at ``address``, or run one on this machine (``LOCAL``). Raises UserError."""
    try:
        import ray
    except ImportError:
        raise UserError(f"--cluster: Ray is not installed; {INSTALL}") from None
    _refuse_unreachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers about this machine
    before = signal.getsignal(signal.SIGTERM)  # Ray's own would end this process without a word
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # config.py and model.py are there
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "namespace": "captioning"}
    options |= {"runtime_env": {"env_vars": {"PYTHONPATH": paths}}}
    try:
        ray.init(address, **options, **({"include_dashboard": False} if address == LOCAL else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"--cluster: {address}: no Ray cluster answers ({first_line(error)}); start one with ray start --head, or "
            "check the address"
        ) from None
    try:
        with _terminating(before):
            yield
    except Exception as error:
        raise _of_user(error) from None
    finally:
        ray.shutdown()


@contextmanager
def _terminating(handler: Any) -> Iterator[None]:
    """Let SIGTERM go to ``handler`` again, and a Terminated that it raises come out as one.

    Ray makes a plain KeyboardInterrupt of one that comes while it waits.
    """
    told = False

    def tell(number: int, frame: Any) -> None:
        nonlocal told
        told = True
        handler(number, frame)

    signal.signal(signal.SIGTERM, tell if callable(handler) else handler)
    try:
        yield
    except KeyboardInterrupt:
        if told:
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def _refuse_unreachable(address: str) -> None:
    """Raise UserError if nobody listens at HOST:PORT. Ray itself would try for a minute."""
    if address in (LOCAL, "auto"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not (colon and port.isdigit()):
        raise UserError(
            f"--cluster: {address}: is neither HOST:PORT nor auto; from outside a cluster use ray job submit"
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--cluster: {address}: nobody answers there ({first_line(error)}); start a cluster with ray start --head, or "
            "check the address"
        ) from None


def _of_user(error: Exception) -> Exception:
    """The UserError that a worker has raised, or one for a machine that died too often. Else ``error`` itself."""
    from ray.exceptions import RayError, RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ModuleNotFoundError) and cause is not error:
        return UserError(
            f"--cluster: {cause.name} is missing on a machine of the cluster; install this software there at the same "
            "path, or use ray job submit --working-dir"
        )
    if isinstance(cause, RayError):
        return UserError(
            f"--cluster: the workers of a shard died {_RETRIES + 1} times, or the cluster ended "
            f"({first_line(cause)}); look at the machines, then run the same command to go on"
        )
    return cause


@contextmanager
def alone_on_cluster(address: str, destination: Place) -> Iterator[None]:
    """Be connected to a cluster, as its only job that writes into ``destination``. Raises UserError if there is one.

    Ray lets only one actor have a name, and ends it when its job ends in any way. A cluster of this machine alone has
    no other jobs, and a folder has a lock.
    """
    with connected(address):
        if address == LOCAL and destination.folder:
            yield
            return
        import ray

        name, until = f"job {destination.shown}", time.monotonic() + _LEAVING
        while True:
            try:
                holder = ray.remote(num_cpus=0)(_Holder).options(name=name).remote()
                ray.get(holder.__ray_ready__.remote())
                break
            except ValueError:  # the name is taken
                if time.monotonic() > until:
                    raise UserError(f"{destination.option}: {destination.shown}: {BUSY}") from None
                time.sleep(1)
        yield  # the actor ends with the connection


@contextmanager
def emptying(kind: Kind, shards: Place, address: str) -> Iterator[None]:
    """Be connected to a cluster, as the only job in a place for shards, which the job empties. Raises UserError."""
    with written_alone(shards, emptied=True):
        refuse_strangers(kind, shards)
        with alone_on_cluster(address, shards):
            yield


class _Holder:
    """Holds a name."""


def on_a_worker(cores: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` gives on a machine of the cluster."""
    import ray

    _require_workers(cores)
    return ray.get(ray.remote(num_cpus=cores, max_retries=_RETRIES)(function).remote(*arguments))


def run_shards(work: Work, todo: Sequence[int]) -> Iterator[Report]:
    """Do the shards ``todo`` on the cluster, as many at a time as it has room for. Yields a report on each."""
    import ray

    if not todo:
        return
    _require_workers(work.cores)
    do = ray.remote(num_cpus=work.cores, max_retries=_RETRIES)(_do_shard)
    left = iter(todo)
    flying: set[Any] = set()
    while True:
        # As many wait at Ray as are being done. So no machine waits for us, nor one that joins the cluster later.
        flying |= {do.remote(work, shard) for shard in islice(left, max(0, 2 * _workers(work.cores) - len(flying)))}
        if not flying:
            return
        done, _ = ray.wait(list(flying))
        flying -= set(done)
        yield from ray.get(done)


def do_all(work: Work, manifest: Manifest, destination: Place) -> Report:
    """Do the shards of a job that are not published, and show how far it is. Returns what all of them gave."""
    left = todo(work.kind, manifest, destination)
    total = Report(pictures=manifest.pictures - sum(map(manifest.size, left)))
    with Progress(work.kind.prefix, manifest.pictures, done=total.pictures) as progress:
        for report in run_shards(work, left):
            total.pictures += report.pictures
            total.unreadable += report.unreadable
            total.missing += report.missing
            for said in report.said:
                print(f"error: {said}", file=sys.stderr)
            if (more := report.unreadable + report.missing - len(report.said)) > 0:
                print(f"error: ... and {more:,} more in shard {report.shard}{_listed(work, report)}", file=sys.stderr)
            progress.update(report.pictures)
    if total.missing:
        print(
            f"note: {total.missing:,} pictures could not be opened; the same command does their shards again",
            file=sys.stderr,
        )
    return total


def _listed(work: Work, report: Report) -> str:
    """Where the user finds the unreadable pictures of a shard later; nothing if there are none."""
    if not report.unreadable:
        return ""
    stays = work.kind.suffix == ".jsonl"  # files of other kinds are joined and removed at the end
    where = work.kind.file(report.shard) if stays else "index.json of the result"
    return f"; {where} lists the unreadable ones"


def _require_workers(cores: int) -> None:
    """Raise UserError if no machine of the cluster has so many ``cores``."""
    if not _workers(cores):
        raise UserError(f"--worker-cores: no machine of the cluster has {cores} cores; give a smaller number")


def _workers(cores: int) -> int:
    """How many workers of so many ``cores`` the cluster has room for."""
    import ray

    return sum(int(node["Resources"].get("CPU", 0) // cores) for node in ray.nodes() if node["Alive"])
