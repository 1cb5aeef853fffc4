"""What Keras runs with: a backend that is installed, and the settings that every captioner was made with. No Keras.

Keras reads ``keras.json`` in its folder when it is imported: somebody's backend, image layout and float type. Other
programs need other ones. Here images are ``(B, height, width, channels)``, and computing is in float32 unless
``precision`` says otherwise.
"""

import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.base.files import alone_with, cache_folder, write_atomically
from captioning.base.json_files import load_json
from captioning.base.project import INSTALL_ALL

BACKENDS = ("tensorflow", "jax", "torch")
# The values with which our code is right. Keras has them by default.
_OURS: dict[str, Any] = {
    "floatx": "float32",
    "epsilon": 1e-07,
    "image_data_format": "channels_last",
    "nnx_enabled": False,
}


def settle_keras(source: str = "KERAS_BACKEND") -> None:
    """Choose the backend, and let no ``keras.json`` change how Keras computes. Comes before the first ``import keras``.

    The backend is that of ``KERAS_BACKEND``, or else that of keras.json, or else TensorFlow. ``source``: what set
    ``KERAS_BACKEND``, for errors. Prints notes on stderr. Raises UserError when the backend is unknown or not
    installed.
    """
    if "keras" in sys.modules:  # too late for a choice
        return
    refuse_without_keras()
    path = _keras_folder() / "keras.json"
    settings = _read(path)
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen:
        _refuse_unusable(chosen, source)
    else:
        os.environ["KERAS_BACKEND"] = _usable(str(settings.get("backend", BACKENDS[0])), path)
    others = [f"{name} {settings[name]!r}" for name, value in _OURS.items() if settings.get(name, value) != value]
    others += ["its text"] if settings.get("unreadable") else []
    if others:
        print(
            f"note: {path}: not used here: {' and '.join(others)}; captioners need {_OURS['floatx']} and "
            f"{_OURS['image_data_format']}",
            file=sys.stderr,
        )
        os.environ["KERAS_HOME"] = str(_own_folder(path.parent))


def refuse_without_keras(why: str = "") -> None:
    """Raise UserError if Keras is not installed. ``why``: what needs it, for the message."""
    if not importlib.util.find_spec("keras"):
        raise UserError(f"{why + ': ' if why else ''}Keras is not installed; {INSTALL_ALL}")


def _keras_folder() -> Path:
    """The folder where Keras looks for keras.json."""
    if folder := os.environ.get("KERAS_HOME"):
        return Path(folder).expanduser()
    home = Path.home()
    return (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"


def _read(path: Path) -> dict[str, Any]:
    """The settings in keras.json; none where there is no such file. What Keras would not survive is "unreadable"."""
    try:
        return load_json(path, dict)
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"unreadable": True}


def _installed() -> list[str]:
    return [name for name in BACKENDS if importlib.util.find_spec(name)]


def _refuse_unusable(backend: str, source: str) -> None:
    if backend not in BACKENDS:
        raise UserError(f"{source}: {backend!r} is no backend of this software; choose {' or '.join(BACKENDS)}")
    if backend not in _installed():
        others = " or ".join(f"--backend {name}" for name in _installed()) or "install one"
        raise UserError(f"{source}: {_missing(backend)}, or use one that is installed: {others}")


def _usable(wanted: str, path: Path) -> str:
    """The backend ``wanted`` by keras.json or by default, or else one that is installed. Says so. Raises UserError."""
    if wanted in (found := _installed()):
        return wanted
    problem = _missing(wanted) if wanted in BACKENDS else f"{wanted!r} is no backend of this software"
    if not found:
        raise UserError(f"backend: {problem}; none of {', '.join(BACKENDS)} is installed")
    where = f"{path}: " if path.exists() else "backend: "
    print(f"note: {where}{problem}; {found[0]} is used. --backend chooses another", file=sys.stderr)
    return found[0]


def _missing(backend: str) -> str:
    extra = "train" if backend == BACKENDS[0] else backend
    return f'{backend} is not installed; install it with: pip install -e ".[{extra}]"'


def _own_folder(keras: Path) -> Path:
    """A folder for Keras with our keras.json. Weights that Keras has downloaded are linked into it where that can be.

    Raises UserError when it cannot be written.
    """
    own = cache_folder() / "keras"
    try:
        own.mkdir(parents=True, exist_ok=True)
        for name in ("models", "datasets"):
            with suppress(OSError):  # there already, or a system without links: Keras downloads again
                if (keras / name).is_dir():
                    (own / name).symlink_to((keras / name).resolve(), target_is_directory=True)
        if _read(own / "keras.json") != (ours := {**_OURS, "backend": BACKENDS[0]}):  # others may be writing it too
            with alone_with(own):
                write_atomically(own / "keras.json", json.dumps(ours, indent=4) + "\n")
    except OSError as error:
        raise UserError(
            f"{own}: cannot be written ({error.strerror}); make room for it, or set floatx and image_data_format in "
            f"{keras / 'keras.json'} to float32 and channels_last"
        ) from None
    return own
