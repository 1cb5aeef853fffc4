"""The names of the signals from which a confidence is made, and sets of them. No Keras.

mean_log_p        mean log p of the tokens, <end> included
log_entropy       log of the mean entropy of the steps, in nats
lowest_log_p      the lowest log p of a token
highest_entropy   the highest entropy of a step
length            number of tokens
distance          log of the squared distance from the subspace of the training pictures
spread            log of the squared Mahalanobis distance within the subspace
direction_1 ...   position of the picture within the subspace, in standard deviations

The others come from visual concepts, so only captioners that have them have these signals (see
captioning/concepts/agreement.py):

agreement, support, coverage    how well the words of the caption fit the words that the picture suggests
named             log of the probability of the least probable object that the caption names
unnamed           log of the probability of the most probable object that it does not name
"""

from collections.abc import Sequence

USED = 16  # directions that are signals

_WORDS = ("mean_log_p", "log_entropy", "lowest_log_p", "highest_entropy", "length")
_DISTANCE = ("distance", "spread")
_DIRECTIONS = tuple(f"direction_{i + 1}" for i in range(USED))
_CONCEPTS = ("agreement", "support", "coverage", "named", "unnamed")
SIGNALS = (*_WORDS, *_DISTANCE, *_DIRECTIONS, *_CONCEPTS)
PLAIN = len(SIGNALS) - len(_CONCEPTS)  # the signals that every captioner has come first
# The sets of signals to choose from. The simplest comes first.
INPUTS = {
    "log-p": ("mean_log_p",),
    "entropy": ("log_entropy",),
    "words": _WORDS,
    "distance": (*_WORDS, *_DISTANCE),
    "concepts": (*_WORDS, *_DISTANCE, *_CONCEPTS),
    "directions": (*_WORDS, *_DISTANCE, *_DIRECTIONS),
}


def places(names: Sequence[str]) -> list[int]:
    """The positions of the signals ``names`` in ``SIGNALS``. Raises KeyError for an unknown name."""
    known = {name: place for place, name in enumerate(SIGNALS)}
    return [known[name] for name in names]
