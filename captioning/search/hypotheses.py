"""What goes into a search and what comes out: the step function, and the captions found. No Keras.

Legend of this folder: B images, K hypotheses per image, N rows (N = B * K), V vocabulary size, t position of the next
word, L longest caption in tokens (``max_length`` words and ``<end>``).

A search takes two things from a decoder:

    step(token_ids int32 (N,), state) -> (logits (N, V), next state)
    state                                the state before the first word

A state is a nest (dicts, lists and tuples) of tensors. The first axis of each tensor is the batch.
A state that is a dict may have an entry "image": what the decoder computed from the image alone. ``step`` returns this
entry unchanged. Hypotheses of one image share it, so beam search never reorders it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

# Logit or log p of a word that must not be chosen. It is finite: sums of it can be compared, and top-k never sees NaN.
BANNED = -1e9
# A hypothesis with a log p below this contains a banned word, so it is not a caption.
IMPOSSIBLE = BANNED / 2

Step = Callable[[Any, Any], tuple[Any, Any]]


class Trace(NamedTuple):
    """How sure the model was at each position of a caption. Zeros stand where ``tokens`` has ``<pad>``."""

    log_p: Any  # float32 (..., L): log p of the token there
    entropy: Any  # float32 (..., L): nats, of all tokens that could have stood there


# What a search that keeps no trace has in its place: a nest without tensors, so a loop carries nothing for it.
NO_TRACE = ()


class Hypotheses(NamedTuple):
    """The K best captions of each image, best first.

    A row of ``tokens`` holds word ids, then ``<end>`` if the caption ended, then ``<pad>``.
    If there are fewer captions than K, the rest have a log p below ``IMPOSSIBLE``.
    """

    tokens: Any  # int32 (B, K, L)
    log_probs: Any  # float32 (B, K): natural log of the caption's probability, ``<end>`` included
    scores: Any  # float32 (B, K): what the captions are ranked by
    trace: Trace | tuple[()] = NO_TRACE  # (B, K, L); kept on demand
