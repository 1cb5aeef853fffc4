"""Several devices that share each batch of training: which ones, and how a batch is divided among them.

Only JAX can do this here, through ``keras.distribution.DataParallel``: every device has all weights and an equal part
of the rows of a batch. So the number of rows must be a multiple of the number of devices. This is the one place that
fills batches up. Keras is imported inside the functions only.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from captioning.base.backend import backend_name
from captioning.base.errors import UserError

# Why a backend trains on one device only.
_REASONS = {
    "tensorflow": "TensorFlow trains on one device here. With a loss that a model computes itself, tf.distribute doubles "
    "the loss and the step, and it refuses accumulated gradients",
    "torch": "Keras cannot train on several devices with PyTorch yet",
}


def use_devices(wanted: str) -> None:
    """Share batches among the devices that the setting ``devices`` names. Comes before any layer is built.

    ``wanted`` is a number from 1, or ``"all"``. With 1 nothing changes. Raises UserError if the backend cannot do it,
    or if there are not so many devices.
    """
    if wanted == "1":
        return
    backend = backend_name()
    if backend in _REASONS:
        raise UserError(f"devices: {_REASONS[backend]}; choose --backend jax, or leave devices at 1")
    import keras

    found = keras.distribution.list_devices()
    count = len(found) if wanted == "all" else int(wanted)
    if count > len(found):
        raise UserError(
            f"devices: {count} are wanted, and JAX sees {len(found)} ({', '.join(found)}); choose fewer, or all"
        )
    # Our batches are divided already. By itself Keras refuses a PyDataset in 3.15, or would leave out whole batches.
    distribution = keras.distribution.DataParallel(devices=found[:count], auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)


def device_count() -> int:
    """How many devices share a batch."""
    import keras

    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


def fill_up(batch: Any, multiple: int) -> Any:
    """A training batch whose arrays have a multiple of so many rows. The added rows count nothing.

    ``batch`` is a nest of tuples of arrays. The first array holds the images, as features or pixels. Its last image is
    repeated, because an image of zeros may have no region to look at. Other arrays get zeros: ``<pad>``, image 0 of a
    caption without words, no advantage. Losses leave rows of ``<pad>`` out.
    """
    is_images = iter([True])

    def fill(array: np.ndarray) -> np.ndarray:
        return _filled(array, multiple, "edge" if next(is_images, False) else "constant")

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


def place(batch: Any) -> Any:
    """The arrays of a nest on the devices, each device with its part of the rows."""
    import keras

    distribution = keras.distribution.distribution()
    return _map(
        lambda array: keras.distribution.distribute_tensor(array, distribution.get_data_layout(array.shape)), batch
    )
