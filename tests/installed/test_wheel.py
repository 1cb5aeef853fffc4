"""A wheel captions in an environment that has nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT
from test_imports import KERAS

from captioning.installed.check import PICTURE

pytestmark = pytest.mark.slow

# What a build reads. Leftovers of earlier builds stay behind.
PARTS = ("captioning", "pretrained", "pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE")


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


def pip(*words: str | Path) -> subprocess.CompletedProcess:
    return run(sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    if (done := pip("download", "--no-deps", "--dest", folder, "tqdm")).returncode:
        pytest.skip(f"pip cannot download packages here: {done.stderr.strip().splitlines()[-1]}")
    (source := folder / "source").mkdir()
    for part in (*PARTS, *(path.name for path in ROOT.glob("*.py"))):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    done = pip("wheel", "--no-deps", "--wheel-dir", folder / "built", source)
    assert not done.returncode, done.stderr
    (built,) = (folder / "built").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment in which the wheel and what it needs are installed."""
    folder = tmp_path_factory.mktemp("environment")
    done = run(sys.executable, "-m", "venv", "--without-pip", folder)
    assert not done.returncode, done.stderr
    python = next(path for path in (folder / "bin/python", folder / "Scripts/python.exe") if path.exists())
    done = pip("--python", python, "install", "--no-compile", wheel, "-c", ROOT / "requirements.lock")
    assert not done.returncode, done.stderr
    return folder


@pytest.fixture
def caption(environment, tmp_path):
    """``caption(*words)`` runs the installed command in a folder with a picture and somebody's ``config.py``."""
    (tmp_path / "config.py").write_text("raise SystemExit('the config of somebody else')")
    shutil.copy(PICTURE, tmp_path / "photo.jpg")
    command = next(path for path in (environment / "bin/caption", environment / "Scripts/caption.exe") if path.exists())
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KERAS_BACKEND")}
    return lambda *words: run(command, *words, cwd=tmp_path, env=clean)


def test_no_module_has_a_name_that_others_may_have(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        weights = [name for name in archive.namelist() if name.endswith(("search.zip", ".h5", ".keras"))]
        assert weights == []
    assert {top for top in tops if not top.endswith(".dist-info")} == {"captioning"}


def test_it_captions_in_an_empty_environment(environment, caption):
    done = caption("photo.jpg", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["captions"][0]["caption"]
    done = caption("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "keras:      not installed" in done.stdout
    assert re.search(r"caption: +'a ", done.stdout)
    (packages,) = [path for path in environment.rglob("site-packages") if path.is_dir()]
    installed = {path.name.partition("-")[0] for path in packages.iterdir()}
    assert "onnxruntime" in installed
    assert not installed & {*KERAS, "nltk", "matplotlib"}
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size <= 200e6 + sum(path.stat().st_size for path in packages.rglob("*.pyc"))


def test_what_needs_more_is_one_message(caption):
    done = caption("photo.jpg", "--runtime", "keras")
    assert done.returncode == 2
    assert re.fullmatch(r'error: --runtime keras: Keras is not installed; pip install "\.\[train\]" .*\n', done.stderr)
    done = caption("serve")
    assert done.returncode == 2
    assert re.fullmatch(r"error: app\.py: \w+ is not installed; pip install .*\[app\].*\n", done.stderr)
