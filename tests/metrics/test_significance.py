"""Intervals and tests against plain loops over the public scores."""

from itertools import product

import numpy as np
import pytest

from captioning.metrics.bleu_rouge import bleu, rouge_l
from captioning.metrics.cider import Cider
from captioning.metrics.significance import (
    Seeds,
    compare,
    corpus_scores,
    holm,
    image_statistics,
    intervals,
    mean_intervals,
    share_interval,
)

RNG = np.random.default_rng(5)
VOCABULARY = ["a", "the", "dog", "cat", "man", "runs", "sits", "on", "in", "grass", "snow", "red", "ball"]
Words = list[str]


def worsened(captions: list[Words], share: float) -> list[Words]:
    """``captions`` with a share of their words drawn anew."""
    return [[str(RNG.choice(VOCABULARY)) if RNG.random() < share else word for word in words] for words in captions]


REFERENCES = [worsened([[""] * 7] * 3, 1) for _ in range(30)]
GOOD = worsened([group[0] for group in REFERENCES], 0.2)
BAD = worsened([group[1] for group in REFERENCES], 0.5)


def scores(predictions: list[Words], references: list[list[Words]]) -> list[float]:
    """BLEU-4, ROUGE-L, CIDEr-D by the public functions; CIDEr with the document frequencies of ``REFERENCES``."""
    cider = Cider(references, corpus=REFERENCES).score(range(len(references)), predictions)
    return [bleu(predictions, references)[3], rouge_l(predictions, references)[0], cider.mean()]


def test_summary_is_the_corpus_scores():
    found = corpus_scores(image_statistics(GOOD, REFERENCES))
    assert found.bleu == pytest.approx(bleu(GOOD, REFERENCES))
    assert [found.bleu[3], found.rouge_l, found.cider_d] == pytest.approx(scores(GOOD, REFERENCES))


def test_intervals_are_those_of_scoring_resampled_images():
    found = intervals(image_statistics(GOOD, REFERENCES), resamples=4000)
    draws = RNG.integers(0, 30, (120, 30))
    samples = [scores([GOOD[i] for i in draw], [REFERENCES[i] for i in draw]) for draw in draws]
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    for name, start, end, value in zip(
        ("bleu4", "rouge_l", "cider_d"), low, high, scores(GOOD, REFERENCES), strict=True
    ):
        interval = getattr(found, name)
        assert interval[0] < value < interval[1]
        assert interval == pytest.approx((start, end), abs=0.25 * (end - start))


def test_intervals_of_a_mean_are_those_of_the_textbook():
    low, high = intervals(image_statistics(GOOD, REFERENCES)).rouge_l
    mean, each = rouge_l(GOOD, REFERENCES)
    margin = 1.96 * each.std() / 30**0.5
    assert [low, high] == pytest.approx([mean - margin, mean + margin], abs=0.1 * margin)


def test_intervals_repeat_with_the_seed():
    statistics = image_statistics(GOOD, REFERENCES)
    assert intervals(statistics, 700) == intervals(statistics, 700)
    assert intervals(statistics, 700) != intervals(statistics, 700, seed=1)


def test_a_captioner_does_not_differ_from_itself():
    statistics = image_statistics(GOOD, REFERENCES)
    for row in compare(statistics, statistics, resamples=300):
        assert row.difference == 0
        assert row.interval == (0, 0)
        assert row.p == 1


def test_seeds_count_with_their_mean():
    one, other, better = (image_statistics(captions, REFERENCES) for captions in (BAD, worsened(BAD, 0.1), GOOD))
    found = compare(np.stack([one, other]), np.stack([better, better]), resamples=500)
    alone = [compare(each, better, resamples=500) for each in (one, other)]
    for row, first, second in zip(found, *alone, strict=True):
        assert row.a == pytest.approx((first.a + second.a) / 2)
        assert row.difference == pytest.approx((first.difference + second.difference) / 2)
        assert row.deviations == pytest.approx([abs(first.a - second.a) / 2**0.5, 0])
        assert row.interval[0] < row.difference < row.interval[1]
        assert first.deviations is None
    # The same seed twice says no more than once.
    twice = compare(np.stack([one, one]), np.stack([better, better]), resamples=500)
    assert [(row.interval, row.p) for row in twice] == [(pytest.approx(row.interval), row.p) for row in alone[0]]


def test_a_clear_difference_is_significant_and_changes_sign_with_the_order():
    good, bad = (image_statistics(captions, REFERENCES) for captions in (GOOD, BAD))
    forth, back = compare(bad, good, resamples=1000), compare(good, bad, resamples=1000)
    for row, other, before, after in zip(forth, back, scores(BAD, REFERENCES), scores(GOOD, REFERENCES), strict=True):
        assert [row.a, row.b, row.difference] == pytest.approx([before, after, after - before])
        assert 0 < row.interval[0] < row.difference < row.interval[1]
        assert row.p < 0.02
        assert other.interval == pytest.approx([-end for end in row.interval[::-1]])


def test_p_is_the_share_of_swaps_that_do_as_much():
    """Six images have 64 ways of swapping captions: count them all."""
    references = REFERENCES[:6]
    a, b = worsened(GOOD[:6], 0.1), worsened(GOOD[:6], 0.25)
    found = compare(*(image_statistics(captions, references) for captions in (a, b)), resamples=20_000)

    def differences(pairs) -> np.ndarray:
        first, second = ([bleu(c, references)[3], rouge_l(c, references)[0]] for c in zip(*pairs, strict=True))
        return np.abs(np.subtract(second, first))

    pairs = list(zip(a, b, strict=True))
    swapped = [
        [pair[::-1] if swap else pair for pair, swap in zip(pairs, swaps, strict=True)]
        for swaps in product((0, 1), repeat=6)
    ]
    expected = np.mean([differences(some) >= differences(pairs) - 1e-9 for some in swapped], axis=0)
    assert [row.p for row in found[:2]] == pytest.approx(expected, abs=0.02)
    assert 0.05 < expected[0] < 1


def test_the_interval_of_a_mean_over_data_sets_is_that_of_the_textbook():
    """Images are drawn apart in each: variances add, and the size of a data set gives it no more weight."""
    corpora = [image_statistics(GOOD, REFERENCES), image_statistics(BAD[:20], REFERENCES[:20])]
    low, high = mean_intervals(corpora).rouge_l
    each = [corpus[:, 10] for corpus in corpora]
    mean = (each[0].mean() + each[1].mean()) / 2
    margin = 1.96 * (each[0].var() / 30 + each[1].var() / 20) ** 0.5 / 2
    assert [low, high] == pytest.approx([mean - margin, mean + margin], abs=0.1 * margin)


def seeds_of(*groups) -> Seeds:
    return Seeds(tuple(np.array(group, dtype=float) for group in groups))


def test_one_seed_varies_with_the_images_alone():
    statistics = image_statistics(GOOD, REFERENCES)
    found = seeds_of([statistics[:, -1]])
    assert found.mean == pytest.approx(corpus_scores(statistics).cider_d)
    assert found.interval() == pytest.approx(intervals(statistics).cider_d, rel=0.03)


def test_intervals_over_seeds_have_the_variance_of_the_textbook():
    """Images that do not differ leave the variance between seeds: that of a mean of S seeds."""
    levels = np.array([50.0, 52.0, 49.0, 55.0, 51.0])
    low, high = seeds_of(np.tile(levels[:, None], 40)).interval()
    drawn = seeds_of(np.tile(levels[:, None], 40))._drawn(6000, 0)
    assert drawn.std() == pytest.approx(levels.std(ddof=1) / 5**0.5, rel=0.04)
    assert low < levels.mean() < high


def test_p_of_seeds_is_that_of_compare():
    sides = [[BAD, worsened(BAD, 0.1)], [worsened(BAD, 0.1), worsened(BAD, 0.2)]]
    a, b = (np.stack([image_statistics(captions, REFERENCES) for captions in side]) for side in sides)
    p = seeds_of(a[..., -1]).p(seeds_of(b[..., -1]), resamples=1000)
    assert p == compare(a, b, resamples=1000)[2].p
    assert 0.002 < p < 1


def test_several_data_sets_count_the_same():
    one, two = RNG.normal(50, 9, (2, 20)), RNG.normal(20, 9, (2, 30))
    found = seeds_of(one, two)
    assert found.mean == pytest.approx((one.mean() + two.mean()) / 2)
    assert found.difference(seeds_of(one + 3, two + 1)) != (2, 2)  # the seeds are drawn apart
    same = seeds_of(one[:1], two[:1])
    assert same.difference(seeds_of(one[:1] + 3, two[:1] + 1)) == pytest.approx((2, 2))


def test_holm_adjusts_for_the_number_of_tests():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_the_interval_of_a_share_is_that_of_drawn_images():
    low, high = share_interval(0.2, 400)
    assert (low, high) == pytest.approx((0.2 - 1.96 * 0.02, 0.2 + 1.96 * 0.02), abs=0.004)
    drawn = np.random.default_rng(1).integers(0, 400, (2000, 400)) < 80
    assert (low, high) == pytest.approx(np.percentile(drawn.mean(axis=1), [2.5, 97.5]), abs=0.004)
    assert share_interval(0.0, 9) == (0, 0)
