"""Rankings by the towers and by the captioner, block by block, are those of the whole matrix of scores."""

import numpy as np
import pytest

from captioning.metrics.recall import expected_ranks, retrieval
from captioning.retrieval import ranking
from captioning.retrieval.ranking import nearest, neighbours, rank, reranked_ranks, score

IMAGES, CAPTIONS, J = 12, 40, 3
RNG = np.random.default_rng(2)
# Coarse coordinates, so that many cosines are equal.
VECTORS, TEXTS = (RNG.integers(-2, 3, (count, J)).astype("float32") for count in (IMAGES, CAPTIONS))
IMAGE_OF = np.concatenate([np.arange(IMAGES), RNG.integers(0, IMAGES, CAPTIONS - IMAGES)])
NUMBERS = np.arange(IMAGES)


@pytest.fixture(params=[1, 3 * CAPTIONS, 1 << 24], autouse=True)
def _block(request, monkeypatch):
    """One query at a time, some, all."""
    monkeypatch.setattr(ranking, "_BLOCK", request.param)


def test_both_directions_of_the_towers():
    cosines = VECTORS @ TEXTS.T
    expected = retrieval(expected_ranks(cosines, NUMBERS, IMAGE_OF), expected_ranks(cosines.T, IMAGE_OF, NUMBERS))
    assert score(VECTORS, TEXTS, IMAGE_OF) == expected


@pytest.mark.parametrize("count", [1, 5, 12, 100])
def test_candidates_come_first_and_the_others_stay_in_order(count):
    for queries, gallery, ours, theirs in ((VECTORS, TEXTS, NUMBERS, IMAGE_OF), (TEXTS, VECTORS, IMAGE_OF, NUMBERS)):
        cosines = queries @ gallery.T
        found = rank(queries, gallery, ours, theirs, count)
        np.testing.assert_array_equal(found.ranks, expected_ranks(cosines, ours, theirs))
        np.testing.assert_array_equal(found.candidates, nearest(cosines, count))
        np.testing.assert_array_equal(found.cosines, np.take_along_axis(cosines, found.candidates, axis=1))
        judged = RNG.integers(-3, 0, found.candidates.shape).astype(float)
        whole = cosines.astype(float)
        np.put_along_axis(whole, found.candidates, judged + 1000, axis=1)
        np.testing.assert_array_equal(reranked_ranks(found, judged, ours, theirs), expected_ranks(whole, ours, theirs))


def test_nearest():
    rows = np.asarray([[0.1, 0.5, 0.5, 0.2], [0.4, 0.3, 0.2, 0.1]])
    assert nearest(rows, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert nearest(rows, 9).tolist() == [[1, 2, 3, 0], [0, 1, 2, 3]]
    nan = np.asarray([[0.9, np.nan, 0.5, 0.1]])
    assert nearest(nan, 2).tolist() == [[0, 2]], "NaN comes last"


def test_neighbours_are_those_of_the_whole_matrix():
    cosines = VECTORS @ TEXTS.T
    for count in (1, 7, CAPTIONS, CAPTIONS + 1):
        found, values = neighbours(VECTORS, TEXTS, count)
        np.testing.assert_array_equal(found, nearest(cosines, count))
        np.testing.assert_array_equal(values, np.take_along_axis(cosines, found, axis=1))
