"""Rows of results: the files of all releases are read, and written again as they were."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import ROOT
from three_images import row

from captioning.base.errors import UserError
from captioning.metrics.calibration import confidence_scores
from captioning.reports.rows import AttentionStatistics, CocoScores, SeedScores, read_rows, rows_text

FILES = sorted((ROOT / "results").rglob("scores-*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_of_results_are_written_as_they_were(path):
    rows = read_rows(path)
    assert rows
    assert rows_text(rows) == path.read_text(encoding="utf-8")


def test_there_are_results_of_both_protocols():
    kinds = {type(found.scores) for path in FILES for found in read_rows(path)}
    assert kinds == {CocoScores, SeedScores}


def test_a_row_is_one_flat_object(tmp_path):
    settings = {"captions_file": None, "beam_size": 3}
    made = row(settings=settings, attention=AttentionStatistics(1.5, 2.0), diagnostics={"novel": 0.5}, meteor=20.5)
    found = made.to_json()
    assert list(found) == [
        *("captioner", "split", "protocol", "decoding", "bleu", "rouge_l", "cider_d", "meteor", "tokenizer"),
        *("intervals", "shuffled_bleu", "shuffled_cider_d", "cider_d_by_reference_length"),
        *("captions", "distinct", "mean_length", "vocabulary", "dangling", "repeats"),
        *(
            "repeated_bigrams",
            "repeated_trigrams",
            "most_common",
            "novel",
            "chair_s",
            "chair_i",
            "object_recall",
            "attention",
            "settings",
        ),
    ]
    assert found["settings"] == settings  # None stays there
    assert found["attention"] == {"entropy": 1.5, "maximum_entropy": 2.0}
    (tmp_path / "scores.json").write_text(rows_text([made, row("seed")]))
    assert read_rows(tmp_path / "scores.json") == [made, row("seed")]


def test_a_row_keeps_what_the_confidence_is_worth(tmp_path):
    worth = confidence_scores(np.array([0.9, 0.2, 0.6]), np.array([True, False, False]), 33.0, 0.5)
    made = replace(row(), confidence=worth)
    assert made.to_json()["confidence"] == {
        "right_cider": 33.0,
        "right": pytest.approx(1 / 3),
        "auroc": 1.0,
        "ece": pytest.approx((0.1 + 0.2 + 0.6) / 3),
        "error": pytest.approx(2 / 3),
        "error_at_80": 0.5,
        "unsure": pytest.approx(1 / 3),
        "mean": pytest.approx(1.7 / 3),
        "wrong_unsure": 0.5,
        "right_unsure": 0.0,
    }
    (tmp_path / "scores.json").write_text(rows_text([made]))
    assert read_rows(tmp_path / "scores.json") == [made]


def test_the_scores_of_the_coco_protocol_are_not_those_of_seed():
    assert row().coco == row().scores
    with pytest.raises(ValueError, match="of the protocol seed, not of coco"):
        _ = row("seed").coco


@pytest.mark.parametrize("change", [{"cider_d": "high"}, {"captioner": None}, {"unknown": 1}])
def test_a_damaged_file_is_named(tmp_path, change):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps([row().to_json() | change]))
    with pytest.raises(UserError, match=rf"scores\.json: expected a JSON list of scores.*(?s:.*){next(iter(change))}"):
        read_rows(path)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '[{"captioner": "x"}]'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"scores\.json: expected"):
        read_rows(path)
    with pytest.raises(UserError, match=r"absent\.json: expected"):
        read_rows(tmp_path / "absent.json")
