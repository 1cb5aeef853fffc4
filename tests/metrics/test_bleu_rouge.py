"""BLEU and ROUGE-L against an independent implementation, and counted by hand."""

import math
import warnings

import numpy as np
import pytest
from sentences import PREDICTIONS, REFERENCES

from captioning.metrics.bleu_rouge import bleu, rouge_l, sentence_bleu

# From pycocoevalcap 1.2 over the words of our tokeniser: BLEU-1 to BLEU-4 of the corpus and of each caption, ROUGE-L.
CORPUS = [88.57142856889797, 76.84244858407605, 63.809453087670576, 47.744270898540556]
SINGLE = [
    [75.14772928605784, 75.14772928516321, 69.76097222322197, 59.76278943170199],
    [99.99999997500004, 92.58200995328305, 82.98265331423224, 58.143073680330794],
    [99.9999999714286, 91.28709289035893, 79.37005257359111, 59.46035573135037],
    [87.49999998906252, 61.23724356137805, 0.0003968502629345699, 1.0573712632728324e-06],
    [32.7492301100196, 8.187307527300218e-07, 2.6349195019415626e-09, 1.6542581798880382e-10],
]
ROUGE_L = [73.34669338677354, 67.47787610619469, 57.00934579439253, 57.91139240506329, 35.77712609970674]


def test_bleu_equals_the_coco_evaluation():
    assert bleu(PREDICTIONS, REFERENCES) == pytest.approx(CORPUS, abs=1e-9)


def test_bleu_of_single_captions_equals_the_coco_evaluation():
    np.testing.assert_allclose(sentence_bleu(PREDICTIONS, REFERENCES), SINGLE, rtol=1e-9)


def test_captions_of_two_words_have_no_n_grams_of_three():
    """As in the COCO evaluation; NLTK counts one all the same, and gives 57.17 for BLEU-3 and 48.11 for BLEU-4."""
    scores = bleu(["a dog", PREDICTIONS[0]], [["the dog runs"], REFERENCES[0]])
    expected = [63.69167203684981, 62.54398033768577, 60.75267394411809, 53.23844259312849]
    assert scores == pytest.approx(expected, abs=1e-9)


def test_rouge_l_equals_the_coco_evaluation():
    mean, scores = rouge_l(PREDICTIONS, REFERENCES)
    assert scores.tolist() == pytest.approx(ROUGE_L, abs=1e-9)
    assert mean == pytest.approx(sum(ROUGE_L) / 5)


def test_rouge_l_by_hand():
    # The longest common subsequence is "a dog runs fast", 4 of 5 and of 6 words; recall weighs 1.2 times.
    mean, _ = rouge_l(["a dog now runs fast"], [["a big dog runs very fast", "cats"]])
    assert mean == pytest.approx(100 * (1 + 1.44) * 4 / 5 * 4 / 6 / (4 / 6 + 1.44 * 4 / 5))


@pytest.mark.parametrize(("prediction", "reference"), [("", "a cat"), ("a cat", ""), ("x", "a cat"), ("", "")])
def test_rouge_l_of_nothing_in_common_is_zero(prediction, reference):
    assert rouge_l([prediction], [[reference]])[0] == 0


def test_an_empty_reference_among_others_changes_nothing():
    assert rouge_l(["a cat"], [["a big cat", "."]]) == rouge_l(["a cat"], [["a big cat"]])


def test_words_that_another_tokeniser_split_are_taken_as_they_are():
    found, wanted = [["A", "dog", "."]], [[["A", "dog", "."]]]
    assert bleu(found, wanted)[2] == pytest.approx(100)
    assert bleu(["A dog ."], wanted)[0] == pytest.approx(0 + 100 * math.exp(1 - 3 / 2) / 2)


def test_coco_protocol_ignores_capitals_and_punctuation():
    predictions, references = ["a dog runs over the lawn"], [["A dog runs over the lawn ."]]
    assert bleu(predictions, references) == pytest.approx([100.0] * 4)
    assert bleu(["A dog runs over the lawn!"], references) == pytest.approx([100.0] * 4)


def test_corpus_bleu_counts_over_all_captions():
    """One long and one short caption: matches and lengths are summed before they are divided."""
    predictions, references = ["a b c d", "x y"], [["a b c d"], ["p q r s"]]
    brevity = math.exp(1 - 8 / 6)
    assert bleu(predictions, references)[:2] == pytest.approx(
        [100 * brevity * 4 / 6, 100 * brevity * math.sqrt(4 / 6 * 3 / 4)]
    )


@pytest.mark.parametrize(
    ("prediction", "zero_from"), [("cat", 1), ("x y z", 0), ("", 0), ("sat cat the", 1), (".", 0), ("the cat", 2)]
)
def test_what_has_no_match_scores_zero_in_silence(prediction, zero_from):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = bleu([prediction], [["the cat sat on the mat"]])
    assert all(score > 0 for score in scores[:zero_from])
    assert scores[zero_from:] == [0.0] * (4 - zero_from)
