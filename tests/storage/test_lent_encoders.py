"""Towers that leave their encoder to another file: what is shared, what is checked, and what is said when it is gone."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import save_encoder

from captioning.base.errors import UserError
from captioning.features.encoder import build_encoder
from captioning.features.weight_files import save_weights_float16
from captioning.retrieval.aligner import Aligner
from captioning.storage.members import settings_of
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner
from tools import halve_bundle

WORDS = Vocabulary(["a", "red", "dog"])
SIZES = {"embedding_size": 6, "hidden_size": 6}
ALIGN = {"stage": "align", "monitor": "recall", "joint_size": 16, "image_size": 32, **SIZES}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


class Pair:
    """A captioner at half its size, and towers with the same encoder, which nobody has rounded."""

    def __init__(self, folder: Path, encoder: str):
        keras.utils.set_random_seed(0)
        # The captioner sees its pictures larger, and over a coarser grid.
        eyes = {"encoder": encoder} | ({} if encoder.endswith(".keras") else {"encoder_weights": "none"})
        settings = Config(**eyes, decoder="merge", image_size=64, feature_grid=1, **SIZES)
        self.aligned = Config(**eyes, feature_grid=0, **ALIGN)
        whole = build_encoder(self.aligned)
        self.aligner = Aligner.untrained(self.aligned, WORDS, whole)
        larger = build_encoder(settings)
        larger.set_weights(whole.get_weights())
        self.captioner = folder / "pocket.zip"
        Captioner.untrained(settings, WORDS, larger).save(self.captioner, half=True)
        self.folder = folder

    def save(self, name: str = "search.zip") -> Path:
        self.aligner.save(self.folder / name, half=True, lender=self.captioner)
        return self.folder / name


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Pair:
    """With an encoder that is known by name."""
    return Pair(tmp_path_factory.mktemp("named"), "mobilenet")


@pytest.fixture
def saved(tmp_path) -> Pair:
    """With an encoder that is a saved Keras model, which is small."""
    return Pair(tmp_path, save_encoder(tmp_path / "encoder.keras"))


def members(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as bundle:
        return set(bundle.namelist())


@pytest.mark.slow
def test_towers_look_through_the_captioners_encoder(named):
    path = named.save()
    assert members(path) == {"bundle.json", "config.json", "vocabulary.json", "towers.weights.h5"}
    assert path.stat().st_size < 0.1 * named.captioner.stat().st_size
    loaded = Aligner.load(path)
    lent = Captioner.load(named.captioner)
    assert all(
        np.array_equal(a, b) for a, b in zip(loaded.encoder.get_weights(), lent.encoder.get_weights(), strict=True)
    )
    found, wanted = loaded.embed_pixels(PIXELS), named.aligner.embed_pixels(PIXELS)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=0.02)  # weights are rounded


def test_a_saved_model_is_shared_too(saved):
    loaded = Aligner.load(saved.save())
    np.testing.assert_allclose(loaded.embed_pixels(PIXELS), saved.aligner.embed_pixels(PIXELS), atol=0.01)


def test_both_files_can_be_moved_together(saved, tmp_path):
    saved.save()
    (tmp_path / "elsewhere").mkdir()
    for name in ("search.zip", "pocket.zip"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    Aligner.load(tmp_path / "elsewhere" / "search.zip")


@pytest.mark.slow
def test_a_weights_file_lends_its_encoder(named, tmp_path):
    weights, path = tmp_path / "weights" / "lite0.weights.h5", tmp_path / "pretrained" / "search.zip"
    weights.parent.mkdir()
    path.parent.mkdir()
    save_weights_float16(named.aligner.encoder, weights)
    named.aligner.save(path, half=True, lender=weights)
    with zipfile.ZipFile(path) as bundle:
        about = json.loads(bundle.read("bundle.json"))
    assert about["format"] == 2
    assert about["encoder"]["file"] == "../weights/lite0.weights.h5"
    np.testing.assert_allclose(Aligner.load(path).embed_pixels(PIXELS), named.aligner.embed_pixels(PIXELS), atol=0.02)
    weights.write_bytes(b"text")
    with pytest.raises(UserError, match=r"search\.zip: uses the encoder of .*lite0\.weights\.h5, which cannot be read"):
        Aligner.load(path)


def test_another_encoder_in_that_file_is_refused(saved, tmp_path):
    path = saved.save()
    kept = Captioner.load(saved.captioner)
    kept.encoder.set_weights([weight + 1 for weight in kept.encoder.get_weights()])
    kept.save(saved.captioner)
    with pytest.raises(UserError, match=r"search\.zip: uses the encoder of .*pocket\.zip, and that file holds another"):
        Aligner.load(path)
    with pytest.raises(UserError, match=r"pocket\.zip: holds another encoder than the one that these towers"):
        saved.save("anew.zip")
    assert not (tmp_path / "anew.zip").exists()
    saved.captioner.write_bytes(b"text")
    with pytest.raises(UserError, match=r"search\.zip: uses the encoder of .*, which cannot be read\. .*not a bundle"):
        Aligner.load(path)
    saved.captioner.unlink()
    with pytest.raises(
        UserError, match=r"search\.zip: has no encoder of its own .*pocket\.zip, and there is no such file"
    ):
        Aligner.load(path)


def test_an_encoder_of_another_family_is_refused(saved, named, tmp_path):
    path = saved.save()
    shutil.copyfile(named.captioner, saved.captioner)
    with pytest.raises(UserError, match="that file holds another encoder"):
        Aligner.load(path)
    with pytest.raises(UserError, match="holds another encoder than the one that these towers"):
        saved.save("anew.zip")


def test_the_tool_halves_both_kinds(saved, tmp_path, monkeypatch, capsys):
    def tool(*arguments):
        monkeypatch.setattr(sys, "argv", ["halve_bundle.py", *map(str, arguments)])
        halve_bundle.main()

    run = tmp_path / "run"
    run.mkdir()
    saved.aligner.save(run / "aligner.zip")
    tool(run, tmp_path / "search.zip", "--encoder-of", saved.captioner)
    assert Aligner.load(tmp_path / "search.zip").config == saved.aligned
    tool(run / "aligner.zip", tmp_path / "own.zip")
    assert "encoder.keras" in members(tmp_path / "own.zip")
    tool(saved.captioner, tmp_path / "again.zip", "--length-penalty", "0.5")
    assert settings_of(tmp_path / "again.zip", "captioner").length_penalty == 0.5
    assert "search.zip: 0." in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--encoder-of: .* is a captioner"):
        tool(saved.captioner, tmp_path / "no.zip", "--encoder-of", saved.captioner)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="nothing: holds no trained model"):
        tool(tmp_path / "nothing", tmp_path / "no.zip")
