"""Measures of several captions of an image, counted by hand."""

import math

import numpy as np
import pytest

from captioning.metrics.bleu_rouge import bleu
from captioning.metrics.cider import cider_d
from captioning.metrics.variety import div, mbleu, measure_variety, self_cider

REFERENCES = [["a dog runs on grass", "a brown dog"], ["a cat sleeps", "the cat is in bed"], ["red bus", "a bus stops"]]


def test_div_is_different_ngrams_by_all_words():
    # 3 and 5 words. Different words: a, man, rides, horse, on. Bigrams: a man, man rides, a horse, horse on, on a.
    captions = [["a man rides", "a man rides a horse"]]
    assert div(captions, 1) == 4 / 8
    assert div(captions, 2) == 4 / 8
    assert div([*captions, ["a b", "c d"]], 1) == (4 / 8 + 1) / 2
    assert div([["", ""]], 1) == 0


def test_mbleu_is_the_mean_over_places_of_a_corpus_bleu():
    captions = [["a b c d e", "a b c d f", "x y z w v"], ["p q r s t", "p q r s t", "p q r s u"]]
    places = [
        bleu([group[k] for group in captions], [group[:k] + group[k + 1 :] for group in captions]) for k in range(3)
    ]
    np.testing.assert_allclose(mbleu(captions), np.mean(places, axis=0))
    assert mbleu([["a b c d e", "a b c d e"]])[3] == pytest.approx(100)
    assert mbleu([["a b c d e", "f g h i j"]])[3] == 0


def test_self_cider_is_zero_for_one_caption_and_one_for_captions_apart():
    captions = [
        ["a dog runs far", "a dog runs on grass now", "the brown dog sits there"],
        ["a cat sleeps on a bed"] * 3,
    ]
    found = self_cider(captions, REFERENCES[:2])
    assert 0 < found[0] < 1
    assert found[1] == pytest.approx(0, abs=1e-6), "the same caption three times has no variety"
    # Nothing in common: all eigenvalues are the same.
    apart = self_cider([["w x y z", "p q r s"]], [["w x y z p q r s"], ["c"]])
    assert apart[0] == pytest.approx(1)


def test_self_cider_of_two_captions_by_hand():
    """Two images have df 1 for each word but "a", so a weight of ln 2; "a" weighs nothing.

    "dog runs" and "dog sits" share one of two words and no bigram: cosines 1/2, 0, 0, 0 and with itself 1, 1, 0, 0.
    The CIDEr matrix is ((1/2, 1/8), (1/8, 1/2)), with eigenvalues 5/8 and 3/8.
    """
    share = math.sqrt(5 / 8) / (math.sqrt(5 / 8) + math.sqrt(3 / 8))
    found = self_cider([["dog runs", "dog sits"]], [["a dog runs", "dog sits"], ["a cat"]])
    assert found[0] == pytest.approx(-math.log2(share))
    # In parts and at once is the same.
    captions = [["dog runs", "dog sits"], ["a cat", "a"]]
    references = [["a dog runs", "dog sits"], ["a cat"]]
    both = self_cider(captions, references)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioning.metrics.variety._AT_ONCE", 1)
        np.testing.assert_allclose(self_cider(captions, references), both)
    assert both[0] == pytest.approx(-math.log2(share))


def test_the_oracle_takes_the_best_caption_of_each_image():
    captions = [["a dog", "a dog runs on grass"], ["a cat sleeps", "a man"], ["a bus", "a bus"]]
    found = measure_variety(captions, REFERENCES)
    first, second = (cider_d([group[k] for group in captions], REFERENCES)[1] for k in range(2))
    assert found.first_cider == pytest.approx(first.mean())
    assert found.mean_cider == pytest.approx((first.mean() + second.mean()) / 2)
    assert found.oracle_cider == pytest.approx(np.maximum(first, second).mean())
    assert found.captions == 2
    assert found.distinct == (1 + 1 + 0.5) / 3
    assert found.vocabulary == 9
    assert found.mean_length == (2 + 5 + 3 + 2 + 2 + 2) / 6
    assert found.chair_s == 1 / 6, "the man"
    assert found.object_recall == 3 / 4, "dog, cat and bus, and no bed"
    assert measure_variety(captions, REFERENCES, english=False).chair_s is None


def test_images_must_have_equally_many_captions():
    for captions in ([["a"], ["b"], ["c"]], [["a", "b"], ["c"], ["d", "e"]]):
        with pytest.raises(ValueError, match="the same number"):
            measure_variety(captions, REFERENCES)
