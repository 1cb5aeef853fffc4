"""The command ``caption``: it does what test.py does, checks an installation, and says what is missing."""

import re
import sys
from argparse import Namespace

import pytest
from helpers import ROOT
from running import script

from captioning.base import keras_settings
from captioning.base.errors import UserError
from captioning.base.trained import fingerprint
from captioning.command_line.options import make_parser
from captioning.exports.runtime import OWN_OPTIONS, add_runtime, load_captioner
from captioning.installed import check, entry
from captioning.storage.members import opened, settings_of
from config import POCKET


@pytest.fixture
def caption(monkeypatch, capsys):
    """``caption(*words)`` runs the command in this process. It gives the exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "test", raising=False)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/caption", *words])
        with pytest.raises(SystemExit) as left:
            entry.main()
        monkeypatch.delitem(sys.modules, "test", raising=False)
        return (left.value.code or 0, *capsys.readouterr())

    return call


def test_it_has_all_options_of_test_py(caption):
    status, out, _ = caption("--help")
    assert status == 0
    expected = script("test", "--help").out
    assert set(re.findall(r"--[a-z-]+", out)) == set(re.findall(r"--[a-z-]+", expected))
    assert "    caption photo.jpg " in out
    assert "test.py" not in out


def test_check_names_what_is_there_and_captions_a_picture(caption):
    pytest.importorskip("onnxruntime")
    status, out, err = caption("check")
    assert (status, err) == (0, "")
    found = dict(line.split(":", 1) for line in out.splitlines())
    assert {"version", "processor", "runtime", "keras", "captioner", "caption"} <= set(found)
    assert str(POCKET) in found["captioner"]
    assert fingerprint(POCKET)[:16] in found["captioner"]
    assert re.search(r"'a [a-z ]+', of sign.jpg", found["caption"])
    assert check.PICTURE.stat().st_size < 10_000


def test_check_says_what_is_missing(caption, monkeypatch, tmp_path):
    status, _, err = caption("check", "--model", str(tmp_path / "none.zip"))
    assert status == 2
    assert re.match(r"error: captioner: .*none\.zip: there is no such", err)
    monkeypatch.setattr(check, "PICTURE", tmp_path / "none.jpg")
    status, _, err = caption("check")
    assert status == 2
    assert re.match(r"error: caption: .*none\.jpg.*; install this software again", err)
    monkeypatch.setattr(check, "package_versions", dict)
    status, out, err = caption("check")
    assert (status, err) == (2, "error: runtime: ONNX Runtime is not installed; pip install onnxruntime\n")
    assert out.startswith("version:")


@pytest.mark.parametrize(
    ("typed", "views", "reason"),
    [(["--runtime", "keras"], 1, "--runtime keras"), ([], 4, "only Keras runs ensembles and --views")],
)
def test_without_keras_one_message_says_how_to_get_it(monkeypatch, typed, views, reason):
    parser = make_parser("", trained=True, own=OWN_OPTIONS)
    add_runtime(parser)
    monkeypatch.setattr(keras_settings.importlib.util, "find_spec", lambda name: None)
    said = rf'^{re.escape(reason)}: Keras is not installed; pip install "\.\[train\]" in the folder of the repository'
    with pytest.raises(UserError, match=said):
        load_captioner([POCKET], views, parser.parse_args(typed))


def test_figures_are_refused_before_anything_is_captioned_without_matplotlib(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for option in ("--pictures", "--attention"):
        outcome = script("test", "photo.jpg", option, "folder")
        assert outcome.status == 2
        assert re.match(rf"error: {option}: .*Matplotlib.*; pip install matplotlib$", outcome.err)


# The wheel ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup() -> Namespace:
    pytest.importorskip("setuptools")
    import setup

    return setup


def names(packages: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", package)[0] for package in packages}


def test_captioning_installs_no_training_framework(setup):
    captioning, training = map(names, setup.requirements())
    assert {"numpy", "pillow", "onnxruntime", "tqdm", "pydantic"} <= captioning
    assert {"tensorflow", "keras", "nltk", "matplotlib"} <= training
    assert not captioning & training
    assert not captioning & {"jax", "torch"}
    assert all(re.search(r">=.*<", package) for package in [*setup.requirements()[0], *setup.requirements()[1]])


def test_the_bundle_in_a_wheel_has_settings_and_no_weights(setup, tmp_path):
    slim = tmp_path / "pocket.zip"
    setup.write_texts(POCKET, slim)
    assert slim.stat().st_size < 100_000
    assert fingerprint(slim) == fingerprint(POCKET)
    assert settings_of(slim, "captioner") == settings_of(POCKET, "captioner")
    with pytest.raises(UserError, match=r"pocket\.zip: has no weights for Keras.*; name the bundle of the repository"):
        opened(slim, "captioner")


def test_a_wheel_has_every_file_that_captioning_reads(setup):
    files = setup.private_files()
    assert {"config.py", "test.py", "app.py", "pretrained/pocket/onnx/export.json"} <= set(files)
    assert all((ROOT / name).is_file() for name in files)
