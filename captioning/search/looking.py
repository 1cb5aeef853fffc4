"""Where a decoder looks while it reads given captions, step by step.

The legend is in ``hypotheses.py``; R is the number of regions. ``attend`` of a decoder gives the same, and it is faster
in training. Its ``ops.scan`` becomes a loop that converters to ONNX do not take, and this loop is one that they take.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from captioning.search.state import loop_while


class LookingState(NamedTuple):
    """What the loop carries."""

    t: Any  # int32 (): the position that is read next
    weights: Any  # float32 (N, T, R): the weights so far, then zeros
    decoder: Any  # the decoder's state, a nest of (N, ...)


def looks(look: Callable[[Any, Any], tuple[Any, Any, Any]], state, token_ids, regions: int):
    """The weights of the attention at each position, float32 ``(N, T, R)``.

    ``look``: that of the decoder (``captioning/decoders/base.py``). ``state``: the decoder's state before the first
    word. ``token_ids`` int32 ``(N, T)``: what it reads, from ``<start>`` on. ``regions``: R, one more for a decoder
    with a sentinel.
    """
    rows, length = ops.shape(token_ids)

    def advance(now: LookingState) -> LookingState:
        _, decoder, weights = look(ops.take(token_ids, now.t, axis=1), now.decoder)
        here = (ops.arange(length) == now.t)[None, :, None]  # (1, T, 1)
        weights = ops.where(here, ops.cast(weights, "float32")[:, None], now.weights)
        return LookingState(now.t + 1, weights, decoder)

    first = LookingState(
        t=ops.convert_to_tensor(0, dtype="int32"),
        weights=ops.zeros((rows, length, regions), dtype="float32"),
        decoder=state,
    )
    return loop_while(lambda now: now.t < length, advance, first).weights
