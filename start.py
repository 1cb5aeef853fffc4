"""Set up a virtual environment in .venv and run the main job or the tests in it. Needs Python 3.11+ and nothing else.

python3 start.py demo       # train, evaluate and caption on generated scenes: no data set, no download of weights
python3 start.py test       # the tests
"""

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def set_up(requirements: str) -> None:
    """Make .venv and install a requirements file, unless that has been done."""
    if not PYTHON.exists():
        print(f"making {VENV}", flush=True)
        venv.create(VENV, with_pip=True)
    wanted = "".join(path.read_text() for path in sorted(ROOT.glob("requirements*.txt")))
    stamp = VENV / f"installed-{requirements}"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"installing {requirements} (TensorFlow is large; this takes a few minutes once)", flush=True)
        run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
        stamp.write_text(digest)


def run(*arguments: str) -> None:
    """Run Python of .venv in the repository; leave with its status when it fails."""
    status = subprocess.run([PYTHON, *arguments], cwd=ROOT).returncode
    if status:
        sys.exit(status)


def demo() -> None:
    name = f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = f"runs/{name}"
    run("train.py", "--preset", "demo", "--name", name)
    run("evaluate.py", "--model", folder, "--split", "test")
    pictures = sorted((ROOT / "data/demo/images").glob("*.jpg"))[-3:]
    run("test.py", "--model", folder, "--pictures", f"{folder}/captioned", *map(str, pictures))
    print(f"\nthe run, its results row and captioned pictures: {folder}, {folder}/evaluation, {folder}/captioned")


def main() -> None:
    if sys.argv[1:] not in (["demo"], ["test"]):
        sys.exit(__doc__)
    if sys.version_info < (3, 11):  # noqa: UP036  any Python may start this script
        sys.exit(f"error: Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    if sys.argv[1] == "demo":
        set_up("requirements.txt")
        demo()
    else:
        set_up("requirements-dev.txt")
        run("-m", "pytest")


if __name__ == "__main__":
    main()
