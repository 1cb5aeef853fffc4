"""Ranks in a gallery, by hand: the best of an image's captions counts, and equals share their places fairly."""

import itertools

import numpy as np
import pytest

from captioning.metrics.recall import expected_ranks, retrieval, summary


def ranks(scores, queries, gallery) -> list[float]:
    return expected_ranks(np.asarray(scores, float), np.asarray(queries), np.asarray(gallery)).tolist()


def test_the_best_of_an_images_captions_counts():
    # Captions 0, 1 and 2 are of image 0, the others of image 1.
    gallery = [0, 0, 0, 1, 1]
    assert ranks([[0.1, 0.9, 0.2, 0.8, 0.7], [0.9, 0.8, 0.7, 0.6, 0.1]], [0, 1], gallery) == [1, 4]


def test_a_caption_has_one_right_image():
    assert ranks([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1]], [0, 1, 2], [0, 1, 2]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("scores", "gallery", "rank"),
    [
        ([5, 5], [0, 1], 1.5),  # first or second
        ([5, 5, 5], [0, 1, 1], 2.0),
        ([5, 5, 5], [0, 0, 1], 1 + 1 / 3),  # a wrong one before both right ones in a third of all orders
        ([9, 5, 5, 1], [1, 0, 1, 0], 2.5),
        ([9, 5, 5, 9], [0, 0, 1, 0], 1.0),  # a tie below the best right one is none
        ([0, 0, 0, 0, 0], [0, 1, 1, 1, 1], 3.0),
    ],
)
def test_equals_stand_in_random_order(scores, gallery, rank):
    assert ranks([scores], [0], gallery) == [rank]
    # The same by trying every order.
    orders = list(itertools.permutations(range(len(scores))))
    tried = []
    for order in orders:
        placed = sorted(order, key=lambda i: -scores[i])  # stable: equals as in this order
        tried.append(1 + min(placed.index(i) for i, image in enumerate(gallery) if image == 0))
    assert np.mean(tried) == pytest.approx(rank)


def test_what_is_no_number_ranks_last():
    nan = float("nan")
    assert ranks([[nan, 0.1, -5.0]], [0], [0, 1, 2]) == [3]
    assert ranks([[nan, nan, nan]], [0], [0, 1, 2]) == [2]
    assert ranks([[0.1, nan, nan]], [0], [0, 1, 2]) == [1]


def test_each_query_may_have_a_gallery_of_its_own():
    assert ranks([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1]], [4, 4], [[4, 0, 1], [0, 1, 4]]) == [1, 3]


def test_a_query_without_a_right_item_is_an_error():
    with pytest.raises(ValueError, match="zero-size"):
        ranks([[0.1, 0.2]], [7], [0, 1])


def test_summary():
    found = summary(np.asarray([1.0, 2.0, 5.5, 10.0, 40.0]), 50)
    assert found == {
        "r1": pytest.approx(20.0),
        "r5": pytest.approx(40.0),
        "r10": pytest.approx(80.0),
        "median_rank": 5.5,
        "mrr": pytest.approx(100 * (1 + 0.5 + 1 / 5.5 + 0.1 + 0.025) / 5),
        "queries": 5,
        "gallery": 50,
    }


def both(similarities, image_of):
    numbers = np.arange(len(similarities))
    return retrieval(expected_ranks(similarities, numbers, image_of), expected_ranks(similarities.T, image_of, numbers))


def test_both_directions_of_one_matrix():
    # 12 images with 2 captions each; every caption is nearest its image but for those of image 0, which are nobody's.
    image_of = np.repeat(np.arange(12), 2)
    similarities = (np.arange(12)[:, None] == image_of).astype(float)
    similarities[:, :2] = -np.arange(12)[::-1, None]
    found = both(similarities, image_of)
    assert found["image_to_text"]["gallery"] == 24
    assert found["text_to_image"]["gallery"] == 12
    # Image 0 sees its captions below the 22 others.
    assert found["image_to_text"]["r1"] == pytest.approx(100 * 11 / 12)
    assert found["image_to_text"]["r10"] == pytest.approx(100 * 11 / 12)
    assert found["image_to_text"]["mrr"] == pytest.approx(100 * (11 + 1 / 23) / 12)
    assert found["text_to_image"]["r10"] == pytest.approx(100 * 22 / 24)
    assert found["text_to_image"]["median_rank"] == 1
    assert found["recall"] == pytest.approx(3 * 100 * 11 / 12 + 3 * 100 * 22 / 24)


def test_a_model_that_cannot_tell_earns_nothing():
    found = both(np.zeros((100, 500)), np.repeat(np.arange(100), 5))
    assert found["recall"] == 0
    assert found["text_to_image"]["median_rank"] == 50.5
