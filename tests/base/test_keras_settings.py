"""Somebody's keras.json: its backend is used if it is installed, and nothing else of it."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from captioning.base import keras_settings
from captioning.base.errors import UserError
from captioning.base.keras_settings import settle_keras

OURS = {"floatx": "float32", "epsilon": 1e-07, "image_data_format": "channels_last"}


@pytest.fixture
def settle(tmp_path, monkeypatch, capsys):
    """``settle(keras_json, KERAS_BACKEND, installed)`` gives the backend, the settings that Keras finds, and stderr."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    home, cache = tmp_path / ".keras", tmp_path / "cache"
    (home / "models").mkdir(parents=True)
    (home / "models" / "weights.h5").write_text("downloaded before")
    monkeypatch.setattr(keras_settings, "cache_folder", lambda: cache)
    monkeypatch.setenv("KERAS_HOME", str(home))

    def call(content="", backend="", installed=("tensorflow", "jax"), missing=frozenset()):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in {"keras", *installed} - missing or None)
        if content:
            (home / "keras.json").write_text(content if isinstance(content, str) else json.dumps(content))
        settle_keras()
        found = Path(os.environ["KERAS_HOME"])
        assert not found.exists() or (found / "models" / "weights.h5").exists()
        settings = json.loads((found / "keras.json").read_text()) if (found / "keras.json").exists() else {}
        return os.environ["KERAS_BACKEND"], settings, capsys.readouterr().err

    return call


@pytest.mark.parametrize("content", ["", {**OURS, "backend": "tensorflow"}, {"backend": "tensorflow"}])
def test_the_usual_file_changes_nothing(settle, content):
    assert settle(content) == ("tensorflow", content or {}, "")


def test_an_installed_backend_is_used(settle):
    assert settle({"backend": "jax"})[0] == "jax"
    assert settle({"backend": "jax"}, backend="tensorflow")[0] == "tensorflow"
    assert settle("{}", installed=["torch"])[::2] == (
        "torch",
        f"note: {os.environ['KERAS_HOME']}/keras.json: tensorflow is not installed; install it with: "
        'pip install -e ".[train]"; torch is used. --backend chooses another\n',
    )


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("theano", "'theano' is no backend"),
        ("numpy", "'numpy' is no backend"),
        ("torch", 'torch is not installed; install it with: pip install -e ".[torch]"'),
    ],
)
def test_one_that_cannot_be_used_is_replaced_and_told(settle, wanted, said):
    backend, _, err = settle({"backend": wanted})
    assert backend == "tensorflow"
    assert said in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"image_data_format": "channels_first"}, "image_data_format 'channels_first'"),
        ({"floatx": "float16", "epsilon": 1e-3}, "floatx 'float16' and epsilon 0.001"),
        ({"floatx": "half", "image_data_format": "th"}, "floatx 'half' and image_data_format 'th'"),
        ({"epsilon": "1e-7"}, "epsilon '1e-7'"),
        ("[1]", "its text"),
        ("{broken", "its text"),
    ],
)
def test_another_layout_or_float_type_is_kept_away_from_keras(settle, content, said):
    _, settings, err = settle(content)
    assert {name: settings[name] for name in OURS} == OURS
    assert said in err


@pytest.mark.parametrize(
    ("backend", "installed", "said"),
    [
        ("theano", ["jax"], "KERAS_BACKEND: 'theano' is no backend"),
        ("torch", ["jax"], r"torch is not installed; install it with: pip install -e \"\.\[torch\]\".*--backend jax"),
        ("", [], "none of tensorflow, jax, torch is installed"),
    ],
)
def test_what_was_asked_for_and_is_missing_is_refused(settle, backend, installed, said):
    with pytest.raises(UserError, match=said):
        settle("", backend, installed)


def test_without_keras_no_backend_is_chosen(settle):
    with pytest.raises(UserError, match=r'^Keras is not installed; pip install "\.\[train\]" in the folder'):
        settle("", "jax", ["torch"], {"keras"})
