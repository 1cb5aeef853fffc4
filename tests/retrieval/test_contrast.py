"""The two losses of alignment: what each asks of the cosines of a batch."""

import numpy as np
import pytest
from keras import ops

from captioning.retrieval.contrast import contrast

# Pairs 0 and 1 are of one image.
COSINES = np.asarray(
    [[0.9, 0.8, 0.3, 0.1], [0.7, 0.6, 0.2, 0.5], [0.0, 0.4, 0.5, 0.3], [0.1, 0.2, 0.6, 0.2]], "float32"
)
IMAGES = np.asarray([7, 7, 2, 5], "int32")


def loss(kind: str, **options) -> float:
    return float(
        ops.convert_to_numpy(contrast(COSINES, IMAGES, kind, **{"margin": 0.2, "temperature": 0.1, **options}))
    )


@pytest.mark.backends
def test_triplet_asks_for_a_margin_over_the_hardest_other_one():
    # Own cosines: .9, .6, .5, .2. Hardest other caption of each image: .3, .5, .4, .6; other image of each caption:
    # .1, .4, .6, .5. Captions 0 and 1 never stand against one another.
    captions = [0, 0.2 + 0.5 - 0.6, 0.2 + 0.4 - 0.5, 0.2 + 0.6 - 0.2]
    images = [0, 0.2 + 0.4 - 0.6, 0.2 + 0.6 - 0.5, 0.2 + 0.5 - 0.2]
    assert loss("triplet") == pytest.approx((np.mean(captions) + np.mean(images)) / 2, abs=1e-6)
    assert loss("triplet", margin=0.0) == pytest.approx(((0.4) / 4 + (0.1 + 0.3) / 4) / 2, abs=1e-6)


@pytest.mark.backends
def test_infonce_is_the_cross_entropy_of_the_right_one():
    expected = []
    for matrix in (COSINES.astype("float64"), COSINES.T.astype("float64")):
        for i in range(4):
            rivals = [j for j in range(4) if IMAGES[j] != IMAGES[i]]
            scores = np.exp(matrix[i, [i, *rivals]] / 0.1)
            expected.append(-np.log(scores[0] / scores.sum()))
    assert loss("infonce") == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("kind", ["infonce", "triplet"])
def test_rows_that_fill_up_a_batch_stand_against_no_pair(kind):
    cosines = np.pad(COSINES, ((0, 2), (0, 2)), constant_values=0.99)
    images, is_pair = np.asarray([*IMAGES, 0, 0], "int32"), np.arange(6) < 4
    filled = contrast(cosines, images, kind, 0.2, 0.1, is_pair)
    assert float(ops.convert_to_numpy(filled)) == pytest.approx(loss(kind), rel=1e-6)


@pytest.mark.backends
@pytest.mark.parametrize("kind", ["infonce", "triplet"])
def test_a_lone_image_has_nothing_to_be_told_from(kind):
    value = contrast(COSINES[:2, :2], IMAGES[:2], kind, 0.2, 0.1)
    assert float(ops.convert_to_numpy(value)) == 0
