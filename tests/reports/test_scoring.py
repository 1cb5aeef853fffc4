"""Captions are scored by both protocols, and set against a shuffled control."""

from dataclasses import replace

import numpy as np
import pytest
from three_images import RECORDS, RIGHT

from captioning.data import scenes
from captioning.metrics import java
from captioning.metrics.bleu_rouge import bleu, rouge_l
from captioning.metrics.cider import cider_d
from captioning.metrics.diagnostics import diagnose, is_english
from captioning.metrics.protocols import seed_bleu
from captioning.reports.rows import ScoreRow, Scores, SeedScores
from captioning.reports.scoring import score, together
from captioning.reports.tables import score_cells
from captioning.words.splitting import UNICODE
from config import Config


def scores(captions: list[str], protocol: str = "coco", **options) -> Scores:
    return score(captions, RECORDS, protocol, Config(), **options)[0]


def test_score_and_its_shuffled_control():
    found, each = score(RIGHT, RECORDS, "coco", Config())
    assert found.bleu == pytest.approx([100.0] * 4)
    assert found.rouge_l == pytest.approx(100)
    assert found.cider_d == pytest.approx(1000)  # ten times the cosine, times 100
    np.testing.assert_allclose(each, [1000] * 3)
    # Each image gets the caption of its neighbour: right words elsewhere count for nothing.
    assert found.shuffled_bleu == pytest.approx([0.0] * 4, abs=1e-9)
    assert found.shuffled_cider_d == 0
    assert found.diagnostics == diagnose(RIGHT, references=[record.captions for record in RECORDS])


def test_scores_are_those_of_the_metrics():
    captions = ["one brown cat runs far", "two cats sleep", "A bird!"]
    references = [record.captions for record in RECORDS]
    found, each = score(captions, RECORDS, "coco", Config())
    assert found.bleu == pytest.approx(bleu(captions, references))
    assert found.rouge_l == pytest.approx(rouge_l(captions, references)[0])
    np.testing.assert_allclose(each, cider_d(captions, references)[1])
    assert found.cider_d == pytest.approx(each.mean())
    assert found.intervals.cider_d[0] <= found.cider_d <= found.intervals.cider_d[1]
    assert sum(group.images for group in found.cider_d_by_reference_length) == 3


def test_novel_captions_are_told_where_there_are_training_captions():
    assert scores(RIGHT, training=["One brown dog runs far ."]).diagnostics.novel == 2 / 3
    assert scores(RIGHT).diagnostics.novel is None


def test_java_tools_score_the_same_words(monkeypatch):
    """The tokeniser splits captions and references for all metrics, METEOR too."""
    seen = []

    def meteor(found, wanted):
        seen.append((found, wanted))
        return 12.5, np.zeros(3)

    monkeypatch.setattr(java, "tokenize", lambda texts: [text.upper().split() for text in texts])
    monkeypatch.setattr(java, "meteor", meteor)
    found = scores(["one brown dog", "two", "three"], tools=["meteor", "tokenizer"])
    assert found.meteor == 12.5
    assert found.tokenizer == "stanford"
    ((captions, references),) = seen
    assert captions == [["ONE", "BROWN", "DOG"], ["TWO"], ["THREE"]]
    assert references == [[record.captions[0].upper().split()] for record in RECORDS]
    assert found.bleu[0] > 0


def test_a_captioner_that_does_not_look_loses_nothing_to_shuffling():
    found = scores(["one brown dog runs far"] * 3)
    assert found.bleu == found.shuffled_bleu
    assert found.cider_d == found.shuffled_cider_d
    assert found.diagnostics.most_common == 1.0


def test_seed_protocol_is_bleu_of_its_own_kind_alone():
    references = [record.captions for record in RECORDS]
    found = scores(RIGHT[::-1], "seed")
    assert list(found.bleu) == seed_bleu(RIGHT[::-1], references)
    assert list(found.bleu) != bleu(RIGHT[::-1], references)
    assert isinstance(found, SeedScores)


def test_captions_of_demo_scenes_are_held_against_the_scenes(tmp_path):
    """Right captions tell all parts right; those of the neighbour do not."""
    from captioning.data.datasets import load

    config = Config(dataset="demo", data_dir=str(tmp_path / "demo"), demo_images=20)
    scenes.ensure(tmp_path / "demo", 20, 0)
    records = load(config).records[:6]
    found, _ = score([record.captions[0] for record in records], records, "coco", config)
    assert set(found.demo.values()) == {1.0}
    assert found.shuffled_demo["all_right"] < 1


@pytest.mark.parametrize("protocol", ["coco", "seed"])
def test_scores_together_are_means_over_data_sets_whatever_their_sizes(protocol):
    wrong = ["a dog runs", "a dog runs"]
    parts = [
        (captions, records, score(captions, records, protocol, Config())[0])
        for captions, records in ((RIGHT, RECORDS), (wrong, RECORDS[:2]))
    ]
    found = together(parts, training=[RIGHT[0].split()])
    one, other = (scores for _, _, scores in parts)
    assert found.bleu == pytest.approx([(a + b) / 2 for a, b in zip(one.bleu, other.bleu, strict=True)])
    assert found.shuffled_bleu == pytest.approx(
        [(a + b) / 2 for a, b in zip(one.shuffled_bleu, other.shuffled_bleu, strict=True)]
    )
    references = [record.captions for record in (*RECORDS, *RECORDS[:2])]
    assert found.diagnostics == diagnose([*RIGHT, *wrong], [RIGHT[0].split()], references)
    if protocol == "coco":
        assert found.cider_d == pytest.approx((one.cider_d + other.cider_d) / 2)
        assert found.rouge_l == pytest.approx((one.rouge_l + other.rouge_l) / 2)
        assert found.meteor is None
        low, high = found.intervals.cider_d
        assert low <= found.cider_d <= high
        assert sum(group.images for group in found.cider_d_by_reference_length) == 5


CHINESE = [
    replace(RECORDS[0], captions=("一只红色的狗在跑。",)),
    replace(RECORDS[1], captions=("两只黑猫，在床上睡觉",)),
]


def test_scores_say_which_splitting_they_are_of():
    captions = ["一只红色的狗在跑", "两只猫在床上睡觉"]
    by_unicode, _ = score(captions, CHINESE, "coco", Config(), splitting=UNICODE)
    assert by_unicode.bleu[0] > 90
    assert 0 < by_unicode.bleu[3] < 100
    assert by_unicode.diagnostics.mean_length == 8
    assert (by_unicode.tokenizer, score(captions, CHINESE, "coco", Config())[0].tokenizer) == ("unicode", "text.py")
    row = ScoreRow(captioner="a", split="test", protocol="coco", decoding="greedy", scores=by_unicode)
    assert (row.measure, score_cells(row)["protocol"]) == ("coco-unicode", "coco-unicode")
    # Function words and objects are known in English only.
    assert (by_unicode.diagnostics.dangling, by_unicode.diagnostics.chair_s, score_cells(row)["dangling"]) == (
        None,
        None,
        "-",
    )
    both = together([(captions, CHINESE, by_unicode)] * 2, splitting=UNICODE)
    assert (both.bleu, both.tokenizer) == (by_unicode.bleu, "unicode")
    english, _ = score(RIGHT, RECORDS, "coco", Config(), splitting=UNICODE)
    assert english.bleu == pytest.approx([100] * 4)


def test_english_is_known_by_its_function_words():
    assert is_english([["a", "dog", "is", "on", "the", "grass"]])
    assert not is_english([["un", "perro", "a", "la", "orilla", "del", "mar"]])
