"""What a result depends on besides settings and data: versions, git commit, backend and machine."""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from captioning.base.backend import backend_name, devices

_PACKAGES = (
    *("keras", "keras-hub", "tensorflow", "jax", "torch", "numpy", "nltk", "pillow"),
    *("tf2onnx", "onnx", "onnxruntime", "ai-edge-litert", "ray", "pyarrow"),
)


def describe(seed: int) -> dict[str, Any]:
    """The command, seed, versions, git commit and machine of this process."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seed": seed,
        "backend": backend_name(),
        "devices": devices(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "packages": package_versions(),
        "git_commit": _git_commit(),
    }


def cpu_model() -> str:
    """The name of the processor, as the operating system gives it."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """What the processor can do, by Linux' names, such as ``avx2``. Empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


def package_versions() -> dict[str, str]:
    """The versions of the installed packages on which a result may depend."""
    return {name: found for name in _PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of this source tree, with ``+`` if files have changed since; None if it is no git checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
