"""The README and the pages behind it keep their promises: what they link to exists, what they name can be typed, and their
table of captioners is that of the files."""

import re

import pytest
from conftest import ROOT

from config import PRESETS, Config
from tools import results_table

PAGES = [
    "README.md",
    "docs/results.md",
    "docs/speed.md",
    "docs/exports.md",
    "pretrained/README.md",
    "results/README.md",
]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link, source in re.findall(r"\]\((?!https?:)([\w./-]+)\)|src=\"([^\"]+)\"", text(page)):
        assert ((ROOT / page).parent / (link or source)).exists(), link or source


@pytest.mark.parametrize("page", PAGES)
def test_options_and_presets_exist(page):
    names = (
        "preprocessing",
        "train",
        "evaluate",
        "retrieve",
        "test",
        "app",
        "export",
        "config",
        "tools/human_judgements",
    )
    scripts = "".join((ROOT / f"{name}.py").read_text() for name in names)
    for option in set(re.findall(r"--([a-z][a-z0-9-]+)", text(page))) - {"help", "no-deps"}:  # of pip
        assert option.replace("-", "_") in Config.model_fields or f'"--{option}"' in scripts, option
    for preset in re.findall(r"--preset ([\w-]+)", text(page)):
        assert preset in PRESETS


def test_the_table_of_captioners_is_that_of_the_score_files():
    rows = results_table.table()
    assert results_table.BEGIN + rows + results_table.END in text("docs/results.md")
    # The README's rows are some of these, without the last columns.
    known = ["|".join(row.split("|")[:10]) + "|" for row in rows.splitlines()]
    section = text("README.md").split("## Results")[1].split("\n## ")[0]
    shown = [line for line in section.splitlines() if line.startswith("|")]
    assert len(shown) > 10
    assert [line for line in shown if line not in known and not line.startswith("| ---")] == []
