"""The figures of a table: means, intervals and tests over seeds and data sets, and how they are written."""

import json

import pytest
from quick_scripts import score_row

from captioning.base.errors import UserError
from captioning.sweeps.results import Place, summaries
from captioning.sweeps.tables import escaped, latex, table_cells, write_tables
from config import TOGETHER


def write_run(folder, cider, **changes):
    """A run folder with scores: for each data set the CIDEr of its images."""
    rows = []
    (folder / "evaluation").mkdir(parents=True)
    for dataset, values in cider.items():
        row = score_row(dataset=dataset or None, **changes).to_json()
        rows.append(row | {"cider_d": sum(values) / len(values)})
        images = [{"file_name": f"{i}.jpg", "cider": value} for i, value in enumerate(values)]
        label = "-".join(filter(None, ("test", dataset, "beam3")))
        (folder / "evaluation" / f"predictions-{label}.json").write_text(json.dumps(images))
    if len(cider) > 1:
        mean = sum(row["cider_d"] for row in rows) / len(rows)
        rows.append(rows[0] | {"dataset": TOGETHER, "cider_d": mean})
    (folder / "evaluation" / "scores-test-coco.json").write_text(json.dumps(rows))
    return folder


def test_several_data_sets_have_rows_of_their_own_and_one_together(tmp_path):
    cider = {"people": [40, 60, 80], "objects": [10, 30]}
    runs = {
        "a": [write_run(tmp_path / "a", cider)],
        "b": [write_run(tmp_path / "b", {name: [value + 8 for value in own] for name, own in cider.items()})],
    }
    found = summaries(runs, "test", "a")
    assert [(each.row, each.place) for each in found] == [
        (row, Place(dataset, "beam 3")) for dataset in ("people", "objects", TOGETHER) for row in "ab"
    ]
    assert [each.cider for each in found] == [60, 68, 20, 28, 40, 48]
    both = found[-1]
    assert both.comparison.difference == pytest.approx(8)
    assert both.comparison.interval == pytest.approx((8, 8))
    assert both.interval[0] < 48 < both.interval[1]
    assert (both.deviation, both.words_per_second, both.captions_per_second) == (None, None, 16)
    cells = table_cells(found)
    assert [cell["images"] for cell in cells[::2]] == ["people", "objects", TOGETHER]
    assert "words/s" not in cells[0]


def test_a_baseline_that_is_not_there_gives_no_tests(tmp_path):
    runs = {"a": [write_run(tmp_path / "a", {"": [1.0, 2.0]})]}
    assert summaries(runs, "test", "b")[0].comparison is None
    assert "p" not in table_cells(summaries(runs, "test", "b"))[0]


def test_runs_on_other_images_are_refused(tmp_path):
    runs = {"a": [write_run(tmp_path / "a", {"": [1, 2]})], "b": [write_run(tmp_path / "b", {"": [1, 2, 3]})]}
    with pytest.raises(UserError, match=r"b: its test images are not those of .*a; compare runs on the same images"):
        summaries(runs, "test", "a")


def test_scores_of_other_protocols_are_not_compared(tmp_path):
    runs = {"a": [write_run(tmp_path / "a", {"": [1, 2]})], "b": [write_run(tmp_path / "b", {"": [1, 2]})]}
    path = tmp_path / "b" / "evaluation" / "scores-test-coco.json"
    path.write_text(path.read_text().replace("text.py", "unicode"))
    with pytest.raises(UserError, match=r"b: is scored by the protocol coco-unicode, and .*a by coco; these cannot be"):
        summaries(runs, "test", "a")


def test_missing_and_damaged_predictions_are_named(tmp_path):
    run = write_run(tmp_path / "a", {"": [1, 2]})
    path = run / "evaluation" / "predictions-test-beam3.json"
    path.write_text('[{"file_name": "0.jpg"}]')
    with pytest.raises(UserError, match=r"predictions-test-beam3\.json: damaged .*'cider'"):
        summaries({"a": [run]}, "test", "a")
    path.unlink()
    with pytest.raises(UserError, match=r"predictions-test-beam3\.json: missing, and its scores are there"):
        summaries({"a": [run]}, "test", "a")


def test_latex_is_escaped():
    assert escaped(r"50% of a_b & c#1 {x} ~^\ $2") == (
        r"50\% of a\_b \& c\#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \$2"
    )
    assert escaped("-1.20 to +3.40, < 0.001, 2 ± 1, beam-3") == "$-$1.20 to $+$3.40, $<$ 0.001, 2 $\\pm$ 1, beam-3"
    text = latex([{"row": "a_b", "CIDEr": "1.0"}], ["A note."], {"a_b": ["for x; do", "done"]})
    assert text.splitlines()[3:] == [
        *(r"\begin{tabular}{lr}", r"\toprule", r"row & CIDEr \\", r"\midrule", r"a\_b & 1.0 \\", r"\bottomrule"),
        *(r"\end{tabular}", r"\caption{A note.}", r"\end{table}", "% a_b:", "%     for x; do", "%     done"),
    ]


def test_figures_are_kept_without_rounding(tmp_path):
    found = summaries({"a|b": [write_run(tmp_path / "a", {"": [1.25, 2.5]})]}, "test", "a|b")
    text = write_tables(found, {"a|b": ["python train.py"]}, "test", "a|b", tmp_path)
    (kept,) = json.loads((tmp_path / "table.json").read_text())
    assert (kept["row"], kept["cider"], kept["chair_s"]) == ("a|b", 1.875, 0.125)
    assert "| a\\|b | 1 | 1.88 |" in text
