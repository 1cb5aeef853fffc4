"""The table of scores, and what stands below it."""

from dataclasses import replace

import numpy as np
from three_images import row

from captioning.metrics.calibration import confidence_scores
from captioning.metrics.diagnostics import LengthGroup
from captioning.metrics.significance import Intervals
from captioning.reports.rows import AttentionStatistics
from captioning.reports.tables import score_table


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_is_markdown_with_a_row_for_each_search():
    intervals = Intervals((30.0, 31.0), (99.0, 100.0), (50.449, 57.0))
    other = {"bleu": (60.04, 50.0, 40.0, 30.567), "cider_d": 53.705, "meteor": 20.126, "intervals": intervals}
    greedy = row(decoding="greedy", diagnostics={"novel": 1}, meteor=9)
    text = score_table([greedy, row(diagnostics={"novel": 0.875}, **other)])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert dict(zip(cells(lines[0]), cells(lines[3]), strict=True)) == {
        "captioner": "run-1",
        "split": "test",
        "images": "3",
        "protocol": "coco",
        "decoding": "beam 3",
        "B1": "60.04",
        "B2": "50.00",
        "B3": "40.00",
        "B4": "30.57",
        "METEOR": "20.13",
        "ROUGE-L": "100.00",
        "CIDEr": "53.70 (50.4-57.0)",
        "shuffled CIDEr": "0.00",
        "distinct": "100%",
        "novel": "88%",
        "vocabulary": "15",
        "words": "5.0",
        "dangling": "0.0%",
    }


def test_what_gives_a_bad_captioner_away_is_below_the_table():
    groups = (LengthGroup(2, 8.3, 8, 80.52), LengthGroup(1, 12.25, 9, 40.0))
    bad = row(
        attention=AttentionStatistics(2.5, 5.614),
        diagnostics={"repeated_bigrams": 0.25, "repeats": 0.5, "most_common": 0.75, "chair_s": 0.125, "chair_i": 0.1},
        cider_d_by_reference_length=groups,
    )
    text = score_table([bad, row(decoding="greedy", settings={"no_repeat_ngram": 3}), row("seed")])
    first, second, third = text.split("\n\n")[2::2]
    assert first.splitlines() == [
        "* commonest caption 75.0%",
        "* a word twice in a row 50.0%",
        "* repeated bigrams 25.0%",
        "* repeated trigrams 0.0%",
        "* an object that no reference names 12.5% (CHAIRs)",
        "* of all objects named 10.0% (CHAIRi)",
        "* objects recalled 100.0%",
        "* CIDEr by length of the references 80.5 of 8.3 words, 40.0 of 12.2 words",
        "* attention's entropy 2.50 of 5.61 bits",
    ]
    assert "* repeated bigrams 0.0%\n* repeated trigrams 0.0% (blocked in decoding)\n* an object" in second
    assert third.endswith("* of all objects named 0.0% (CHAIRi)\n* objects recalled 100.0%\n")


def test_what_the_confidence_is_worth_is_below_the_table():
    worth = confidence_scores(np.array([0.9, 0.2, 0.6]), np.array([True, False, False]), 33.0, 0.5)
    last = score_table([replace(row(), confidence=worth)]).splitlines()[-1]
    assert last == (
        "* confidence: right 33.3% (CIDEr above 33), AUROC 1.000, ECE 0.300, wrong 66.7% and among the surest 80% 50.0%, "
        "unsure 33.3% (50.0% of the wrong ones, 0.0% of the right ones)"
    )
    alike = confidence_scores(np.array([0.9, 0.2]), np.array([True, True]), 33.0, 0.5)
    text = score_table([replace(row(), confidence=alike)])
    assert "AUROC none" in text
    assert text.rstrip().endswith("unsure 50.0% (50.0% of the right ones)")
    old = replace(worth, wrong_unsure=None, right_unsure=None)
    assert score_table([replace(row(), confidence=old)]).rstrip().endswith("unsure 33.3%")


def test_table_of_the_seed_protocol_has_bleu_only():
    header = cells(score_table([row("seed")]).splitlines()[0])
    assert header[5:10] == ["B1", "B2", "B3", "B4", "shuffled B4"]
    assert not {"CIDEr", "ROUGE-L", "METEOR"} & set(header)


def test_table_adds_what_is_known_of_demo_scenes():
    demo = {"all_right": 0.5, "colour": 0.75}
    text = score_table([row(demo=demo, shuffled_demo={"all_right": 0.125})])
    assert text.splitlines()[-1] == "beam 3: all right 50.0%, colour 75.0%; shuffled: all right 12.5%"


def test_rows_of_several_data_sets_name_them():
    rows = [replace(row(), dataset=name) for name in ("coco", "together")]
    text = score_table(rows)
    lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert lines[0][:4] == ["captioner", "split", "data set", "images"]
    assert [line[2] for line in lines[2:]] == ["coco", "together"]
    assert "\ntogether, beam 3:\n\n* commonest caption" in text
    assert "data set" not in score_table([row()])
