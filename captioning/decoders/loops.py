"""Decoders that read in a loop over the words, and how the loop leaves out captions that have ended.

Of the captions of an image some are shorter than others. From some step on the later ones have all ended, if an image's
longest caption comes first. The loop then goes on with the first few captions of each image.
Legend: B images, N captions, T time, E embedding size, X any width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from captioning.decoders.base import RegionDecoder


def read_to_the_end(captions: int) -> int:
    """How many of so many ``captions`` of an image the loop reads to the end: the longer half, rounded down."""
    return captions // 2


class Ending(NamedTuple):
    """When the shorter captions of every image have ended: after ``step`` steps only the longer ones are read on.

    step: how many, an integer or a scalar tensor; at least 1, and less than T.
    captions: how many each image has, at least 2.
    """

    step: Any
    captions: int

    @property
    def kept(self) -> int:
        """How many captions of each image are read on: the first ones."""
        return read_to_the_end(self.captions)

    def first(self, parts):
        """The rows of the captions that are read on, of a nest ``(N, ...)``: ``(N * kept / captions, ...)``."""

        def keep(part):
            shape = ops.shape(part)[1:]
            return ops.reshape(ops.reshape(part, (-1, self.captions, *shape))[:, : self.kept], (-1, *shape))

        return keras.tree.map_structure(keep, parts)

    def fill_up(self, part):
        """``part (T, N * kept / captions, X)`` with zeros for the other captions: ``(T, N, X)``."""
        steps, width = ops.shape(part)[0], ops.shape(part)[-1]
        by_image = ops.reshape(part, (steps, -1, self.kept, width))
        filled = ops.pad(by_image, ((0, 0), (0, 0), (0, self.captions - self.kept), (0, 0)))
        return ops.reshape(filled, (steps, -1, width))


def read_in_parts(prepare: Callable, carry: tuple, words, ending: Ending | None = None) -> tuple:
    """A loop over ``words (N, T, E)`` that leaves captions out once they have ended. It gives a tuple of ``(N, T, X)``.

    prepare: ``words (n, t, E) -> (body, inputs (n, t, X))``. ``body(carry, inputs (n, X))`` is a step, as in
        ``ops.scan``. Its carry and what it finds are alike.
    carry: the state before the first word, a tuple of ``(N, X)``.
    ending: None reads all to the end. With it, zeros stand where nothing is read.
    """

    def read(carry, words):
        body, inputs = prepare(words)
        return ops.scan(body, carry, ops.swapaxes(inputs, 0, 1))

    if ending is None:
        _, found = read(carry, words)
    else:
        carry, begun = read(carry, words[:, : ending.step])
        _, rest = read(ending.first(carry), ending.first(words[:, ending.step :]))
        found = (ops.concatenate([a, ending.fill_up(b)], axis=0) for a, b in zip(begun, rest, strict=True))
    return tuple(ops.swapaxes(part, 0, 1) for part in found)


class LoopDecoder(RegionDecoder):
    """The base of decoders with attention that read in a loop over the words (see ``read_in_parts``)."""

    def read(self, image, token_ids, training=None, ending: Ending | None = None):
        """As in ``Decoder``. With an ``ending``, zeros may stand for captions that have ended."""
        raise NotImplementedError
