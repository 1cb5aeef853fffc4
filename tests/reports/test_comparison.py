"""Comparisons: which files stand on each side, and what the table says."""

import pytest
from three_images import RECORDS, RIGHT

from captioning.base.errors import UserError
from captioning.reports.comparison import comparison_table, find_sides


def test_a_pattern_names_the_files_of_several_seeds(tmp_path):
    for name in ("a1.json", "a2.json", "b1.json", "b2.json", "[c].json"):
        (tmp_path / name).touch()
    sides = find_sides([str(tmp_path / "a?.json"), str(tmp_path / "b*.json")])
    assert [[path.name for path in side] for side in sides] == [["a1.json", "a2.json"], ["b1.json", "b2.json"]]
    # A file that exists is meant, even where its name could be a pattern.
    assert find_sides([str(tmp_path / "[c].json")] * 2)[0] == [tmp_path / "[c].json"]
    with pytest.raises(UserError, match="--compare: no file is named"):
        find_sides([str(tmp_path / "a1.json"), str(tmp_path / "d?.json")])


def test_captions_do_not_differ_from_themselves():
    lines = comparison_table([RIGHT], [RIGHT], RECORDS).splitlines()
    assert lines[4] == "| CIDEr | 1000.00 | 1000.00 | +0.00 | +0.00 to +0.00 | 1.0000 |"
    assert len(lines) == 5
    lines = comparison_table([RIGHT, RIGHT], [RIGHT, RIGHT], RECORDS).splitlines()
    assert lines[4].startswith("| CIDEr | 1000.00 ± 0.00 |")
    assert lines[-1].startswith("Means of 2 seeds ± their standard deviation.")
