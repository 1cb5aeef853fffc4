"""What this project is called, its version, and where to reach somebody about it. No Keras."""

import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

NAME = "keras-image-captioning"
# What to do where Keras or another package is missing.
INSTALL_ALL = 'pip install ".[train]" in the folder of the repository installs all that Keras and training need'
_ABOUT = Path(__file__).parents[2] / "pyproject.toml"


def version() -> str:
    """The version of this source tree, or of the installed package."""
    return str(_about()["version"])


def address() -> str | None:
    """The first web address that ``pyproject.toml`` names for this project; None if it names none."""
    return next(iter(_about().get("urls", {}).values()), None)


@cache
def _about() -> dict[str, Any]:
    try:
        return tomllib.loads(_ABOUT.read_text(encoding="utf-8"))["project"]
    except FileNotFoundError:  # only the package was installed
        found = metadata.metadata(NAME)
        urls = [line.partition(",") for line in found.get_all("Project-URL") or []]
        return {"version": found["Version"], "urls": {label.strip(): url.strip() for label, _, url in urls}}
