"""How training lets a decoder read captions: logits for words only, and little work on padding.

Legend: B images, S captions of each image, N captions, R regions, T tokens, U the tokens of the longest caption, V
vocabulary size, M places that hold a word or ``<end>``.
"""

from typing import Any

from keras import ops

from captioning.base.backend import compiles_per_shape
from captioning.decoders.base import Decoder, of_captions
from captioning.decoders.loops import Ending, LoopDecoder, read_to_the_end
from captioning.words.vocabulary import END, PAD


def read_captions(
    decoder: Decoder, image, token_ids, seen_ids, image_of=None, training=None, with_padding=False
) -> dict[str, Any]:
    """What ``decoder`` predicts after each token of captions, by name:

    "logits"   float ``(M, V)``
    "places"   int32 ``(M,)``: where they belong in the flat ``token_ids``
    "weights"  float ``(N, U, R)``: where the decoder looked, if it has attention; nothing after a caption's end

    image: what ``decoder.see`` found, a nest of ``(B, ...)``.
    token_ids: int ``(N, T)``, or ``(B, S, T)``: the captions of each image. N is then B * S. Captions end in ``<pad>``.
        Least is read where the captions of an image come longest first.
    seen_ids: the same, with the words that the decoder gets to see.
    image_of: int ``(N,)``, the image of each caption. None: ``token_ids`` tells it.
    with_padding: Whether to read padding too. Then "logits" are ``(N, T, V)``, U is T, and there are no "places".
    """
    image, width = of_captions(image, image_of), ops.shape(token_ids)[-1]
    captions = (token_ids.shape[1] or 1) if len(token_ids.shape) == 3 else 1
    token_ids, seen_ids = (ops.reshape(ids, (-1, width)) for ids in (token_ids, seen_ids))
    if with_padding:
        vectors, weights = decoder.read(image, seen_ids, training)
        return {"logits": decoder.word_logits(vectors, training)} | ({} if weights is None else {"weights": weights})
    # After <end> comes nothing that is to be predicted.
    is_word = ops.logical_and(token_ids != PAD, token_ids != END)
    lengths = ops.sum(ops.cast(is_word, "int32"), axis=1)
    longest = steps = ops.max(lengths)
    if captions > 1 and isinstance(decoder, LoopDecoder):
        ended = ops.maximum(ops.max(ops.reshape(lengths, (-1, captions))[:, read_to_the_end(captions) :]), 1)
        steps = ops.maximum(longest, ended + 1)  # so that both parts of the loop have a step
        is_word, seen_ids = (ops.pad(part, ((0, 0), (0, 1))) for part in (is_word, seen_ids))
        vectors, weights = decoder.read(image, seen_ids[:, :steps], training, Ending(ended, captions))
    else:
        vectors, weights = decoder.read(image, seen_ids[:, :longest], training)
    chosen = ops.cast(ops.nonzero(ops.reshape(is_word[:, :steps], (-1,)))[0], "int32")
    vectors = ops.take(ops.reshape(vectors, (-1, vectors.shape[-1])), chosen, axis=0)
    found = {
        "logits": decoder.word_logits(vectors, training),
        "places": chosen // steps * width + chosen % steps,  # (N * steps,) -> (N * T,)
    }
    return found if weights is None else {**found, "weights": weights[:, :longest]}


def at_places(values, found: dict[str, Any]):
    """``values (N, T)`` or ``(B, S, T)`` where ``read_captions`` has ``found`` logits: ``(M,)``, or ``(N, T)``."""
    if "places" not in found:
        return ops.reshape(values, (-1, ops.shape(values)[-1]))
    return ops.take(ops.reshape(values, (-1,)), found["places"])


def needs_fixed_shapes(jit_compile: Any) -> bool:
    """Whether the number of words may not decide shapes: they are compiled. ``jit_compile`` is that of the trainer."""
    return compiles_per_shape() or bool(jit_compile)
