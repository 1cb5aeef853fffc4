"""Batches and predictions on several devices. On one device they are what they are without.

``base.devices`` says how a batch is divided.
"""

from typing import Any

import keras
import numpy as np

from captioning.base.devices import device_count, of_first, own_rows, place, process_count, repeat_last, share
from captioning.base.script import stop_if_told


class SpreadBatches(keras.utils.PyDataset):
    """The rows of this process of other batches, filled up so that the devices can share each of them evenly.

    ``batches`` read their images through their attribute ``own_images``.
    """

    def __init__(self, batches: Any):
        batches.own_images = own_rows
        super().__init__(workers=batches.workers, max_queue_size=batches.max_queue_size)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int):
        return share(self.batches[index], own_images=True)


class _Listener(keras.callbacks.Callback):
    """Ctrl-C that waits for the end of a batch is heard there (see ``base.script.stops_between_batches``)."""

    def on_predict_batch_end(self, batch, logs=None):
        stop_if_told()

    def on_test_batch_end(self, batch, logs=None):
        stop_if_told()


def spread(batches: Any) -> keras.utils.PyDataset:
    """``batches`` for ``fit`` and ``evaluate`` on the devices that share them."""
    return SpreadBatches(batches) if device_count() > 1 else batches


def evaluate(model: keras.Model, batches: Any) -> dict[str, float]:
    """What ``model.evaluate`` finds on ``batches``, by name. The devices share each of them."""
    return model.evaluate(spread(batches), verbose=0, return_dict=True, callbacks=[_Listener()])


def predict_on_batch(model: keras.Model, inputs: Any) -> Any:
    """What ``model`` predicts for a batch, a nest of NumPy arrays. The devices share its rows.

    ``inputs``: an array, or a nest of tuples of arrays with equally many rows. With several processes each device
    computes all rows, because Keras gives a process only what its own devices hold.
    """
    stop_if_told()
    devices = device_count()
    if devices == 1:
        return model.predict_on_batch(inputs)
    if process_count() > 1:
        return keras.tree.map_structure(of_first, model.predict_on_batch(inputs))
    rows = len(keras.tree.flatten(inputs)[0])
    found = model.predict_on_batch(place(repeat_last(inputs, devices)))
    return keras.tree.map_structure(lambda part: np.asarray(part)[:rows], found)


def predict(model: keras.Model, inputs: Any, batch_size: int = 32) -> Any:
    """What ``model`` predicts for ``inputs``, a nest of NumPy arrays. The devices share the rows of each batch.

    ``inputs``: a PyDataset without targets, or an array, which is cut into batches of ``batch_size``.
    """
    if device_count() == 1:
        size = None if _is_batches(inputs) else batch_size
        return model.predict(inputs, batch_size=size, verbose=0, callbacks=[_Listener()])
    if _is_batches(inputs):
        batches = (inputs[index][0] for index in range(len(inputs)))
    else:
        batches = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
    found = [predict_on_batch(model, batch) for batch in batches]
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *found)


def _is_batches(inputs: Any) -> bool:
    return isinstance(inputs, keras.utils.PyDataset)
