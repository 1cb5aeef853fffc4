"""Weights files of encoders: read with a check, and written at half their size.

A Keras ``.weights.h5`` file of half the size holds kernels as float16 (see ``digests.halved``). Reading such a file
gives float32 weights, rounded to what was stored.
"""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import h5py
import keras

from captioning.base.errors import UserError, first_line
from captioning.base.files import replacing, require_room
from captioning.base.script import FULL
from captioning.features.digests import backbone_of, halved


def load_weights(backbone: keras.Model, path: str | Path, encoder: str) -> None:
    """Give ``backbone`` the weights in ``path``. Raises UserError: missing, or of another model than ``encoder``."""
    if not Path(path).is_file():
        raise UserError(
            f"encoder_weights: there is no file {path} with weights for encoder {encoder}; name another file"
        )
    try:
        if str(path).endswith((".weights.h5", ".h5")):
            refuse_oversized(path)
        if str(path).endswith(".weights.h5"):
            _refuse_other_layers(backbone, path)
        backbone.load_weights(path)
    except Exception as error:  # h5py and Keras raise OSError, ValueError, KeyError and more on other files
        raise UserError(
            f"encoder_weights: {path} does not fit encoder {encoder} (needed: weights without the classifier, as "
            f"saved by Keras): {first_line(error)}"
        ) from None


def refuse_oversized(file: str | Path | BinaryIO) -> int:
    """The number of elements of all arrays in a weights file (HDF5), if they are no larger than the file itself.

    Raises ValueError or OSError otherwise, and for a file that refers to other files. HDF5 can declare an array of any
    size, which is zeros where nothing is stored. Keras would make it.
    """
    held = os.path.getsize(file) if isinstance(file, str | Path) else file.seek(0, os.SEEK_END)
    arrays: list[h5py.Dataset] = []
    with h5py.File(file, "r") as opened:
        opened.visititems(lambda name, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        # Not raised in the function itself: h5py makes another error of it.
        elsewhere = opened.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else name)
        if elsewhere is not None:
            raise ValueError(f"{elsewhere[:50]} leads to another place")
        for array in arrays:
            if array.external or array.is_virtual or array.dtype.hasobject:
                raise ValueError(f"{array.name[:50]} is not stored in the file itself")
        declared = sum(array.nbytes for array in arrays)
        if declared > _PACKED * held + _OVERHEAD:
            raise ValueError(f"its arrays would take {declared:,} bytes, and it has {held:,}")
        return sum(array.size for array in arrays)


_PACKED = 4  # arrays may be so many times smaller in a file than in memory
_OVERHEAD = 1 << 20


def _refuse_other_layers(backbone: keras.Model, path: str | Path) -> None:
    """Raise ValueError when a file holds more or fewer arrays than ``backbone`` has weights.

    Keras reads what it looks for and ignores the rest. So the file of a deeper model would load without an error.
    """
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    if len(found) != len(backbone.weights):
        raise ValueError(f"it holds {len(found)} arrays, and the encoder has {len(backbone.weights)}")


def save_weights_float16(model: keras.Model, path: str | Path) -> None:
    """Write ``model``'s weights as a file of half the size, whole or not at all.

    Of an encoder from ``build_encoder`` the backbone is written, so that encoder_weights=path reads it back.
    """
    with replacing(Path(path)) as new:
        save_weights(backbone_of(model), new)
        halve_weights(new)


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a Keras ``.weights.h5`` file: the weights of ``model``, and of its optimiser if it has one. Raises OSError.

    ``path`` may be left in part then.
    """
    with written_by_hdf5(model, path):
        model.save_weights(path)


@contextmanager
def written_by_hdf5(model: keras.Model, path: Path) -> Iterator[None]:
    """Let the body write the weights of ``model`` into ``path`` with HDF5, if there is room. Raises OSError."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.weights, *(optimizer.variables if optimizer else ())]
    sizes = (math.prod(variable.shape) * (8 if "64" in str(variable.dtype) else 4) for variable in variables)
    try:
        require_room(path, sum(sizes) + len(variables) * _OF_A_VARIABLE + _OVERHEAD // 16)
        yield
    except (OSError, RuntimeError) as error:  # h5py's own errors have no number, and say it in the text
        numbers = [number for number in FULL if f"errno = {number}" in str(error)]
        if error.__class__ is RuntimeError and not numbers:
            raise
        number = getattr(error, "errno", None) or (numbers or [errno.EIO])[0]
        raise OSError(number, os.strerror(number), str(path)) from None


_OF_A_VARIABLE = 4096  # bytes that HDF5 may need to describe one


def halve_weights(path: Path) -> None:
    """Rewrite a Keras ``.weights.h5`` file at half its size, whole or not at all. Raises OSError."""

    def halve(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            copy = target.require_group(name)
        else:
            copy = target.create_dataset(name, data=halved(item[()]))
        copy.attrs.update(item.attrs)

    require_room(path, path.stat().st_size)
    with replacing(path) as new, h5py.File(path) as source, h5py.File(new, "w") as target:
        target.attrs.update(source.attrs)
        source.visititems(halve)
