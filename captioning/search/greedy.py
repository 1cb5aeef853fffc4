"""Greedy search: the most probable next word, again and again.

The legend is in ``hypotheses.py``.
"""

from typing import Any

from keras import ops

from captioning.search.growing import grow
from captioning.search.hypotheses import Hypotheses, Step


def greedy_search(step: Step, state, batch: int, max_length: int, **options: Any) -> Hypotheses:
    """The caption that greedy search finds for each image, as ``Hypotheses`` with K = 1.

    ``state``: the decoder's state before the first word, of ``batch`` images. ``max_length``: words of the longest
    caption. ``options``: the length penalty, the rules and the trace of ``grow``.
    """

    def best(log_p, t, rows):
        # argmax of integers: on floats, Keras' argmax tells -0 from 0 by their bits, and exported graphs cannot.
        is_best = ops.cast(log_p == ops.max(log_p, axis=-1, keepdims=True), "int32")
        return ops.cast(ops.argmax(is_best, axis=-1), "int32")

    return grow(step, state, batch, max_length, best, **options)
