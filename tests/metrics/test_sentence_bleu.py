"""BLEU-4 of single captions equals NLTK's with the smoothing of Lin and Och."""

import random
import warnings

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sentences import PREDICTIONS, REFERENCES

from captioning.metrics.sentence_bleu import SentenceBleu


def nltk_bleu(references, candidate) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK warns of captions without a matching 4-gram, also where it smooths
        return 100 * sentence_bleu(references, candidate, smoothing_function=SmoothingFunction().method2)


def test_known_sentences_score_as_by_nltk():
    candidates = [caption.split() for caption in PREDICTIONS]
    references = [[caption.split() for caption in group] for group in REFERENCES]
    found = SentenceBleu(references).score(range(len(candidates)), candidates)
    assert found.tolist() == pytest.approx([*map(nltk_bleu, references, candidates)])
    assert found.min() > 1, "also a caption without a matching 4-gram"


def test_many_random_sentences_of_any_length_score_as_by_nltk():
    draw = random.Random(0)

    def sentence(words: str) -> list[str]:
        return [draw.choice(words.split()) for _ in range(draw.randint(1, 12))]

    references = [[sentence("a dog runs in the park") for _ in range(draw.randint(1, 5))] for _ in range(20)]
    candidates = [sentence("a dog runs in the park zebra") for _ in range(150)]
    images = [draw.randrange(20) for _ in candidates]
    expected = [nltk_bleu(references[image], caption) for image, caption in zip(images, candidates, strict=True)]
    np.testing.assert_allclose(SentenceBleu(references).score(images, candidates), expected)


def test_only_words_of_the_right_image_count():
    scorer = SentenceBleu([[["a", "dog", "runs"]], [["two", "cats", "sleep"]]])
    found = scorer.score([0, 1, 0, 0], [["two", "cats", "sleep"], ["two", "cats", "sleep"], [], ["zebra"]])
    assert found.tolist() == pytest.approx([0, nltk_bleu([["two", "cats", "sleep"]], ["two", "cats", "sleep"]), 0, 0])


def test_an_image_without_references_is_refused():
    with pytest.raises(ValueError, match="references: each image needs at least one"):
        SentenceBleu([[["a"]], []])
