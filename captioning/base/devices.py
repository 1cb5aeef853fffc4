"""Several devices that share each batch of training: which ones, and how a batch is divided among them.

Only JAX can do this here, through ``keras.distribution.DataParallel``: every device has all weights and an equal part
of the rows of a batch. So the number of rows must be a multiple of the number of devices. This is the one place that
fills batches up. Keras is imported inside the functions only.

The devices may belong to several processes, on one machine or on several (``join_hosts``). Then every process reads its
own rows of a batch, and JAX puts them together.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from captioning.base.backend import backend_name
from captioning.base.errors import UserError, first_line
from captioning.base.script import at_failure, be_quiet

# Why a backend trains on one device only.
_REASONS = {
    "tensorflow": "TensorFlow trains on one device here. With a loss that a model computes itself, tf.distribute doubles "
    "the loss and the step, and it refuses accumulated gradients",
    "torch": "Keras cannot train on several devices with PyTorch yet",
}
# How batches are shared, in all threads of this process; None: they are not. Keras' own ``distribution()`` answers for
# the calling thread alone, and threads read batches.
_sharing: "_Sharing | None" = None
HOSTS_FORM = "ADDRESS:PORT,PROCESSES,RANK"


class _Sharing(NamedTuple):
    """Which devices share batches, and which of the processes this one is."""

    distribution: Any  # a keras.distribution.DataParallel
    devices: int  # those of all processes together
    rank: int
    processes: int


def join_hosts(hosts: str) -> None:
    """Train together with other processes from here on. Comes before Keras computes anything.

    hosts: "auto", where JAX finds out by itself which processes there are, or ``ADDRESS:PORT,PROCESSES,RANK``. ADDRESS
        is that of process 0, and RANK is the number of this process, from 0.
    Only process 0 prints results and progress. When a process fails it leaves at once, so that the others fail too and
    do not wait for it. Raises UserError.
    """
    _refuse_backend("hosts")
    found = {} if hosts == "auto" else _parsed(hosts)
    import jax
    import keras

    try:
        jax.distributed.initialize(**found)
    except (ValueError, RuntimeError) as error:
        advice = f"give {HOSTS_FORM}, as in --hosts 10.0.0.1:1234,2,0 on the first of two machines"
        raise UserError(f"hosts: {first_line(error)}; {advice}") from None
    at_failure(os._exit)
    keras.utils.set_random_seed(0)  # all processes must draw the same weights
    if jax.process_index():
        be_quiet()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # it stays open until the process ends


def _parsed(hosts: str) -> dict[str, Any]:
    """The arguments of ``jax.distributed.initialize``. Raises UserError."""
    found = re.fullmatch(r"([^,\s]+:\d{1,5}),(\d{1,6}),(\d{1,6})", hosts)
    if not found:
        raise UserError(f"hosts: {hosts!r} is neither auto nor {HOSTS_FORM}")
    address, processes, rank = found[1], int(found[2]), int(found[3])
    if rank >= processes:
        raise UserError(
            f"hosts: of {processes} processes none has the rank {rank}; ranks are from 0 to {processes - 1}"
        )
    return {"coordinator_address": address, "num_processes": processes, "process_id": rank}


def use_devices(wanted: str, hosts: bool = False) -> None:
    """Share batches among the devices that the setting ``devices`` names. Comes before any layer is built.

    ``wanted`` is a number from 1, or ``"all"``. With 1 nothing changes. ``hosts``: this process trains together with
    others, and ``wanted`` are devices of each of them. Raises UserError if the backend cannot do it, or if there are
    not so many devices.
    """
    if wanted == "1" and not hosts:
        if _sharing:
            _set_sharing(None)
        return
    _refuse_backend("devices")
    import keras

    found = _devices_by_process()
    count = len(found[0]) if wanted == "all" else int(wanted)
    for rank, names in enumerate(found):
        if count > len(names):
            of = f" in process {rank}" if hosts else ""
            raise UserError(
                f"devices: {count} are wanted, and JAX sees {len(names)}{of} ({', '.join(names)}); choose fewer"
                + ("" if hosts else ", or all")
            )
    names = [name for names in found for name in names[:count]]
    # Our batches are divided already. By itself Keras refuses a PyDataset in 3.15, or would leave out whole batches.
    distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    _set_sharing(_Sharing(distribution, len(names), distribution.data_shard_id, distribution.num_processes))


def _set_sharing(sharing: _Sharing | None) -> None:
    global _sharing
    import keras

    keras.distribution.set_distribution(sharing.distribution if sharing else None)
    _sharing = sharing


def _refuse_backend(setting: str) -> None:
    """Raise UserError if the backend trains on one device only."""
    if reason := _REASONS.get(backend_name()):
        raise UserError(f"{setting}: {reason}; choose --backend jax, or leave out --{setting}")


def _devices_by_process() -> list[list[str]]:
    """The names of the devices of each process, such as ``[["gpu:0", "gpu:1"]]``."""
    import jax

    found: list[list[str]] = [[] for _ in range(jax.process_count())]
    for device in jax.devices():
        found[device.process_index].append(f"{device.platform}:{device.id}")
    return found


def device_count() -> int:
    """How many devices share a batch, those of all processes together."""
    return _sharing.devices if _sharing else 1


def process_count() -> int:
    """How many processes train together."""
    return _place()[1]


def _place() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    return (_sharing.rank, _sharing.processes) if _sharing else (0, 1)


def is_first() -> bool:
    """Whether this process is the one that writes and prints, of those that train together."""
    return _place()[0] == 0


def first_alone(work: Callable[[], Any]) -> None:
    """Let process 0 do ``work`` on a device of its own while the others wait."""
    if process_count() == 1:
        work()
        return
    import keras

    if is_first():
        sharing = _sharing
        _set_sharing(None)
        try:
            work()
        finally:
            _set_sharing(sharing)
    wait_for_all()
    keras.utils.set_random_seed(0)  # the work has drawn numbers, and all processes must build the same models


def wait_for_all() -> None:
    """Wait until all processes are here. Raises UserError if one has ended."""
    try:
        of_first(np.zeros(1, np.int32))
    except (RuntimeError, ValueError) as error:
        if not tells_of_lost_process(error):
            raise
        raise UserError(
            f"hosts: another process has ended, or cannot be reached ({first_line(error)[:200]}); what it said tells why"
        ) from None


def tells_of_lost_process(error: RuntimeError | ValueError) -> bool:
    """Whether JAX raised ``error`` because it cannot reach another process.

    JAX has no type for that. The text begins with a status of gRPC, as in "UNKNOWN: Gloo AllGather failed". Too little
    memory has a status too, which is not among these.
    """
    return bool(re.match(r"(UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|INTERNAL|DEADLINE_EXCEEDED): ", str(error)))


def of_first(array: np.ndarray) -> np.ndarray:
    """The ``array`` that process 0 has. All processes must call this, with arrays of the same shape and dtype.

    Two processors may differ in last bits, and so in a word of a caption. Processes that decided on different grounds
    would wait for one another without end.
    """
    if process_count() == 1:
        return array
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return np.asarray(broadcast_one_to_all(np.ascontiguousarray(array).view(np.uint8))).view(array.dtype)


def scores_of_first(scores: Mapping[str, float]) -> dict[str, float]:
    """The ``scores`` that process 0 has. All processes must call this, with the same names."""
    return dict(zip(scores, of_first(np.asarray(list(scores.values()), "float64")).tolist(), strict=True))


def share(batch: Any, own_images: bool = False) -> Any:
    """The rows of this process of a training batch that all devices share evenly.

    ``batch`` is a nest of tuples of arrays. The first array holds the images, as features or pixels. It is filled up,
    and this process gets its part, as ``fill_up`` and ``own_rows`` say. ``own_images``: the first array holds what
    ``own_rows`` gives already.
    """
    filled = fill_up(batch, device_count(), own_images)
    images = next(_flat(filled))
    return _map(lambda array: array if own_images and array is images else _part(array), filled)


def own_rows(rows: np.ndarray) -> np.ndarray:
    """Of numbers of images ``(B,)`` of a batch those that this process reads. The last one is repeated to fill up."""
    return _part(_filled(rows, device_count(), "edge"))


def _part(array: np.ndarray) -> np.ndarray:
    """The part of the rows that this process has. Processes have equally many devices."""
    rank, processes = _place()
    size = len(array) // processes
    return array[rank * size : (rank + 1) * size] if processes > 1 else array


def fill_up(batch: Any, multiple: int, own_images: bool = False) -> Any:
    """A training batch whose arrays have a multiple of so many rows. The added rows count nothing.

    ``batch`` is a nest of tuples of arrays. The first array holds the images, as features or pixels. Its last image is
    repeated, because an image of zeros may have no region to look at. Other arrays get zeros: ``<pad>``, image 0 of a
    caption without words, no advantage. Losses leave rows of ``<pad>`` out. With ``own_images`` the images stay as they
    are.
    """
    images = next(_flat(batch))

    def fill(array: np.ndarray) -> np.ndarray:
        if array is not images:
            return _filled(array, multiple, "constant")
        return array if own_images else _filled(array, multiple, "edge")

    return _map(fill, batch)


def repeat_last(batch: Any, multiple: int) -> Any:
    """A nest of arrays with a multiple of so many rows each. The last row of each is repeated."""
    return _map(lambda array: _filled(array, multiple, "edge"), batch)


def _filled(array: np.ndarray, multiple: int, mode: Any) -> np.ndarray:
    missing = -len(array) % multiple
    return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)], mode=mode) if missing else array


def _map(function: Callable[[np.ndarray], Any], nest: Any) -> Any:
    """``nest`` with ``function`` of each of its arrays, from the first to the last."""
    return tuple(_map(function, part) for part in nest) if isinstance(nest, tuple) else function(nest)


def _flat(nest: Any) -> Iterator[np.ndarray]:
    """The arrays of ``nest``, from the first to the last."""
    if isinstance(nest, tuple):
        for part in nest:
            yield from _flat(part)
    else:
        yield nest


def place(batch: Any) -> Any:
    """The arrays of a nest on the devices, each device with its part of the rows."""
    import keras

    assert _sharing is not None
    layout = _sharing.distribution.get_data_layout
    return _map(lambda array: keras.distribution.distribute_tensor(array, layout(array.shape)), batch)
