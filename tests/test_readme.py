"""The README and the pages of the documentation keep their promises.

What they link to exists, what they name can be typed, and their table of captioners is that of the score files.
"""

import json
import re

import pytest
from helpers import ROOT

from captioning.reports.tables import markdown
from captioning.sweeps.results import summaries
from captioning.sweeps.tables import table_cells
from config import PRESETS, Config
from tools import models_page, results_table

FOLDERS = ["pretrained", "weights", "results", "benchmarks"]  # each has a README of its own
PAGES = [
    "README.md",
    "CHANGELOG.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    *(f"{folder}/README.md" for folder in FOLDERS),
]
# Options of other programs that the pages call.
FOREIGN_OPTIONS = {"index-url", "help", "no-deps", "address"} | {
    "rm",
    "gpus",
    "user",
    "build-arg",
    "working-dir",
}  # those of docker, and of ray job submit
# A path that a reader would fill in, or that a run leaves: it need not exist.
PLACEHOLDER = re.compile(r"\b(NAME|FILE|FOLDER|DIR|RUN|SPLIT|PROTOCOL|EMBEDDING|SEED|A|B)\b")
USERS_OWN = ("runs/", "data/", "features/", "photos/", "exported/", "annotations/", "/tmp/", "site-packages/")


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def source() -> str:
    """The code that may offer an option."""
    files = [*ROOT.glob("*.py")]
    for folder in ("captioning", "tools", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    return "".join(path.read_text(encoding="utf-8") for path in files)


def slug(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def files_named(page: str) -> set[str]:
    """The paths of files that a page has in backticks, in a span or in a block."""
    spans = re.findall(r"```.*?```|`[^`]+`", text(page), re.DOTALL)
    paths = re.findall(r"(?<![\w./:-])[\w./*?-]+/[\w.*?-]+\.(?:py|md|zip|json)\b", " ".join(spans))
    return {path for path in paths if not PLACEHOLDER.search(path) and not path.startswith(USERS_OWN)}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)
    found = re.findall(r"\]\((?!https?:)([^)]+)\)|src=\"([^\"]+)\"", prose)
    assert found or page != "README.md"
    for link, picture in found:
        path, _, heading = (link or picture).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link or picture
        # The site holds docs/ alone.
        assert not page.startswith("docs/") or target.resolve().parent == ROOT / "docs", link or picture
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in map(slug, titles), link


def test_each_page_of_the_site_is_in_its_menu():
    menu = re.findall(r"[\w-]+\.md", text("mkdocs.yml").split("\nnav:")[1])
    assert sorted(menu) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_readme_leads_to_each_page():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/index.md"}
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text("README.md"))}
    assert pages - links == set()


@pytest.mark.parametrize("page", PAGES)
def test_options_and_presets_exist(page):
    code = source()
    negated = {f"no_{name}" for name, field in Config.model_fields.items() if field.annotation is bool}
    for option in set(re.findall(r"--([a-z][a-z0-9-]+)", text(page))) - FOREIGN_OPTIONS:
        name = option.replace("-", "_")
        assert name in Config.model_fields or name in negated or f'"--{option}"' in code, option
    for preset in re.findall(r"--preset ([\w-]+)", text(page)):
        assert preset in PRESETS


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    for path in files_named(page):
        places = [ROOT, (ROOT / page).parent]
        assert any(any(place.glob(path)) for place in places), path


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
    assert len(shown) == 2 + 6
    assert [line for line in shown if line not in known and not line.startswith("| ---")] == []


def test_the_page_of_models_is_that_of_the_score_files():
    page = text("docs/models.md")
    assert models_page.page(page) == page
    assert "| pocket (the default) |" in page


def test_each_captioner_of_the_results_is_on_the_page_of_models():
    known = {folder for model in models_page.FLICKR8K for folder in model.folders}
    missing = {folder for folder in results_table.CAPTIONERS.values() if "four-views" not in folder} - known
    assert missing == set()


def test_the_table_of_the_sweep_of_the_demo_is_that_of_its_files():
    rows = ("merge", "inject", "attention")
    runs = {row: sorted((ROOT / "results" / "sweep-demo").glob(f"{row}-seed?")) for row in rows}
    assert [len(folders) for folders in runs.values()] == [2, 2, 2]
    table = markdown(table_cells(summaries(runs, "test", "merge")))
    assert table in text("docs/evaluation.md")
    assert table in text("results/sweep-demo/table.md")


def test_the_table_of_the_sweep_of_decoders_is_that_of_its_files():
    found = json.loads(text("results/sweep-decoders/table.json"))
    together = {row["row"]: row for row in found if row["place"][0] == "together"}
    assert len(together) == 8
    page = text("docs/models.md")
    for name, row in together.items():
        assert f"| {name} | 2 | {row['cider']:.2f} ± {row['deviation']:.2f} |" in page
