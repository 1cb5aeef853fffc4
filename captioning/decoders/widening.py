"""A decoder that takes over the weights of another one, which may know fewer words."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from captioning.decoders.base import Decoder
from captioning.embeddings.base import PretrainedEmbedding
from captioning.words.vocabulary import SPECIALS


def take_weights(new: Decoder, old: Decoder, copies: Mapping[int, int] | None = None, held: float = 0.0) -> None:
    """Give ``new`` the weights of ``old``, a decoder with the same settings.

    If ``new`` knows more words, the first words are those of ``old``. Their rows stay as they are. Rows of further
    words start at the mean of the known words plus the random start that ``new`` has for them. The mean keeps the new
    words as likely as a known word is on average (Hewitt, 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html). Vectors from elsewhere, such as BERT's, stay those of
    ``new``.

    ``copies``: further words whose rows are those of a known word, id -> its id. Their biases, in nats, are lower by
    ``held``.
    """
    if new.sizes["vocabulary_size"] == old.sizes["vocabulary_size"]:
        new.set_weights(old.get_weights())
        return
    pretrained = isinstance(new.embedding, PretrainedEmbedding)
    arrays = {id(weight): name for name, weight in new.embedding.arrays.items()} if pretrained else {}
    for target, source in zip(new.weights, old.weights, strict=True):
        if id(target) not in arrays:
            target.assign(_widened(target, source, copies or {}, held, start_at_mean=True))
        elif new.embedding.tuned:
            target.assign(_widened(target, source, {}, held, start_at_mean=False))


def _widened(
    target: keras.Variable, source: keras.Variable, copies: Mapping[int, int], held: float, start_at_mean: bool
) -> np.ndarray:
    """The values of ``source`` in the shape of ``target``, which may have more rows along the axis of the words."""
    start, known = (ops.convert_to_numpy(weight.value) for weight in (target, source))
    axes = [axis for axis in range(start.ndim) if start.shape[axis] != known.shape[axis]]
    if not axes:
        return known
    (axis,) = axes
    rows = known.shape[axis]
    further = np.take(start, range(rows, start.shape[axis]), axis)
    if start_at_mean:
        ordinary = np.take(known, range(len(SPECIALS), rows), axis)
        further = further + ordinary.mean(axis, keepdims=True)
    widened = np.concatenate([known, further], axis)
    of_words = np.moveaxis(widened, axis, 0)
    for word, stand_in in copies.items():
        of_words[word] = of_words[stand_in] - (held if widened.ndim == 1 else 0.0)
    return widened
