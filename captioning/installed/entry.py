"""The command ``caption``, which ``pip install .`` installs. No Keras.

    caption photo.jpg       # the same as python test.py photo.jpg, with all its options
    caption check           # whether everything is there: versions, captioner, a first caption
    caption serve           # the same as python app.py: the web page

A picture or folder with one of these names is ./check or ./serve. ``setup.py`` says why the scripts lie in a folder of
their own.
"""

import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).parent
# The modules that do what a first word asks for, and the script that does all else.
_MODULES = {"": "test", "serve": "app", "check": "captioning.installed.check"}


def main() -> None:
    """Run the command that the command line asks for, and exit with its status."""
    sys.path.insert(0, str(_home()))
    from captioning.base.script import run_script

    run_script(_run)


def _home() -> Path:
    """The folder that holds the scripts and ``pretrained/``: one in the package, or the repository."""
    home = _HERE / "home"
    return home if home.is_dir() else _HERE.parents[1]


def _run() -> int:
    """Do what the command line asks for. Returns the exit status."""
    word = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] in _MODULES else ""
    command = f"caption {word}".strip()
    if word:
        del sys.argv[1]
    sys.argv[0] = command  # as which the help shows it
    name = _MODULES[word]
    module = importlib.import_module(name)
    module.__doc__ = (module.__doc__ or "").replace(f"python {name}.py", command)
    return module.main()


if __name__ == "__main__":
    main()
