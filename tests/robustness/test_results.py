"""Results of corrupted pictures: kept after each severity, shown as a table and as curves."""

import math
from dataclasses import replace

import numpy as np
import pytest
from three_images import RECORDS, RIGHT, row

from captioning.base.errors import UserError
from captioning.data.predictions import write_predictions
from captioning.metrics.calibration import confidence_intervals, confidence_scores
from captioning.pictures.corrupting import Corruption
from captioning.reports.rows import ScoreRow, read_rows
from captioning.robustness.curves import draw_severities, severity_charts, severity_panels
from captioning.robustness.results import (
    CLEAN,
    Results,
    captions_name,
    chosen_captions,
    described,
    key_of,
    measured,
    severest,
    severity_cells,
    table_text,
)
from config import TOGETHER

BLUR, DARK, COVERED = Corruption("blur", 2), Corruption("darkness", 4), Corruption("occlusion", 7.5)
SURE = np.array([0.9, 0.2, 0.6]), np.array([True, False, False])


def scored(corruption: Corruption | None, cider: float, dataset: str | None = None) -> ScoreRow:
    worth = replace(confidence_scores(*SURE, 33.0, 0.5), intervals=confidence_intervals(*SURE, 50))
    made = row(cider_d=cider)
    return replace(made, confidence=worth, dataset=dataset, corruption=described(corruption, "run"))


def add(results: Results, corruption: Corruption | None, *rows: ScoreRow) -> None:
    for data_set in results.data_sets:
        name = captions_name(key_of(corruption), data_set)
        write_predictions(results.predictions, name, RECORDS, RIGHT, [9.0, 5.0, 7.0], [None] * 3)
    results.add(corruption, rows)


@pytest.fixture
def results(tmp_path) -> Results:
    found = Results(tmp_path, "dev-beam3", "run", [""])
    for corruption, cider in ((DARK, 20.0), (None, 80.0), (BLUR, 60.0), (COVERED, 30.0)):
        add(found, corruption, scored(corruption, cider))
    return found


def test_what_is_done_is_found_again_in_order(results, tmp_path):
    again = Results(tmp_path, "dev-beam3", "run", [""])
    assert again.keys == [(CLEAN, 0), ("occlusion", 7.5), ("blur", 2), ("darkness", 4)]
    assert again.rows == results.rows == read_rows(tmp_path / "robustness-dev-beam3.json")
    assert all(again.has(corruption) for corruption in (None, BLUR, DARK, COVERED))
    assert not again.has(Corruption("blur", 3))
    (tmp_path / "robustness-dev-beam3" / "predictions-blur-2.json").unlink()
    assert not again.has(BLUR), "its captions are gone"
    assert [*severest(again.keys)] == [(CLEAN, 0), ("occlusion", 7.5), ("blur", 2), ("darkness", 4)]
    assert [*severest([(CLEAN, 0), ("blur", 2), ("blur", 5)])] == [(CLEAN, 0), ("blur", 5)]


def test_results_of_something_else_are_replaced_and_damaged_ones_named(results, tmp_path, capsys):
    other = Results(tmp_path, "dev-beam3", "another", [""])
    assert other.rows == []
    assert "robustness-dev-beam3.json: is of another captioner, settings or images" in capsys.readouterr().err
    (tmp_path / "robustness-dev-beam3.json").write_text("[{")
    with pytest.raises(UserError, match=r"robustness-dev-beam3\.json: .*after you have deleted this file"):
        Results(tmp_path, "dev-beam3", "run", [""])


def test_two_evaluations_do_not_write_the_same_files(tmp_path):
    refused = pytest.raises(UserError, match=r"robustness-dev\.json: another evaluation writes it now")
    with Results.alone(tmp_path / "new", "dev"), refused, Results.alone(tmp_path / "new", "dev"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written"), Results.alone(tmp_path / "file", "dev"):
        pass


def test_captions_of_several_severities_are_those_of_the_same_images(results):
    keys = [(CLEAN, 0), ("blur", 2)]
    kept, predictions = chosen_captions(results, keys, "", RECORDS[1:])
    assert kept == RECORDS[1:]
    for captions, cider in predictions:
        assert captions == RIGHT[1:]
        assert cider.tolist() == [5, 7]
    (results.predictions / "predictions-blur-2.json").write_text("[1]")
    with pytest.raises(UserError, match=r"predictions-blur-2\.json: damaged"):
        chosen_captions(results, keys, "", RECORDS)


def test_the_table_has_figures_with_intervals(results):
    cells = severity_cells(results.rows)
    assert [line["pictures"] for line in cells] == ["clean", "occlusion 7.5", "blur 2", "darkness 4"]
    assert cells[1]["what it does"] == "a grey rectangle over 75% of the picture"
    assert cells[2]["CIDEr"].startswith("60.0 (")
    assert cells[0]["right"].startswith("33.3% (")
    assert cells[0]["confidence"].startswith("56.7% (")
    assert cells[0]["AUROC"].startswith("1.000 (")
    assert "data set" not in cells[0]
    text = table_text(results.rows)
    assert text.startswith("run-1, test, protocol coco. ")
    assert text.count("\n| ") == 6
    bare = severity_cells([replace(each, confidence=None) for each in results.rows])
    assert {"confidence", "AUROC", "ECE", "right"}.isdisjoint(bare[0])
    assert "CHAIRs" in cells[0]


def test_curves_begin_at_the_clean_pictures(results):
    severities, panels = severity_panels(results.of(None))
    assert severities == [0, 2, 4, 7.5]
    assert [panel.title.split(":")[0] for panel in panels] == [
        *("CIDEr", "BLEU-4", "CHAIRs", "Mean confidence", "AUROC of the confidence", "ECE of the confidence")
    ]
    curves = {curve.label: curve.values for curve in panels[0].curves}
    assert list(curves) == ["occlusion", "blur", "darkness"]
    assert [value for value in curves["blur"] if math.isfinite(value)] == [80, 60]
    assert math.isnan(curves["blur"][2])
    assert curves["occlusion"][3] == 30
    assert panels[0].curves[0].intervals[0] == measured(results.rows[0])["cider"][1]
    charts = severity_charts(results.of(None))
    assert [(mark.label, round(mark.x)) for mark in charts[0].places] == [
        *(("0", 45), ("2", 157), ("4", 269), ("7.5", 465))
    ]
    assert [point.label for point in charts[0].lines[1].points] == ["severity 0: 80", "severity 2: 60"]
    assert charts[0].axis == "severity"
    assert len(charts[3].lines[1].bars) == 2, "an interval of the mean confidence at each place"


@pytest.mark.slow
def test_curves_are_drawn_as_png_and_svg(results, tmp_path):
    rows = {key: replace(row, confidence=None) for key, row in results.of(None).items()}
    png, svg = draw_severities(rows, tmp_path / "curves")
    assert png.read_bytes().startswith(b"\x89PNG")
    first = svg.read_bytes()
    assert b">CIDEr<" in first
    assert b">occlusion<" in first
    draw_severities(rows, tmp_path / "curves")
    assert svg.read_bytes() == first, "the same file every time"


def test_several_data_sets_are_drawn_together(tmp_path):
    results = Results(tmp_path, "dev", "run", ["a", "b"])
    for corruption in (None, BLUR):
        add(results, corruption, *(scored(corruption, cider, name) for name, cider in (("a", 10.0), ("b", 30.0), (TOGETHER, 20.0))))  # fmt: skip
    assert [found.coco.cider_d for found in results.of(None).values()] == [20, 20]
    assert [found.coco.cider_d for found in results.of("b").values()] == [30, 30]
    assert [line["data set"] for line in severity_cells(results.rows)] == ["a", "b", TOGETHER] * 2
    assert Results(tmp_path, "dev", "run", ["a", "b"]).has(BLUR)
    assert (tmp_path / "robustness-dev" / "predictions-b-blur-2.json").is_file()
