"""The Dockerfiles name files and extras that exist, and .dockerignore lets the files through. Nothing is built here."""

import re
import shlex
from fnmatch import fnmatch

import pytest
from helpers import ROOT

FILES = ("Dockerfile", "Dockerfile.training")


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their words. Comments are left out, and lines are joined."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def copied(name: str) -> list[str]:
    """What is copied from the repository."""
    words = [shlex.split(rest) for word, rest in instructions(name) if word == "COPY"]
    return [source for line in words if not line[0].startswith("--from") for source in line[:-1]]


def is_sent(name: str) -> bool:
    """Whether .dockerignore lets a file or folder of the top level through. The last line that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and fnmatch(name, line.lstrip("!")):
            sent = line.startswith("!")
    return sent


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_exists_and_is_sent(name):
    sources = copied(name)
    assert "captioning" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent(source), f"{source} is left out by .dockerignore"


def test_data_and_results_are_not_sent():
    for name in ("data", "runs", "features", "results", ".git", ".venv", "docs", "tests"):
        assert not is_sent(name)


def test_the_image_for_captioning_holds_what_a_wheel_is_built_of():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    scripts = re.search(r"^SCRIPTS = \((.*)\)$", setup, re.MULTILINE)[1].replace('"', "").split(", ")
    assert {*scripts, "setup.py", "pyproject.toml", "requirements.txt", "captioning", "pretrained"} <= {
        *copied(FILES[0])
    }


@pytest.mark.parametrize("name", FILES)
def test_extras_exist(name):
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    known = {*re.findall(r'^    "(\w+)": [\[_]', setup, re.MULTILINE), "train"}
    assert {"app", "faiss", "kerashub"} <= known
    run = " ".join(rest for word, rest in instructions(name) if word == "RUN")
    named = {extra for group in re.findall(r'"[.$]1?\[([\w,]+)\]"', run) for extra in group.split(",")}
    assert named
    assert named <= known


@pytest.mark.parametrize("name", FILES)
def test_programs_run_without_the_rights_of_root(name):
    words = [word for word, _ in instructions(name)]
    (user,) = [rest for word, rest in instructions(name) if word == "USER"]
    assert user != "root"
    assert words.index("USER") < words.index("ENTRYPOINT")
    bases = [rest.split()[0] for word, rest in instructions(name) if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+-slim", base) for base in bases)


def test_bounds_of_cuda_are_those_of_the_documentation():
    (default,) = [rest for word, rest in instructions("Dockerfile.training") if word == "ARG"]
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert default.split("=", 1)[1].strip('"') in page
    other = re.search(r"--build-arg CUDA='(.*?)'", (ROOT / "Dockerfile.training").read_text(encoding="utf-8"))[1]
    assert other in page
