"""The names of the signals that a confidence may be made of, and sets of them. No Keras.

mean_log_p        mean log p of the tokens, <end> included
log_entropy       log of the mean entropy of the steps, in nats
lowest_log_p      the lowest log p of a token
highest_entropy   the highest entropy of a step
length            number of tokens
distance          log of the squared distance from the subspace of the training pictures
spread            log of the squared Mahalanobis distance within the subspace
direction_1 ...   where the picture stands within the subspace, in standard deviations
"""

from collections.abc import Sequence

USED = 16  # directions that are signals of their own

_WORDS = ("mean_log_p", "log_entropy", "lowest_log_p", "highest_entropy", "length")
_DISTANCE = ("distance", "spread")
_DIRECTIONS = tuple(f"direction_{i + 1}" for i in range(USED))
SIGNALS = (*_WORDS, *_DISTANCE, *_DIRECTIONS)
# Sets of signals that a confidence may be made of, from the simplest on.
INPUTS = {
    "log-p": ("mean_log_p",),
    "entropy": ("log_entropy",),
    "words": _WORDS,
    "distance": (*_WORDS, *_DISTANCE),
    "directions": SIGNALS,
}


def places(names: Sequence[str]) -> list[int]:
    """Where the signals ``names`` stand among all. Raises KeyError for one that there is not."""
    known = {name: place for place, name in enumerate(SIGNALS)}
    return [known[name] for name in names]
