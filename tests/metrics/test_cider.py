"""CIDEr-D against an independent implementation, CIDEr against the formula, and the scorer as a reward."""

import math
from collections import Counter

import numpy as np
import pytest
from sentences import PREDICTIONS, REFERENCES

from captioning.metrics.cider import Cider, cider, cider_d
from captioning.metrics.references import words

# From pycocoevalcap 1.2, Cider().compute_score over the words of our tokeniser, times 100.
CIDER_D = [330.2629445519238, 306.6519489134167, 110.795865199773, 140.03814233554647, 20.90508643607912]
WORDS = [words(prediction) for prediction in PREDICTIONS]
GROUPS = [[words(reference) for reference in group] for group in REFERENCES]


def test_cider_d_equals_the_coco_evaluation():
    mean, scores = cider_d(PREDICTIONS, REFERENCES)
    assert scores.tolist() == pytest.approx(CIDER_D, abs=1e-9)
    assert mean == pytest.approx(sum(CIDER_D) / 5)


def by_the_formula(i: int) -> float:
    """CIDEr of ``PREDICTIONS[i]``, equations 1 to 3 of the paper, times 10 and 100."""

    def ngrams(words: list[str], n: int) -> Counter:
        return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))

    def cosine(a: dict, b: dict) -> float:
        norms = math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
        return sum(a[key] * b.get(key, 0) for key in a) / norms if norms else 0

    total = 0
    for n in range(1, 5):
        seen = Counter(key for group in GROUPS for key in {key for words in group for key in ngrams(words, n)})
        vectors = [
            {key: count * math.log(len(GROUPS) / max(1, seen[key])) for key, count in ngrams(words, n).items()}
            for words in (WORDS[i], *GROUPS[i])
        ]
        total += sum(cosine(vectors[0], vector) for vector in vectors[1:]) / len(GROUPS[i])
    return 1000 * total / 4


def test_plain_cider_follows_the_formula():
    scores = cider(PREDICTIONS, REFERENCES)[1]
    assert scores.tolist() == pytest.approx([by_the_formula(i) for i in range(5)])


def test_saying_it_twice_by_hand():
    """All n-grams are equally rare. CIDEr-D counts each once, and three words too many cost exp(-9 / 72)."""
    predictions, references = ["a dog runs a dog runs", "", ""], [["a dog runs"], ["two cats sleep"], ["birds sing"]]
    clipped = 3 / (3 * 12) ** 0.5 + 2 / (2 * 9) ** 0.5 + 1 / 6**0.5
    plain = 6 / (3 * 12) ** 0.5 + 4 / (2 * 9) ** 0.5 + 2 / 6**0.5
    assert cider_d(predictions, references)[1][0] == pytest.approx(1000 / 4 * clipped * math.exp(-9 / 72))
    assert cider(predictions, references)[1][0] == pytest.approx(1000 / 4 * plain)


def test_many_candidates_of_any_image_at_once_score_as_they_do_alone():
    scorer = Cider(GROUPS)
    images, candidates = [3, 0, 0, 4, 2, 0], [WORDS[0], WORDS[0], WORDS[1], [], WORDS[2], ["unheard", "of", "unheard"]]
    together = scorer.score(images, candidates)
    assert together.shape == (6,)
    assert together.dtype == np.float64
    alone = [scorer.score([image], [words])[0] for image, words in zip(images, candidates, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert together[1] == pytest.approx(CIDER_D[0])
    assert together[3] == together[5] == 0


def test_ids_score_as_their_words():
    number = {word: 7 * i for i, word in enumerate(sorted({w for g in [*GROUPS, WORDS] for s in g for w in s}))}
    groups = [[[number[word] for word in words] for words in group] for group in GROUPS]
    candidates = [np.array([number[word] for word in words]) for words in WORDS]
    np.testing.assert_allclose(Cider(groups).score(range(5), candidates), CIDER_D)


def test_document_frequencies_come_from_the_corpus():
    """Scored two by two, as a reward is, the captions score as among all five."""
    scores = [Cider(GROUPS[i : i + 2], corpus=GROUPS).score([0, 1], WORDS[i : i + 2]) for i in (0, 3)]
    np.testing.assert_allclose(np.concatenate(scores), [*CIDER_D[:2], *CIDER_D[3:]])
    assert not np.allclose(Cider(GROUPS[:2]).score([0, 1], WORDS[:2]), CIDER_D[:2])


def test_words_that_the_corpus_lacks_count_as_the_rarest():
    corpus = [[["a", "dog"]], [["a", "cat"]], [["a", "bird"]], [["a", "fish"]]]
    scorer = Cider([[["a", "zebra"]]], corpus=corpus)
    full, known, wrong = scorer.score([0, 0, 0], [["a", "zebra"], ["a", "dog"], ["a", "yak"]])
    assert full == pytest.approx(1000 / 2)  # all of n = 1 and 2; there is no n = 3 and 4
    assert known == wrong == 0


def test_a_split_of_one_image_has_no_rare_words():
    assert cider_d(["a dog"], [["a dog"]])[0] == 0


def test_nothing_to_score():
    assert Cider(GROUPS).score([], []).shape == (0,)


def test_what_cannot_be_a_scorer():
    with pytest.raises(ValueError, match="at least one"):
        Cider([GROUPS[0], []])
    with pytest.raises(ValueError, match="cider_x"):
        Cider(GROUPS, variant="cider_x")
