"""The seed protocol, counted by hand."""

import math

import pytest

from captioning.metrics.bleu_rouge import bleu
from captioning.metrics.protocols import seed_bleu


def test_seed_protocol_by_hand():
    # startseq the dog runs through the grass endseq, against startseq The dog runs through the grass . endseq:
    # 7 of 8 words, 4 of 7 pairs, 3 of 6 triples and 2 of 5 fours match; the prediction is a word short.
    scores = seed_bleu(["The dog runs, through the grass."], [["The dog runs through the grass ."]])
    brevity = math.exp(1 - 9 / 8)
    expected = [7 / 8, (7 / 8 * 4 / 7) ** 0.5, (7 / 8 * 4 / 7 * 3 / 6) ** 0.3, (7 / 8 * 4 / 7 * 3 / 6 * 2 / 5) ** 0.25]
    assert scores == pytest.approx([100 * brevity * score for score in expected])


def test_seed_protocol_gives_free_matches():
    """Captions without one word in common score, through the start and end tokens. So its figures stand alone."""
    assert seed_bleu(["x y"], [["p q"]])[0] == pytest.approx(50.0)
    assert bleu(["x y"], [["p q"]])[0] == 0
