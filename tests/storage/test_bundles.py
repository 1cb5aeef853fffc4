"""The bundle: a loaded captioner gives the same captions, no code is in it, and any damage is noticed."""

import json
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import save_encoder
from small_captioner import SIZES, captioner, pixels, save_captioner
from sure import CONFIDENCE

import model
from captioning.base.errors import UserError
from captioning.command_line.reading import read_settings
from captioning.confidence.inputs import INPUTS
from captioning.confidence.logistic import Regression
from captioning.storage import bundles
from captioning.storage.members import FORMAT, settings_of
from config import Config
from model import Captioner


def parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Captioner, Path]:
    """A captioner, and its bundle."""
    return save_captioner(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> tuple[Captioner, Path]:
    """A captioner whose encoder is known by name, and its bundle."""
    made = captioner(Config(encoder="efficientnet_lite0", encoder_weights="none", **{**SIZES, "feature_grid": 1}))
    path = tmp_path_factory.mktemp("known") / "captioner.zip"
    made.save(path)
    return made, path


@pytest.fixture
def no_keras(monkeypatch):
    """Raised once a bundle is accepted, which is before its encoder is built. Tests of damage need no more."""

    class Accepted(BaseException):
        pass

    def accept(config):
        raise Accepted

    monkeypatch.setattr(bundles, "build_encoder", accept)
    return Accepted


def assert_same(first: Captioner, second: Captioner) -> None:
    features = first.encode(pixels())
    np.testing.assert_array_equal(second.encode(pixels()), features)
    assert second.caption(features) == first.caption(features)
    assert second.config == first.config
    assert second.vocabulary.words == first.vocabulary.words


def test_a_bundle_gives_the_same_features_and_captions(saved):
    first, path = saved
    assert_same(first, Captioner.load(path))
    # This proves something, because captions differ between images and within one image.
    captions = first.caption(first.encode(pixels(8)))
    assert len({found[0].text for found in captions}) > 1
    assert all(len(found) == 3 == len({caption.text for caption in found}) for found in captions)
    assert all(found[0].score >= found[1].score >= found[2].score for found in captions)


def test_settings_are_read_without_the_weights(saved, tmp_path, no_keras):
    made, path = saved
    assert settings_of(path, "captioner") == made.config == settings_of(path.parent, "captioner")
    with pytest.raises(UserError, match="one of kind aligner is wanted"):
        settings_of(path, "aligner")
    changed = parts(path) | {"config.json": b"{}"}
    with pytest.raises(UserError, match=r"damaged: config\.json"):
        settings_of(pack(tmp_path / "captioner.zip", changed), "captioner")


def test_a_run_folder_stands_for_its_bundle(saved, no_keras):
    with pytest.raises(no_keras):
        Captioner.load(saved[1].parent)


@pytest.mark.slow
def test_an_encoder_that_is_known_by_name(known):
    first, path = known
    assert_same(first, Captioner.load(path))
    assert set(parts(path)) == {
        *("bundle.json", "config.json", "vocabulary.json"),
        *("decoder.weights.h5", "encoder.weights.h5"),
    }


def test_a_bundle_at_half_its_size(known, tmp_path):
    first, whole = known
    first.save(tmp_path / "half.zip", half=True)
    assert (tmp_path / "half.zip").stat().st_size < 0.6 * whole.stat().st_size
    second = Captioner.load(tmp_path / "half.zip")
    rounded = [weight.astype("float16") if weight.ndim > 1 else weight for weight in first.decoder.get_weights()]
    for found, wanted in zip(second.decoder.get_weights(), rounded, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "embedding",
    [
        pytest.param({"embedding": "bert-prefix"}, marks=pytest.mark.slow),
        pytest.param({"embedding": "bert-static", "embedding_trainable": True}, marks=pytest.mark.slow),
        {"embedding": "file", "embedding_file": "gone.txt"},
    ],
    ids=lambda settings: settings["embedding"],
)
def test_a_bundle_holds_its_pretrained_embedding(embedding, tmp_path, monkeypatch):
    """So it can be opened without KerasHub, without the BERT and without the file of vectors."""
    first = captioner(Config(encoder=save_encoder(tmp_path / "encoder.keras"), **SIZES, **embedding))
    first.save(tmp_path / "captioner.zip")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    assert_same(first, Captioner.load(tmp_path / "captioner.zip"))
    with zipfile.ZipFile(tmp_path / "captioner.zip") as bundle:
        assert len({info.filename for info in bundle.infolist()}) == 6
    without = {name: content for name, content in parts(tmp_path / "captioner.zip").items() if name != "embedding.npz"}
    with pytest.raises(UserError, match=r"damaged: embedding\.npz"):
        Captioner.load(pack(tmp_path / "without.zip", without))


def test_a_bundle_holds_what_it_says_and_no_pickle(saved):
    members = parts(saved[1])
    assert set(members) == {"bundle.json", "config.json", "vocabulary.json", "decoder.weights.h5", "encoder.keras"}
    about = json.loads(members["bundle.json"])
    assert about["format"] == 1
    assert set(about["sha256"]) == set(members) - {"bundle.json"}
    assert read_settings(members["config.json"].decode(), "") == saved[0].config
    assert members["decoder.weights.h5"].startswith(b"\x89HDF")
    assert members["encoder.keras"].startswith(b"PK")


def test_a_loaded_captioner_can_be_saved_again(saved, tmp_path):
    """The file of its encoder is gone by then."""
    Captioner.load(saved[1]).save(tmp_path / "again.zip")
    assert_same(saved[0], Captioner.load(tmp_path / "again.zip"))


# Damage --------------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_noticed(saved, tmp_path, no_keras):
    """Some bytes of a zip file mean nothing. Then the content must be the same."""
    content = saved[1].read_bytes()
    with zipfile.ZipFile(saved[1]) as bundle:
        infos = bundle.infolist()
        places = set(range(bundle.start_dir, len(content)))
    rng = np.random.default_rng(0)
    for info in infos:
        places |= set(range(info.header_offset, info.header_offset + 30 + len(info.filename)))
        places |= set((info.header_offset + 60 + rng.integers(0, info.compress_size, 20)).tolist())
    path = tmp_path / "damaged.zip"
    refused = 0
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= (0x01, 0x80)[place % 2]
        path.write_bytes(damaged)
        try:
            Captioner.load(path)
        except UserError as error:
            assert "damaged.zip" in str(error)  # noqa: PT017
            refused += 1
        except no_keras:
            assert parts(path) == parts(saved[1])
    assert refused > 250


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_bundle(saved, tmp_path, share):
    content = saved[1].read_bytes()
    path = tmp_path / "half.zip"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"half\.zip: .*damaged"):
        Captioner.load(path)


def test_a_member_that_is_not_what_was_written(saved, tmp_path, no_keras):
    members = parts(saved[1])
    for name in set(members) - {"bundle.json"}:
        changed = {**members, name: members[name] + b" "}
        with pytest.raises(UserError, match=f"damaged: {name}"):
            Captioner.load(pack(tmp_path / "changed.zip", changed))
        absent = {other: content for other, content in members.items() if other != name}
        with pytest.raises(UserError, match=f"damaged: {name}"):
            Captioner.load(pack(tmp_path / "absent.zip", absent))


def test_a_newer_format_asks_for_an_update(saved, tmp_path):
    members = parts(saved[1])
    about = {**json.loads(members["bundle.json"]), "format": FORMAT + 1}
    path = pack(tmp_path / "newer.zip", {**members, "bundle.json": json.dumps(about).encode()})
    with pytest.raises(UserError, match=r"newer\.zip: written by a newer release"):
        Captioner.load(path)


def test_settings_and_vocabulary_split_captions_in_one_way(tmp_path):
    made = captioner(Config(encoder=save_encoder(tmp_path / "mine.keras"), words="unicode", **SIZES))
    made.save(tmp_path / "two.zip")  # its vocabulary is of treebank
    with pytest.raises(
        UserError, match=r"two\.zip: config\.json splits .* by unicode, and vocabulary\.json by treebank"
    ):
        Captioner.load(tmp_path / "two.zip")


@pytest.mark.parametrize("about", ["", "[]", "{}", '{"format": "1", "sha256": {}}', '{"format": 1, "sha256": []}', "7"])
def test_a_foreign_zip_file(saved, tmp_path, about):
    path = pack(tmp_path / "foreign.zip", {**parts(saved[1]), "bundle.json": about.encode()})
    with pytest.raises(UserError, match=r"foreign\.zip"):
        Captioner.load(path)
    with pytest.raises(UserError, match=r"foreign\.zip"):
        Captioner.load(pack(path, {"photo.jpg": b"..."}))


def test_a_bundle_without_its_parts(tmp_path):
    path = pack(tmp_path / "empty.zip", {"bundle.json": b'{"format": 1, "sha256": {}}'})
    with pytest.raises(UserError, match=r"empty\.zip"):
        Captioner.load(path)


def test_a_missing_bundle(tmp_path):
    for path in (tmp_path, tmp_path / "absent.zip"):
        with pytest.raises(UserError, match="there is no such captioner"):
            Captioner.load(path)


@pytest.mark.parametrize("failing", ["save_weights", "zip", "replace"])
def test_a_failed_save_leaves_the_old_bundle_and_nothing_else(saved, tmp_path, monkeypatch, failing):
    made, path = saved[0], tmp_path / "captioner.zip"
    path.write_bytes(b"the old one")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    target = {
        "save_weights": (type(made.decoder), "save_weights"),
        "zip": (zipfile.ZipFile, "write"),
        "replace": (os, "replace"),
    }[failing]
    monkeypatch.setattr(*target, fail)
    with pytest.raises((OSError, UserError)):
        made.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"the old one"
    assert {entry.name for entry in tmp_path.iterdir()} == {"captioner.zip"}
    made.save(path)
    assert set(parts(path)) == set(parts(saved[1]))


# Confidence ----------------------------------------------------------------------------------------------------------


def test_a_confidence_is_added_to_a_bundle_and_nothing_else_changes(saved, tmp_path):
    path = tmp_path / "captioner.zip"
    path.write_bytes(saved[1].read_bytes())
    before = parts(path)
    for confidence in (CONFIDENCE, replace(CONFIDENCE, unsure_below=0.7)):  # the second takes the place of the first
        with bundles.changing(tmp_path, "captioner") as folder:
            confidence.save(folder)
        after = parts(path)
        assert {name: after[name] for name in before if name != "bundle.json"} == {
            name: content for name, content in before.items() if name != "bundle.json"
        }
        assert set(after) - set(before) == {"confidence.json", "confidence.npz"}
        loaded = Captioner.load(path)
        assert loaded.confidence.unsure_below == confidence.unsure_below
    assert Captioner.load(path, with_confidence=False).confidence is None
    assert {entry.name for entry in tmp_path.iterdir()} == {"captioner.zip"}
    features = loaded.encode(pixels())
    plain = saved[0].caption(saved[0].encode(pixels()))
    assert [[c.text for c in found] for found in loaded.caption(features)] == [[c.text for c in f] for f in plain]


def test_a_confidence_that_reads_missing_visual_concepts_is_named(saved, tmp_path):
    path = tmp_path / "captioner.zip"
    path.write_bytes(saved[1].read_bytes())
    weights = np.zeros(len(INPUTS["concepts"]))
    regression = Regression(weights, weights + 1, weights, bias=0.0)
    with bundles.changing(tmp_path, "captioner") as folder:
        replace(CONFIDENCE, inputs="concepts", regression=regression).save(folder)
    with pytest.raises(UserError, match=r"captioner\.zip: its confidence reads visual concepts, .*--fit-confidence"):
        Captioner.load(path)
    assert Captioner.load(path, with_confidence=False).confidence is None


@pytest.mark.parametrize("half", [False, True])
def test_a_captioner_keeps_its_confidence_when_it_is_saved(saved, tmp_path, half):
    sure = Captioner(saved[0].config, saved[0].vocabulary, saved[0].encoder, saved[0].decoder)
    sure.confidence = CONFIDENCE
    sure.save(tmp_path / "captioner.zip", half)
    assert Captioner.load(tmp_path / "captioner.zip").confidence.fitted == CONFIDENCE.fitted


def test_a_bundle_that_cannot_be_changed_stays_as_it_was(saved, tmp_path, monkeypatch):
    path = tmp_path / "captioner.zip"
    path.write_bytes(saved[1].read_bytes())

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with (
        pytest.raises(UserError, match=r"captioner\.zip: cannot be written \(No space left on device\)"),
        bundles.changing(path, "captioner") as folder,
    ):
        (folder / "confidence.json").write_text("{}")
    monkeypatch.undo()
    assert path.read_bytes() == saved[1].read_bytes()
    assert {entry.name for entry in tmp_path.iterdir()} == {"captioner.zip"}


def test_weights_of_another_release_are_named(saved, monkeypatch):
    build = model.build_decoder
    monkeypatch.setattr(
        model, "build_decoder", lambda config, *sizes: build(config.with_overrides({"hidden_size": 9}), *sizes)
    )
    with pytest.raises(UserError, match=r"captioner\.zip: its weights do not fit"):
        Captioner.load(saved[1])
