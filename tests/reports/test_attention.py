"""The statistics of the attention: its entropy, and what a sentinel leaves for the image."""

from types import SimpleNamespace

import numpy as np
import pytest
from three_images import record

from captioning.features.batches import FeatureBatches
from captioning.reports.attention import attention_statistics
from captioning.reports.rows import AttentionStatistics


def looks(make_store, weights) -> AttentionStatistics:
    """The statistics of a decoder that looks by ``weights (5, columns)``, by image, for each word of its caption."""
    records = [record(i, "any") for i in range(5)]
    store = make_store([r.file_name for r in records], shape=(4, 1))
    features = store.read(np.arange(5))
    captions = [f"caption of {i}" for i in range(5)]

    def attend(batch, texts):
        found = []
        for one, text in zip(batch, texts, strict=True):
            np.testing.assert_array_equal(one, features[int(text[-1])])  # each caption meets its own image
            end = np.eye(len(weights[0]))[0]
            found.append(np.array([weights[int(text[-1])]] * 3 + [end]))
        return found

    captioner = SimpleNamespace(decoder=SimpleNamespace(sizes={"regions": 4}), attend=attend)
    batches = FeatureBatches(store, [r.file_name for r in records], 2)
    return attention_statistics(captioner, (batches[n][0] for n in range(len(batches))), captions)


def test_entropy_of_the_attention(make_store):
    one, two, all_four = [1, 0, 0, 0], [0.5, 0, 0.5, 0], [0.25] * 4
    assert looks(make_store, [one] * 5) == AttentionStatistics(0, 2)
    found = looks(make_store, [one, two, all_four, all_four, two])
    assert found == AttentionStatistics(pytest.approx((0 + 1 + 2 + 2 + 1) / 5), 2)


def test_entropy_beside_a_sentinel_is_that_of_the_share_for_the_image(make_store):
    found = looks(make_store, [[0.3, 0.3, 0, 0, 0.4], *[[0.2, 0, 0.2, 0, 0.6]] * 4])
    assert found == AttentionStatistics(pytest.approx(1), 2, pytest.approx((0.6 + 4 * 0.4) / 5))


def test_entropy_where_images_have_different_numbers_of_regions():
    """The most it can be depends on the regions that an image has."""
    features = np.array([[[1.0], [1], [1], [1]], [[1], [1], [0], [0]]])
    weights = [np.array([[0.25] * 4] * 2), np.array([[0.5, 0.5, 0, 0]] * 3)]
    sizes = SimpleNamespace(sizes={"regions": 9, "padded": True})
    captioner = SimpleNamespace(decoder=sizes, attend=lambda batch, texts: weights)
    found = attention_statistics(captioner, [features], ["one", "two words"])
    assert found == AttentionStatistics(pytest.approx((2 + 1 + 1) / 3), pytest.approx((2 + 1 + 1) / 3))
