"""The README and the pages behind it keep their promises: what they link to exists, what they name can be typed, and their
table of captioners is that of the files."""

import re

import pytest
from helpers import ROOT

from config import PRESETS, Config
from tools import results_table

PAGES = [
    "README.md",
    "CHANGELOG.md",
    "docs/results.md",
    "docs/speed.md",
    "docs/exports.md",
    "pretrained/README.md",
    "results/README.md",
    "benchmarks/README.md",
    "weights/README.md",
]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)
    found = re.findall(r"\]\((?!https?:)([^)]+)\)|src=\"([^\"]+)\"", prose)
    assert found or page != "README.md"
    for link, source in found:
        path, _, heading = (link or source).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link or source
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link


@pytest.mark.parametrize("page", PAGES)
def test_options_and_presets_exist(page):
    names = [
        "preprocessing",
        "train",
        "evaluate",
        "retrieve",
        "test",
        "app",
        "export",
        "config",
        "tools/human_judgements",
    ]
    if page.startswith("benchmarks/"):
        names += [f"benchmarks/{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")]
    scripts = "".join((ROOT / f"{name}.py").read_text() for name in names)
    negated = {f"no_{name}" for name, field in Config.model_fields.items() if field.annotation is bool}
    for option in set(re.findall(r"--([a-z][a-z0-9-]+)", text(page))) - {"help", "no-deps"}:  # of pip
        name = option.replace("-", "_")
        assert name in Config.model_fields or name in negated or f'"--{option}"' in scripts, option
    for preset in re.findall(r"--preset ([\w-]+)", text(page)):
        assert preset in PRESETS


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page):
    assert "PLACEHOLDER" not in text(page)


def test_the_table_of_captioners_is_that_of_the_score_files():
    rows = results_table.table()
    assert results_table.BEGIN + rows + results_table.END in text("docs/results.md")
    assert results_table.digest() in text("docs/results.svg")
    # The README's rows are some of these, without the last columns.
    known = ["|".join(row.split("|")[:10]) + "|" for row in rows.splitlines()]
    section = text("README.md").split("## Results")[1].split("\n## ")[0]
    shown = [line for line in section.splitlines() if line.startswith("|")]
    assert len(shown) > 10
    assert [line for line in shown if line not in known and not line.startswith("| ---")] == []
