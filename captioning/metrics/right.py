"""Whether a caption is right: it names no object that is not there, and it is enough like the references."""

from collections.abc import Sequence

import numpy as np

from captioning.metrics.chair import mentions
from captioning.metrics.cider import Cider
from captioning.metrics.references import Caption, words


def is_right(
    captions: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    cider: Sequence[float] | np.ndarray,
    bound: float,
) -> np.ndarray:
    """Which captions are right, bool ``(N,)``.

    A caption is right if every object that it names is named by a reference of its image (``chair``), and if its
    CIDEr-D, times 100 as in ``cider``, is above ``bound``.
    """
    has_no_absent = np.array([not found.absent for found in mentions(captions, references)], bool)
    return has_no_absent & (np.asarray(cider) > bound)


def cider_of_people(references: Sequence[Sequence[Caption]]) -> np.ndarray:
    """The CIDEr-D, times 100, of each reference against the others of its image: float64 ``(M,)``.

    M counts the references of all images with more than one. Document frequencies are counted over all ``references``,
    as when captions are scored.
    """
    groups = [[words(reference) for reference in group] for group in references]
    found = [np.zeros(0)]
    for k in range(max(map(len, groups))):
        held = [group for group in groups if len(group) > max(k, 1)]
        if held:
            scorer = Cider([[*group[:k], *group[k + 1 :]] for group in held], corpus=groups)
            found.append(scorer.score(range(len(held)), [group[k] for group in held]))
    return np.concatenate(found)
