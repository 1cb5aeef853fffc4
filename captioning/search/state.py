"""The state of a search: the named tuple that its loop carries, and the decoder's state in it.

The legend and the form of a decoder's state are in ``hypotheses.py``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import keras
from keras import ops

from captioning.search.hypotheses import Hypotheses

State = TypeVar("State", bound=NamedTuple)


def loop_while(goes_on: Callable[[State], Any], advance: Callable[[State], State], first: State) -> State:
    """``first``, ``advance(first)``, ... as long as ``goes_on(state)`` is true; gives the last state.

    ``keras.ops.while_loop`` passes the parts of a state one by one. Here they become one named tuple again.
    """
    kind = type(first)
    last = ops.while_loop(
        lambda *parts: goes_on(kind(*parts)), lambda *parts: tuple(advance(kind(*parts))), tuple(first)
    )
    return kind(*last)


def repeat_rows(state, times: int):
    """A nest of tensors ``(B, ...)`` as ``(B * times, ...)``: each row ``times`` times, one after the other."""
    return keras.tree.map_structure(lambda leaf: ops.repeat(leaf, times, axis=0), state)


def take_rows(state, rows):
    """The rows ``rows`` int32 ``(M,)`` of a nest of tensors ``(N, ...)``: a nest of ``(M, ...)``."""
    return keras.tree.map_structure(lambda leaf: ops.take(leaf, rows, axis=0), state)


def split_image(state) -> tuple[dict[str, Any], Any]:
    """A decoder's state in two parts: what depends on the image alone, and the rest.

    The first part is ``{}`` for a state without an entry "image".
    """
    if not isinstance(state, dict) or "image" not in state:
        return {}, state
    return {"image": state["image"]}, {name: part for name, part in state.items() if name != "image"}


def join_image(image: dict[str, Any], rest):
    """The two parts of ``split_image`` as one state."""
    return {**image, **rest} if image else rest


def put(tokens, t, words):
    """``tokens`` ``(..., L)`` with ``words`` ``(...)`` of the same dtype at position ``t``."""
    return ops.where(ops.arange(tokens.shape[-1]) == t, ops.expand_dims(words, -1), tokens)


def pick(tokens, order):
    """The hypotheses ``order`` int32 ``(B, J)`` of ``tokens`` ``(B, K, L)``: ``(B, J, L)``."""
    batch, count, length = ops.shape(tokens)
    first = ops.arange(batch, dtype=order.dtype)[:, None] * count
    return ops.take(ops.reshape(tokens, (-1, length)), first + order, axis=0)


def pick_nest(nest, order):
    """``pick`` for a nest of tensors ``(B, K, ...)``, such as a trace, which has none if it is not kept."""
    return keras.tree.map_structure(lambda part: pick(part, order), nest)


def pick_hypotheses(found: Hypotheses, order) -> Hypotheses:
    """The hypotheses ``order`` int32 ``(B, J)`` of ``found``, which has K of each image."""
    return Hypotheses(
        tokens=pick(found.tokens, order),
        log_probs=ops.take_along_axis(found.log_probs, order, axis=1),
        scores=ops.take_along_axis(found.scores, order, axis=1),
        trace=pick_nest(found.trace, order),
    )


def merge_beams(nest):
    """A nest of tensors ``(B, K, ...)`` as one of ``(B * K, ...)``."""
    return keras.tree.map_structure(lambda part: ops.reshape(part, (-1, *part.shape[2:])), nest)


def join_traces(one, other):
    """The traces ``(B, K, L)`` and ``(B, J, L)`` of hypotheses of the same images, side by side: ``(B, K + J, L)``."""
    return keras.tree.map_structure(lambda *parts: ops.concatenate(parts, axis=1), one, other)
