"""The order of sources holds, a stage changes what it should, and what is fixed stays."""

import argparse
import os
import zipfile

import pytest

from captioning.base.errors import UserError
from captioning.base.settings import own_fields
from captioning.command_line import resolving
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import (
    fixed_settings,
    preset,
    refuse_variety,
    resolve,
    resolve_resumed,
    resolve_trained,
    resumable_settings,
    settings_of_stages,
)
from config import STAGE_CHANGES, Config, DataSettings, DecodingSettings, MachineSettings


def typed(*arguments: str, trained: bool = False) -> argparse.Namespace:
    return make_parser("", trained).parse_args(arguments)


def test_the_command_line_is_read_as_text():
    settings = resolve(typed("--epochs", "3", "--dropout", "0", "--no-tensorboard", "--download-urls", "a,b"))
    assert (settings.epochs, settings.dropout, settings.tensorboard) == (3, 0.0, False)
    assert settings.download_urls == ("a", "b")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", "many"),
        ("--epochs", "2.5"),
        ("--epochs", ""),
        ("--beam-size", "0"),
        ("--beam-size", "-1"),
        ("--learning-rate", "0"),
        ("--learning-rate", "nan"),
        ("--dropout", "1"),
        ("--image-size", "16"),
        ("--decoder", "Merge"),
        ("--backend", "theano"),
        ("--dataset", "imagenet"),
        ("--coco-year", "2015"),
        ("--vocab-threshold", "0"),
    ],
)
def test_a_bad_value_on_the_command_line_is_named(option, value):
    with pytest.raises(UserError) as caught:
        resolve(typed(option, value))
    assert f"the command line:\n  {option[2:].replace('-', '_')}: " in str(caught.value)


def test_unknown_preset():
    with pytest.raises(UserError, match="preset: there is no 'demi'; choose from demo, "):
        resolve(typed("--preset", "demi"))


def test_command_line_over_file_over_preset(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"vocab_threshold": 3, "epochs": 4}')
    settings = resolve(typed("--preset", "demo", "--config", str(file), "--epochs", "5"))
    assert settings.dataset == "demo"  # from the preset
    assert settings.vocab_threshold == 3  # from the file, over the preset's
    assert settings.epochs == 5  # from the command line, over the file's
    assert settings.batch_size == Config().batch_size


def test_a_file_on_the_command_line_must_have_the_right_types_too(tmp_path):
    (tmp_path / "mine.json").write_text('{"epochs": "4"}')
    with pytest.raises(UserError, match=r"mine\.json:\n  epochs: "):
        resolve(typed("--config", str(tmp_path / "mine.json")))


def test_a_conflict_between_sources_is_refused(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"optimizer": "adamw", "weight_decay": 0.01}')
    with pytest.raises(UserError, match="weight_decay: it is read only with optimizer=adamw, and optimizer is sgd"):
        resolve(typed("--config", str(file), "--optimizer", "sgd"))


def test_a_missing_settings_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: cannot read"):
        resolve(typed("--config", str(tmp_path / "absent.json")))


def test_a_settings_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"data_dir": "caf\xe9"}')
    with pytest.raises(UserError, match=r"latin\.json: "):
        resolve(typed("--config", str(tmp_path / "latin.json")))


def test_captions_file_can_be_unset_on_the_command_line():
    trained = Config(dataset="folder", captions_file="c.csv")
    args = typed("--dataset", "flickr8k", "--captions-file", "none", trained=True)
    assert resolve_trained(args, trained).captions_file is None


# Less those that need more than one word to change.
@pytest.mark.parametrize(
    "name",
    sorted(
        fixed_settings()
        - {"mirror", "tensorboard", "weight_decay", "extend_vocabulary"}
        - {"attention_penalty", "attention_size", "heads", "layers", "memory_slots"}
        - {"bert", "embedding_file", "embedding_trainable", "untied_output"}
        - {"stage", *settings_of_stages()}
    ),
)
def test_a_trained_captioner_refuses_what_training_fixed(name):
    other = {
        "encoder": "vgg16",
        "encoder_weights": "none",
        "feature_dtype": "float32",
        "decoder": "merge",
        "dropout": "0",
        "embedding": "bert-prefix",
        "ema_decay": "0.5",
        "label_smoothing": "0.5",
        "monitor": "loss",
        "word_dropout": "0.5",
        "optimizer": "sgd",
        "precision": "bfloat16",
        "unknown_limit": "0.5",
        "schedule": "cosine",
        "vocabulary": "wordpieces",
        "words": "unicode",
    }
    args = typed("--" + name.replace("_", "-"), other.get(name, "32"), trained=True)
    with pytest.raises(UserError, match=f"^{name}: the model was trained with "):
        resolve_trained(args, Config())


def test_init_brings_the_settings_of_its_run_and_the_stage_changes_them(tmp_path):
    trained = Config(embedding_size=8, label_smoothing=0.1, learning_rate=0.01, accumulate=2)
    (tmp_path / "config.json").write_text(trained.to_json())
    settings = resolve(typed("--stage", "scst", "--init", str(tmp_path), "--epochs", "3"))
    assert (settings.stage, settings.embedding_size, settings.epochs) == ("scst", 8, 3)
    assert (settings.label_smoothing, settings.learning_rate) == (0.0, STAGE_CHANGES["scst"]["learning_rate"])
    assert resolve(typed("--init", str(tmp_path))).label_smoothing == 0.1
    tuned = trained.with_overrides({"stage": "finetune", "init": "earlier", "crop": 0.5, "tuned_layers": 10})
    (tmp_path / "config.json").write_text(tuned.to_json())
    settings = resolve(typed("--stage", "scst", "--init", str(tmp_path)))
    assert (settings.stage, settings.crop) == ("scst", Config().crop), "what only fine-tuning reads is forgotten"
    cropped = trained.with_overrides({"crops": 2, "crop": 0.5, "erase": 0.2})
    (tmp_path / "config.json").write_text(cropped.to_json())
    for stage, crops in (("scst", 2), ("finetune", 0)):
        settings = resolve(typed("--stage", stage, "--init", str(tmp_path)))
        assert (settings.crops, settings.crop, settings.erase) == (crops, 0.5, 0.2), "both stages crop"
    settings = resolve(typed("--stage", "scst", "--init", str(tmp_path), "--crops", "0"))
    assert (settings.crops, settings.crop) == (0, Config().crop)
    (tmp_path / "config.json").write_text(trained.to_json())
    settings = resolve(typed("--stage", "finetune", "--init", str(tmp_path), "--epochs", "3"))
    assert (settings.tuned_layers, settings.encoder_learning_rate, settings.learning_rate) == (0, 3e-4, 5e-4)
    assert (settings.batch_size, settings.ema_decay, settings.epochs) == (60, 0.99, 3)
    with pytest.raises(UserError, match=r"--init: embedding_size, encoder cannot change"):
        resolve(typed("--init", str(tmp_path), "--embedding-size", "9", "--encoder", "vgg16"))
    with pytest.raises(UserError, match=r"--init: .* leave out --preset"):
        resolve(typed("--init", str(tmp_path), "--preset", "demo"))
    with pytest.raises(UserError, match=r"nowhere: there is no such file or folder"):
        resolve(typed("--init", str(tmp_path / "nowhere")))


def test_init_takes_a_bundle_and_may_extend_its_vocabulary(tmp_path):
    with zipfile.ZipFile(tmp_path / "pocket.zip", "w") as bundle:
        bundle.writestr("config.json", Config(embedding_size=8, init="runs/a", extend_vocabulary=True).to_json())
    bundle = ["--init", str(tmp_path / "pocket.zip")]
    settings = resolve(typed(*bundle))
    assert (settings.embedding_size, settings.init, settings.extend_vocabulary) == (8, bundle[1], False)
    settings = resolve(typed(*bundle, "--extend-vocabulary", "--vocab-threshold", "2"))
    assert (settings.extend_vocabulary, settings.vocab_threshold) == (True, 2)
    with pytest.raises(UserError, match=r"--init: vocab_threshold cannot change"):
        resolve(typed(*bundle, "--vocab-threshold", "2"))
    with pytest.raises(UserError, match=r"extend_vocabulary: stage=scst does not use it"):
        resolve(typed(*bundle, "--stage", "scst", "--extend-vocabulary"))
    with pytest.raises(UserError, match=r"extend_vocabulary: it is read only with init"):
        resolve(typed("--extend-vocabulary"))


def test_align_has_settings_of_its_own_over_a_preset_or_a_run(tmp_path):
    settings = resolve(typed("--stage", "align", "--preset", "demo", "--epochs", "3"))
    assert (settings.dataset, settings.feature_grid, settings.epochs) == ("demo", 3, 3)
    assert (settings.monitor, settings.image_scale) == ("recall", 1.0)
    assert settings.hidden_size == STAGE_CHANGES["align"]["hidden_size"]
    wanted = preset("flickr8k-align")
    assert resolve(typed("--stage", "align", "--preset", "flickr8k-align")) == wanted
    trained = Config(decoder="attention", feature_grid=0, attention_size=8, label_smoothing=0.1, embedding_size=9)
    (tmp_path / "config.json").write_text(trained.to_json())
    settings = resolve(typed("--stage", "align", "--init", str(tmp_path), "--embedding-size", "7"))
    assert (settings.feature_grid, settings.decoder, settings.embedding_size) == (0, Config().decoder, 7)
    for vocabulary, bert in (("wordpieces", "folder"), ("words", Config().bert)):
        trained = Config(
            decoder="attention", feature_grid=0, embedding="bert-static", bert="folder", vocabulary=vocabulary
        )
        (tmp_path / "config.json").write_text(trained.to_json())
        assert resolve(typed("--stage", "align", "--init", str(tmp_path))).bert == bert
    with pytest.raises(UserError, match=r"--init: encoder, vocab_threshold cannot change"):
        resolve(typed("--stage", "align", "--init", str(tmp_path), "--encoder", "vgg16", "--vocab-threshold", "2"))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("transformer", {"decoder": "transformer", "feature_grid": 0, "hidden_size": 16, "heads": 2}),
        ("m2", {"decoder": "m2", "feature_grid": 0, "hidden_size": 16, "heads": 2}),
        ("bert-prefix", {"embedding": "bert-prefix"}),
    ],
)
def test_what_was_built_for_a_length_cannot_outgrow_it(kind, settings, tmp_path):
    trained = Config(max_caption_length=12, **settings)
    assert resolve_trained(typed("--max-caption-length", "9", trained=True), trained).max_caption_length == 9
    with pytest.raises(UserError, match=f"^max_caption_length: this {kind} was built for 12 words"):
        resolve_trained(typed("--max-caption-length", "13", trained=True), trained)
    (tmp_path / "config.json").write_text(trained.to_json())
    with pytest.raises(UserError, match=f"^max_caption_length: this {kind} was built for 12 words"):
        resolve(typed("--init", str(tmp_path), "--max-caption-length", "13"))


def test_a_trained_captioner_takes_other_decoding_settings_and_places():
    trained = Config(embedding_size=8, beam_size=2)
    args = typed("--beam-size", "5", "--feature-dir", "f", "--embedding-size", "8", trained=True)
    settings = resolve_trained(args, trained)
    assert (settings.beam_size, settings.feature_dir, settings.embedding_size) == (5, "f", 8)


def test_a_run_goes_on_with_other_places_and_another_length():
    begun = Config(epochs=3, batch_size=8)
    settings = resolve_resumed(typed("--epochs", "5", "--data-dir", "d"), begun)
    assert (settings.epochs, settings.data_dir, settings.batch_size) == (5, "d", 8)
    with pytest.raises(
        UserError, match=r"--resume: batch_size, seed cannot change now; only backend, data_dir, devices,"
    ):
        resolve_resumed(typed("--seed", "1", "--batch-size", "8"), begun)


def test_when_each_setting_may_change():
    model = {
        "encoder",
        "encoder_weights",
        "image_size",
        "feature_grid",
        "feature_dtype",
        "vocabulary",
        "words",
        "vocab_threshold",
    }
    decoder = {
        "decoder",
        "embedding",
        "embedding_size",
        "embedding_file",
        "embedding_trainable",
        "bert",
        "untied_output",
    }
    decoder |= {"hidden_size", "image_scale", "attention_size", "layers", "heads", "memory_slots"}
    free = {*own_fields(DataSettings), *own_fields(MachineSettings), *own_fields(DecodingSettings)}
    free |= {"features", "feature_dir", "extract_batch_size", "max_caption_length"}
    assert fixed_settings("model") == model
    assert fixed_settings("decoder") == decoder
    assert fixed_settings() == set(Config.model_fields) - free
    places = {"retrieval_aligner", "backend", "data_dir", "devices", "feature_dir", "features", "workers"}
    assert set(resumable_settings()) == places | {"epochs", "patience", "sample_captions", "tensorboard"}


def test_a_beam_beside_draws_is_refused_where_somebody_typed_it():
    trained = Config(beam_size=5)  # which a captioner brings along
    assert resolve_trained(typed("--do-sample", "--num-captions", "9", trained=True), trained).num_captions == 9
    with pytest.raises(UserError, match="beam_size: do_sample draws captions and keeps no beam"):
        resolve_trained(typed("--do-sample", "--beam-size", "9", trained=True), trained)


def test_what_some_scripts_cannot_do_has_a_way_out():
    for settings, way in (({"do_sample": True}, "--no-do-sample"), ({"beam_groups": 3}, "--beam-groups 1")):
        with pytest.raises(UserError, match=f"{next(iter(settings))}: a page is plain; leave it out, or give {way}"):
            refuse_variety(Config(**settings), "a page is plain", "do_sample", "beam_groups")
    refuse_variety(Config(), "a page is plain", "do_sample", "beam_groups")


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_backend_setting_is_settled(monkeypatch, backend):
    monkeypatch.setattr(resolving, "settle_keras", lambda source: None)
    os.environ["KERAS_BACKEND"] = "from outside"
    resolve(typed())
    assert os.environ["KERAS_BACKEND"] == "from outside"
    resolve(typed("--backend", backend))
    assert os.environ["KERAS_BACKEND"] == backend


def test_features_from_elsewhere_take_the_place_of_the_encoder_of_a_preset():
    found = resolve(typed("--preset", "flickr8k-attention", "--features", "bu_att"))
    assert (found.features, found.feature_grid, found.mirror, found.decoder) == ("bu_att", 1, False, "attention")
    with pytest.raises(UserError, match="encoder: features=bu_att does not use it"):
        resolve(typed("--features", "bu_att", "--encoder", "vgg16"))
    for stage in ("finetune", "align"):
        with pytest.raises(ValueError, match=f"features: stage={stage}"):
            Config(features="bu_att", stage=stage, init="a.zip", monitor="recall" if stage == "align" else "loss")


def test_stored_features_and_an_encoder_do_not_take_turns():
    """Another source of features will do for a captioner of such features, but an encoder has its own."""
    stored, own = Config(features="bu_att"), Config()
    assert resolve_trained(typed("--features", "new_att", trained=True), stored).features == "new_att"
    with pytest.raises(UserError, match="features: this captioner has an encoder of its own"):
        resolve_trained(typed("--features", "new_att", trained=True), own)
    with pytest.raises(UserError, match="features: this captioner reads stored features"):
        resolve_trained(typed("--features", "", trained=True), stored)
