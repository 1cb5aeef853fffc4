"""The Java metrics: what is missing is named, what fails ends in a message, and METEOR gives its known scores."""

import os
import shutil
import sys
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest

from captioning.base.errors import UserError
from captioning.metrics import java

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for java is a shell script")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """``stand_in(script)`` makes ``java`` a shell script, and pycocoevalcap a folder of empty files.

    Returns the folder.
    """

    def make(script: str | None):
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if script else str(tmp_path / "nowhere"))
        if script:
            (tmp_path / "java").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "java").chmod(0o755)
        for name in chain(*java._FILES.values()):
            (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "package" / name).touch()
        spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "package")])
        monkeypatch.setattr(java, "find_spec", lambda name: spec)
        return tmp_path / "package"

    return make


@pytest.mark.parametrize("tool", java.TOOLS)
def test_a_missing_package_is_named(tool, monkeypatch):
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf'^{tool}: .*pycocoevalcap.*pip install -e "\.\[metrics\]"'):
        java.require(tool)


@pytest.mark.parametrize("script", [None, "exit 1"])
def test_a_missing_java_is_named(stand_in, script):
    stand_in(script)
    with pytest.raises(UserError, match=r"^meteor: needs Java.*install"):
        java.require("meteor")


@pytest.mark.parametrize("tool", java.TOOLS)
def test_a_missing_file_of_the_package_is_named(stand_in, tool):
    folder, name = stand_in("exit 0"), java._FILES[tool][-1]
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"^{tool}: .*{Path(name).name} is missing; pip install --force-reinstall"):
        java.require(tool)


def test_the_models_that_spice_downloads_are_named(stand_in):
    folder = stand_in("exit 0")
    with pytest.raises(UserError, match=r"^spice: .*CoreNLP.*get_stanford_models"):
        java.require("spice")
    (folder / "spice/lib").mkdir()
    (folder / "spice/lib/stanford-corenlp-3.6.0-models.jar").write_text("")
    assert java.require("spice") == folder


def test_words_of_the_tokeniser_stay_with_their_caption(stand_in):
    stand_in('if [ "$1" != -version ]; then cat; fi')
    assert java.tokenize(["a dog 's -lrb- caf\u00e9 -rrb- .", "", "two\nlines , here"]) == [
        ["a", "dog", "'s", "caf\u00e9"],
        [],
        ["two", "lines", "here"],
    ]


@pytest.mark.parametrize("script", ["echo too many; cat", "cat; echo out of memory >&2; exit 1"])
def test_a_tokeniser_that_fails_is_reported(stand_in, script):
    stand_in(f'if [ "$1" != -version ]; then {script}; fi')
    with pytest.raises(UserError, match=r"^tokenizer: .*failed"):
        java.tokenize(["a dog"])


@pytest.mark.skipif(not find_spec("pycocoevalcap"), reason='needs pip install -e ".[metrics]"')
@pytest.mark.parametrize(
    ("said", "reason"),
    [("out of memory", "out of memory"), ("Picked up OPTIONS\nError: no file\n\tat Main", "Error: no file")],
)
def test_a_meteor_that_fails_is_reported_and_does_not_hang(stand_in, said, reason):
    stand_in(f'if [ "$1" != -version ]; then echo "{said}" >&2; exit 1; fi')
    with pytest.raises(UserError, match=rf"^meteor: .*failed: {reason}$"):
        java.meteor(["a dog"], [["a dog"]])


@pytest.mark.skipif(not find_spec("pycocoevalcap"), reason='needs pip install -e ".[metrics]"')
def test_spice_may_look_into_the_classes_of_newer_javas(stand_in, monkeypatch):
    models = stand_in("exit 0") / "spice/lib"
    models.mkdir(parents=True)
    (models / "stanford-corenlp-3.6.0-models.jar").write_text("")
    seen = []

    class Spice:
        def compute_score(self, references, predictions):
            seen.append(os.environ["JDK_JAVA_OPTIONS"])
            return 0.25, [{"All": {"f": 0.25}}]

    monkeypatch.setattr("pycocoevalcap.spice.spice.Spice", Spice)
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-Dmine=1")
    assert java.spice(["a dog"], [["a dog"]]) == (25, [25])
    assert seen[0].startswith("-Dmine=1 --add-opens=java.base/java.lang=ALL-UNNAMED ")
    assert os.environ["JDK_JAVA_OPTIONS"] == "-Dmine=1"
    monkeypatch.delenv("JDK_JAVA_OPTIONS")
    java.spice(["a dog"], [["a dog"]])
    assert seen[1].startswith("--add-opens=")
    assert "JDK_JAVA_OPTIONS" not in os.environ


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("pycocoevalcap") and shutil.which("java")), reason="needs pycocoevalcap and Java")
def test_meteor_and_the_stanford_tokeniser():
    assert java.tokenize(["A dog's tail ; it can't (wag)!"]) == [["a", "dog", "'s", "tail", "it", "ca", "n't", "wag"]]
    total, scores = java.meteor(
        ["a brown dog runs through the grass", "x"],
        [["A brown dog is running through the tall grass ."], ["cats"]],
    )
    assert scores.tolist() == pytest.approx([35.65962453, 0], abs=1e-6)
    assert 0 < total < scores[0]
