"""The README keeps its promises: what it links to exists, and what it names can be typed."""

import re

from conftest import ROOT

from config import PRESETS, Config

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_lead_somewhere():
    found = re.findall(r"\]\((?!https?:)([^)]+)\)|src=\"([^\"]+)\"", TEXT)
    assert found
    for link in (first or second for first, second in found):
        assert (ROOT / link).exists(), link


def test_options_and_presets_exist():
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
    for option in set(re.findall(r"--([a-z][a-z0-9-]+)", TEXT)) - {"help", "no-deps"}:  # of pip
        assert option.replace("-", "_") in Config.model_fields or f'"--{option}"' in scripts, option
    for preset in re.findall(r"--preset ([\w-]+)", TEXT):
        assert preset in PRESETS


def test_nothing_is_left_to_fill_in():
    assert "PLACEHOLDER" not in TEXT
