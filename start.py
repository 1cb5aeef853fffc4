"""Set up a virtual environment in .venv, and work in it. Needs only Python 3.11 or newer.

python3 start.py caption photo.jpg   # caption pictures, with all options of test.py: installs what captioning needs
python3 start.py demo                # train, evaluate and caption on generated scenes: downloads no data and no weights
python3 start.py demo chinese        # the same with captions in Chinese; also hindi
python3 start.py test                # the tests
"""

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LOCK = "requirements.lock"
LISTS = ("requirements.txt", "setup.py", "pyproject.toml", LOCK)  # what is installed
LANGUAGES = ("chinese", "hindi")  # of the demo, besides English


def set_up(extras: str) -> None:
    """Make .venv and install this project into it, with the versions of the lock file, unless that has been done.

    ``extras`` are names from ``setup.py`` in square brackets, or an empty string. A file in .venv holds a digest
    of the lists of dependencies. If they change, everything is installed again. What an interrupted call left is
    completed. If that fails, for example because the disk is full, exit with status 2 and a message.
    """
    wanted = b"".join((ROOT / name).read_bytes() for name in LISTS)
    digest = hashlib.sha256(wanted).hexdigest()
    stamp = VENV / f"installed{extras}"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    try:
        if not has_pip():
            print(f"making {VENV}", file=sys.stderr)
            venv.create(VENV, with_pip=True)
        large = "TensorFlow is large; this takes a few minutes once" if extras else "this takes a minute once"
        print(f"installing the dependencies ({large})", file=sys.stderr)
        # --no-compile saves time. Python later compiles only the part of TensorFlow that is imported.
        options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        install = [PYTHON, "-m", "pip", "install", *options, "-e", f".{extras}", "-c", LOCK]
        if subprocess.run(install, cwd=ROOT).returncode:
            refuse("pip could not install the dependencies, for the reason above")
        stamp.write_text(digest)
    except OSError as error:
        refuse(f"cannot be written ({error.strerror or error})")
    except subprocess.CalledProcessError as error:  # the installation of pip
        lines = (error.output or b"").decode(errors="replace").strip().splitlines()
        refuse(f"pip cannot be installed there ({lines[-1] if lines else error})")


def has_pip() -> bool:
    """Whether .venv has a Python with pip. An interrupted call may have left one without."""
    found = PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True)
    return bool(found) and not found.returncode


def refuse(reason: str) -> NoReturn:
    """Exit with status 2, and say why .venv cannot be made."""
    print(f"error: {VENV}: {reason}; remove the cause, then run the same command again", file=sys.stderr)
    sys.exit(2)


def run(*arguments: str, folder: Path | None = ROOT) -> None:
    """Run Python of .venv in ``folder``, or where the user is. If it fails, exit with its status."""
    status = subprocess.run([PYTHON, *arguments], cwd=folder).returncode
    if status:
        sys.exit(status)


def demo(language: str = "") -> None:
    data = f"demo-{language}" if language else "demo"
    name = f"{data}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = f"runs/{name}"
    spoken = ["--demo-language", language, "--words", "unicode", "--data-dir", f"data/{data}"] if language else []
    run("train.py", "--preset", "demo", *spoken, "--name", name)
    run("evaluate.py", "--model", folder, "--split", "test")
    pictures = sorted((ROOT / "data" / data / "images").glob("*.jpg"))[-3:]
    run("test.py", "--model", folder, "--pictures", f"{folder}/captioned", *map(str, pictures))
    print(f"\nthe run, its results row and captioned pictures: {folder}, {folder}/evaluation, {folder}/captioned")


def main() -> None:
    asked = sys.argv[1:]
    if asked[:1] != ["caption"] and asked not in (["demo"], *(["demo", each] for each in LANGUAGES), ["test"]):
        sys.exit(__doc__)
    if sys.version_info < (3, 11):  # noqa: UP036  any Python may start this script
        sys.exit(f"error: Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    if asked[0] == "caption":
        set_up("")
        run("-m", "captioning.installed.entry", *asked[1:], folder=None)
    elif asked[0] == "demo":
        set_up("[train]")
        demo(*asked[1:])
    else:
        set_up("[dev,app]")
        run("-m", "pytest")


if __name__ == "__main__":
    main()
