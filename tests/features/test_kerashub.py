"""Encoders of KerasHub: the features are those of the preset, and a bundle needs neither the preset nor a network."""

import json
import shutil
import socket
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import random_captioner
from keras import ops
from running import TINY, make_data, refused, script
from small_presets import GRID, PATCH, SIZE, SMALL, expected_grid, save_preset

from captioning.base.errors import UserError
from captioning.exports.reading import Exported
from captioning.exports.writing import write_export
from captioning.features.digests import encoder_digest
from captioning.features.encoder import build_encoder, let_learn
from captioning.features.kerashub import Recipe, refuse_oversized
from captioning.features.kerashub_presets import check_preset, scaling_of_transformers
from captioning.training.fine_tuning import PixelTrainer
from captioning.training.optimizers import make_tuning_optimizer
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner

WORDS = Vocabulary([f"word{i}" for i in range(12)])
SIZES = {"image_size": SIZE, "embedding_size": 8, "hidden_size": 8, "max_caption_length": 4, "feature_grid": 0}
PAIR = "CLIPBackbone"


def pixels(count: int = 2, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype("uint8")


def features(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(encoder(images.astype("float32"), training=False))


def tiny(encoder: str, **changes) -> Config:
    return Config(encoder=encoder, **SIZES | {"decoder": "attention"} | changes)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[str, keras.Model]:
    """The setting encoder for a preset of CLIP with both its encoders, and its backbone."""
    return save_preset(tmp_path_factory.mktemp("clip"), PAIR)


# What is no preset: named before any work -----------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named_before_the_data(tmp_path):
    for name in ("train", "preprocessing"):
        refused(
            name, "--encoder", f"kerashub:{tmp_path}/none", mentions=rf"encoder: there is no folder {tmp_path}/none"
        )


@pytest.mark.parametrize(
    ("files", "mentions"),
    [
        ({}, r"lacks config\.json"),
        ({"config.json": "{"}, r"config\.json is damaged"),
        ({"config.json": '{"a": 1}'}, r"config\.json is neither of a KerasHub preset nor"),
        ({"config.json": '{"model_type": "vit"}'}, r"lacks its weights \(model\.weights\.h5 or"),
        (
            {
                "config.json": '{"registered_name": "", "class_name": "ViTBackbone", "module": "keras_hub.models"}',
                "model.weights.h5": "",
            },
            r"lacks image_converter\.json, which says how pixels are scaled; save the ImageConverter",
        ),
        (
            {
                "config.json": '{"registered_name": "", "config": {"text": [{"class_name": "Lambda", "module": "keras"}]}}',
                "model.weights.h5": "",
            },
            r"config\.json names the class Lambda, which is none of an image encoder",
        ),
        (
            {
                "config.json": '{"registered_name": "", "class_name": "ViTBackbone", "module": "elsewhere"}',
                "model.weights.h5": "",
            },
            r"names the class ViTBackbone",
        ),
    ],
)
def test_a_folder_that_is_no_preset_is_named(tmp_path, files, mentions):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"encoder: {tmp_path}.*{mentions}|encoder: {tmp_path}/{mentions}"):
        check_preset(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"encoder": "kerashub:"}, "needs the name of a preset"),
        ({"encoder": "kerashub:a.keras"}, "leave out kerashub:"),
    ],
)
def test_settings_without_a_preset_are_refused(changes, mentions):
    with pytest.raises(ValueError, match=mentions):
        Config(**changes)


def test_an_encoder_is_called_by_its_preset_or_folder():
    assert Config(encoder="kerashub:/models/own_clip/").encoder_name == "own_clip"
    assert Config(encoder="kerashub:clip_vit_base_patch32").encoder_name == "clip_vit_base_patch32"


@pytest.mark.slow
def test_a_preset_that_does_not_exist_is_named_without_a_network(monkeypatch):
    pytest.importorskip("keras_hub")
    monkeypatch.setattr(socket.socket, "connect", None)
    with pytest.raises(
        UserError, match=r"no preset 'clip_vit_bse_patch32' .*did you mean kerashub:clip_vit_base_patch32"
    ):
        check_preset("clip_vit_bse_patch32")
    with pytest.raises(UserError, match="no preset 'bert_base_en' with an image encoder"):
        check_preset("bert_base_en")
    for name in ("clip_vit_base_patch32", "siglip2_base_patch16_224", "dinov2_small", "dinov3_vit_small_lvd1689m"):
        check_preset(name)


# Recipes of strangers -------------------------------------------------------------------------------------------------

PLAIN = {"kind": "ViTBackbone", "arguments": {"patch_size": 8}, "scale": 1.0, "offset": [0.0, 0.5, 1]}


def test_a_recipe_reads_back():
    recipe = Recipe.from_json(json.dumps(PLAIN))
    assert Recipe.from_json(recipe.to_json()) == recipe == Recipe(**PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "Lambda"},
        {"kind": "Task"},
        {"kind": "CLIPBackbone"},
        {"arguments": {"activation": {"class_name": "__lambda__", "config": {"value": "4wAA"}}}},
        {"arguments": {"patch_size": [[{"class_name": "Lambda"}]]}},
        {"arguments": {"hidden_dim": 10**9}},
        {"arguments": {"num_layers": 1000}},
        {"arguments": {"patch_size": [1] * 1000}},
        {"arguments": {"activation": "x" * 1000}},
        {"arguments": None},
        {"scale": "1"},
        {"scale": True},
        {"offset": [0.0, 0.0]},
        {"offset": None},
    ],
    ids=str,
)
def test_a_hostile_recipe_is_refused(change):
    with pytest.raises(ValueError, match=r"kind|argument|scale|offset"):
        Recipe.from_json(json.dumps(PLAIN | change))


@pytest.mark.slow
@pytest.mark.backends
def test_a_recipe_larger_than_its_weights_takes_no_memory():
    """A hundred terabytes would be asked for."""
    pytest.importorskip("keras_hub")
    arguments = {
        "image_shape": [SIZE, SIZE, 3],
        "patch_size": PATCH,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 65536,
    }
    recipe = Recipe("CLIPVisionEncoder", arguments | {"intermediate_dim": 65536}, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"holds 2,000,000 numbers, and encoder\.json needs 5\d,\d\d\d,\d\d\d,\d\d\d"):
        refuse_oversized(recipe, Config(image_size=SIZE), 2_000_000)


# Features -------------------------------------------------------------------------------------------------------------

QUICK = {PAIR}


@pytest.mark.backends
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow if kind in QUICK else pytest.mark.weekly)
        for kind, (_, _, converter) in SMALL.items()
        if converter
    ],
)
def test_features_are_those_of_the_preset(kind, tmp_path):
    """Pixels are scaled as the preset's ImageConverter does, and class tokens and registers are left out."""
    pytest.importorskip("keras_hub")
    name, model = save_preset(tmp_path / "preset", kind)
    encoder = build_encoder(tiny(name))
    expected = expected_grid(model, kind, pixels())
    found = features(encoder, pixels())
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert not encoder.trainable_weights
    made = random_captioner(tiny(name), WORDS)
    made.save(tmp_path / "captioner.zip")
    shutil.rmtree(tmp_path / "preset")
    read = Captioner.load(tmp_path / "captioner.zip")
    np.testing.assert_array_equal(features(read.encoder, pixels()), features(made.encoder, pixels()))
    assert encoder_digest(read.encoder, name) == encoder_digest(encoder, name)


def test_pixels_of_a_checkpoint_of_transformers_are_scaled_as_it_says(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.2, 0.1], "rescale_factor": 0.01}')
    scale, offset = scaling_of_transformers(path)
    expected = (np.float64([100, 50, 0]) * 0.01 - [0.5, 0.4, 0.3]) / [0.5, 0.2, 0.1]
    np.testing.assert_allclose(np.float64([100, 50, 0]) * scale + offset, expected)
    path.write_text('{"do_normalize": false, "do_rescale": false}')
    assert scaling_of_transformers(path) == (1.0, 0.0)


def save_checkpoint(folder: Path) -> None:
    """A tiny ViT with random weights in the layout of Transformers."""
    numpy = pytest.importorskip("safetensors.numpy")
    shapes = {
        "embeddings.patch_embeddings.projection.weight": (8, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (8,),
        "embeddings.cls_token": (1, 1, 8),
        "embeddings.position_embeddings": (1, GRID * GRID + 1, 8),
    }
    dense = {f"attention.attention.{part}": (8, 8) for part in ("query", "key", "value")}
    dense |= {"attention.output.dense": (8, 8), "intermediate.dense": (16, 8), "output.dense": (8, 16)}
    for name, shape in dense.items():
        shapes |= {f"encoder.layer.0.{name}.weight": shape, f"encoder.layer.0.{name}.bias": shape[:1]}
    for norm in ("encoder.layer.0.layernorm_before", "encoder.layer.0.layernorm_after", "layernorm"):
        shapes |= {f"{norm}.{part}": (8,) for part in ("weight", "bias")}
    rng = np.random.default_rng(0)
    weights = {f"vit.{name}": rng.normal(0, 0.3, shape).astype("float32") for name, shape in shapes.items()}
    numpy.save_file(weights, folder / "model.safetensors")
    sizes = {
        "image_size": SIZE,
        "patch_size": PATCH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": 8,
    }
    rates = {"intermediate_size": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "qkv_bias": True}
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"} | sizes | rates))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')


@pytest.mark.weekly
def test_a_checkpoint_of_transformers_is_an_encoder(tmp_path):
    hub = pytest.importorskip("keras_hub")
    save_checkpoint(tmp_path)
    found = features(build_encoder(tiny(f"kerashub:{tmp_path}")), pixels())
    model = hub.models.ViTBackbone.from_preset(str(tmp_path))
    expected = ops.convert_to_numpy(model(ops.convert_to_tensor(pixels() / np.float32(127.5) - 1)))[:, 1:]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.weekly
def test_regions_are_pooled_as_those_of_other_encoders(clip):
    name, model = clip
    grid = expected_grid(model, PAIR, pixels()).reshape(2, GRID, GRID, -1)
    found = features(build_encoder(tiny(name, feature_grid=2)), pixels())
    np.testing.assert_allclose(found[:, 0], grid[:, : GRID // 2, : GRID // 2].mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.weekly
def test_sizes_that_an_encoder_cannot_take_are_named(clip, tmp_path):
    with pytest.raises(
        UserError, match=f"image_size: kerashub:.* {SIZE} pixels and takes no other .*--image-size {SIZE}$"
    ):
        build_encoder(tiny(clip[0], image_size=2 * SIZE))
    name, _ = save_preset(tmp_path, "DINOV2Backbone")
    with pytest.raises(
        UserError, match=r"patches of 8 x 8 pixels, and 44 is no multiple of 8; set --image-size 40 or 48"
    ):
        build_encoder(tiny(name, image_size=44))
    assert build_encoder(tiny(name, image_size=40)).output_shape == (None, 25, 8)


@pytest.mark.weekly
def test_the_digest_covers_how_pixels_are_scaled(clip, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(clip[0].removeprefix("kerashub:"), folder)
    path = folder / "image_converter.json"
    path.write_text(path.read_text().replace("0.0157", "0.0158"))
    one, other = (build_encoder(tiny(name)) for name in (clip[0], f"kerashub:{folder}"))
    assert encoder_digest(one, clip[0]) != encoder_digest(other, clip[0])


# Learning -------------------------------------------------------------------------------------------------------------


def tune(captioner: Captioner, layers: int) -> set[str]:
    """The paths of the encoder's weights that a step of fine-tuning its last ``layers`` layers changes."""
    config = captioner.config.with_overrides(
        {"stage": "finetune", "init": "run", "tuned_layers": layers, "clip_norm": 0}
    )
    learning = let_learn(captioner.encoder, layers)
    trainer = PixelTrainer(captioner.encoder, captioner.decoder)
    # Tracing a graph of all this takes longer than one step.
    trainer.compile(optimizer=make_tuning_optimizer(config, 1, learning), run_eagerly=True)
    before = [ops.convert_to_numpy(weight) for weight in captioner.encoder.weights]
    tokens = np.asarray([[1, 4, 5], [1, 6, 7]], "int32")
    trainer.train_on_batch((pixels(), tokens, np.asarray([0, 1], "int32")), tokens)
    after = [ops.convert_to_numpy(weight) for weight in captioner.encoder.weights]
    changed = [not np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    return {weight.path for weight, new in zip(captioner.encoder.weights, changed, strict=True) if new}


@pytest.mark.slow
def test_the_last_blocks_learn_and_the_bundle_holds_them(clip, tmp_path):
    captioner = random_captioner(tiny(clip[0]), WORDS)
    changed = tune(captioner, 2)
    assert {block for block in range(3) if any(f"encoder_block_{block}/" in path for path in changed)} == {1, 2}
    assert all("encoder_block_" in path for path in changed)
    captioner.save(tmp_path / "tuned.zip")
    read = Captioner.load(tmp_path / "tuned.zip")
    np.testing.assert_array_equal(features(read.encoder, pixels()), features(captioner.encoder, pixels()))


@pytest.mark.weekly
@pytest.mark.backends
@pytest.mark.parametrize("kind", ["SigLIPBackbone", "DINOV2Backbone", "DINOV3Backbone", "ViTBackbone", "DeiTBackbone"])
def test_all_blocks_learn_and_the_bundle_holds_them(kind, tmp_path):
    name, _ = save_preset(tmp_path / "preset", kind)
    captioner = random_captioner(tiny(name), WORDS)
    with pytest.raises(UserError, match=r"tuned_layers: 9 asked for, and the encoder has 4 layers with a kernel"):
        let_learn(captioner.encoder, 9)  # the embedding of patches, and three blocks
    assert len(let_learn(captioner.encoder, 1)) >= 8
    assert len(tune(captioner, 0)) > 30
    captioner.save(tmp_path / "tuned.zip")
    read = Captioner.load(tmp_path / "tuned.zip")
    np.testing.assert_array_equal(features(read.encoder, pixels()), features(captioner.encoder, pixels()))


@pytest.mark.weekly
@pytest.mark.backends
def test_batch_norms_within_blocks_stay_as_they_are(tmp_path):
    name, _ = save_preset(tmp_path, "EfficientNetBackbone")
    encoder = build_encoder(tiny(name))
    assert not {weight.name for weight in let_learn(encoder, 0)} & {"gamma", "beta", "moving_mean"}


# Bundles and exports --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bundle_holds_recipe_and_weights_of_the_image_encoder_alone(clip, tmp_path):
    made = random_captioner(tiny(clip[0]), WORDS)
    made.save(tmp_path / "captioner.zip")
    with zipfile.ZipFile(tmp_path / "captioner.zip") as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    assert set(members) == {
        *("bundle.json", "config.json", "vocabulary.json"),
        *("decoder.weights.h5", "encoder.json", "encoder.weights.h5"),
    }
    about, recipe = json.loads(members["bundle.json"]), json.loads(members["encoder.json"])
    assert about["format"] == 3
    assert recipe["kind"] == "CLIPVisionEncoder"
    # Without the recipe the preset that a stranger names is not looked for.
    del members["encoder.json"], about["sha256"]["encoder.json"]
    with zipfile.ZipFile(tmp_path / "without.zip", "w") as bundle:
        for name, content in (members | {"bundle.json": json.dumps(about)}).items():
            bundle.writestr(name, content)
    with pytest.raises(UserError, match=r"without\.zip: damaged.*encoder\.json is missing"):
        Captioner.load(tmp_path / "without.zip")


@pytest.mark.weekly
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made under TensorFlow")
@pytest.mark.parametrize(
    "kind", [PAIR, "SigLIPBackbone", "DINOV2Backbone", "DINOV3Backbone", "ViTBackbone", "DeiTBackbone"]
)
@pytest.mark.parametrize("form", ["onnx", "savedmodel", "litert"])
def test_exports_give_the_same_captions(kind, form, tmp_path):
    pytest.importorskip("onnxruntime")
    name, _ = save_preset(tmp_path / "preset", kind)
    captioner = random_captioner(tiny(name), WORDS)
    write_export(captioner, captioner.config, form, tmp_path / form)
    exported = Exported(tmp_path / form)
    captions = captioner.caption(captioner.encode(pixels(1)))[0]
    assert exported.captions(pixels(1)[0]) == [caption.text for caption in captions]
    assert exported(pixels(1))["log_probs"][0, 0] == pytest.approx(captions[0].log_prob, rel=2e-3)


@pytest.mark.weekly
def test_a_run_goes_from_a_preset_to_captions(clip, tmp_path):
    """Training, fine-tuning of the last block, and captions when the preset is gone."""
    folder = tmp_path / "preset"
    shutil.copytree(clip[0].removeprefix("kerashub:"), folder)
    data = [*make_data(tmp_path / "data"), "--run-dir", str(tmp_path / "runs"), "--epochs", "1", "--no-tensorboard"]
    options = [*TINY, "--encoder", f"kerashub:{folder}", "--decoder", "attention", "--feature-grid", "0"]
    assert script("train", *data, *options, "--name", "first").status == 0
    shutil.rmtree(folder)
    tuning = ["--stage", "finetune", "--init", str(tmp_path / "runs" / "first"), "--tuned-layers", "1"]
    assert script("train", *data, *tuning, "--name", "tuned").status == 0
    picture = next((tmp_path / "data" / "pictures").iterdir())
    outcome = script("test", picture, "--model", str(tmp_path / "runs" / "tuned"))
    assert (outcome.status, len(outcome.out.splitlines())) == (0, 1)
