"""Settings: every wrong one is refused by name before any work starts, and the order of sources holds."""

import argparse
import json
import os
import platform
import re
import runpy
import subprocess
import sys

import pytest
from helpers import ROOT

import config
from captioning.base.errors import UserError
from captioning.base.script import run_script, set_up_tensorflow
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import preset, resolve, resolve_trained
from config import PRESETS, TRAINED_SETTINGS, Config


def typed(*arguments: str, trained: bool = False) -> argparse.Namespace:
    return make_parser("", trained).parse_args(arguments)


# Values ---------------------------------------------------------------------------------------------------------------


def test_unknown_setting_suggests_the_nearest():
    with pytest.raises(UserError, match=r"batchsize: there is no such setting; did you mean batch_size\?"):
        Config().with_overrides({"batchsize": 3})
    with pytest.raises(UserError, match=r"zzz: there is no such setting$"):
        Config.from_json('{"zzz": 1}', "some.json")


def test_every_bad_setting_is_named_at_once():
    with pytest.raises(UserError) as caught:
        Config.from_json('{"epochs": 0, "dropout": 1.0, "decoder": "gru"}', "some.json")
    message = str(caught.value)
    assert message.startswith("bad settings in some.json:")
    for problem in ("epochs: ", "got 0", "dropout: ", "got 1.0", "decoder: ", "'merge', 'inject', "):
        assert problem in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "3"),
        ("epochs", 3.5),
        ("learning_rate", "0.1"),
        ("tensorboard", "yes"),
        ("tensorboard", 1),
        ("data_dir", 3),
        ("download_urls", "https://example.org"),
        ("download_urls", [1]),
        ("seed", None),
        ("seed", True),
    ],
)
def test_a_file_must_have_the_right_types(name, value):
    with pytest.raises(UserError, match=f"x.json:\n  {name}: "):
        Config.from_json(json.dumps({name: value}), "x.json")


def test_a_file_may_write_whole_numbers_for_shares():
    assert Config.from_json('{"dropout": 0, "clip_norm": 1}', "x.json").clip_norm == 1.0


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


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"dataset": "folder"}, "captions_file"),
        ({"captions_file": "c.csv"}, "captions_file"),
        ({"dev_fraction": 0.5, "test_fraction": 0.5}, "dev_fraction"),
        ({"min_length": 31}, "min_length"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"encoder": "my.keras", "encoder_weights": "w.h5"}, "encoder_weights"),
        ({"download_checksums": ["md5:123"]}, "download_checksums"),
        (
            {"download_urls": ["https://example.org/a.zip"], "download_checksums": ["md5:" + "0" * 32] * 2},
            "download_checksums",
        ),
        ({"download_checksums": ["md5:" + "0" * 32]}, "download_checksums"),
        ({"dataset": "karpathy"}, "captions_file"),
        ({"dataset": "coco", "data_dir": "d", "captions_file": "c.json"}, "captions_file"),
        ({"dataset": "coco"}, "data_dir"),
        ({"dataset": "flickr30k"}, "data_dir"),
        ({"decoder": "attention"}, "feature_grid"),
        ({"decoder": "attention", "feature_grid": 0, "image_scale": 0.5}, "image_scale"),
        ({"decoder": "merge", "attention_size": 8}, "attention_size"),
        ({"decoder": "adaptive", "feature_grid": 0, "layers": 3}, "layers"),
        ({"decoder": "adaptive", "feature_grid": 0, "attention_penalty": 1.0}, "attention_penalty"),
        ({"decoder": "transformer", "feature_grid": 0, "hidden_size": 100}, "heads"),
        ({"embedding": "file"}, "embedding_file"),
        ({"embedding_file": "glove.txt"}, "embedding_file"),
        ({"embedding": "bert-static", "embedding_file": "glove.txt"}, "embedding_file"),
        ({"bert": "bert_large_en_uncased"}, "bert"),
        ({"embedding_trainable": True}, "embedding_trainable"),
        ({"embedding": "bert-prefix", "embedding_trainable": True}, "embedding_trainable"),
        ({"untied_output": True}, "untied_output"),
        (
            {"decoder": "attention", "feature_grid": 0, "embedding": "bert-static", "untied_output": True},
            "untied_output",
        ),
        ({"stage": "scst"}, "init"),
        ({"samples": 3}, "samples"),
        ({"stage": "scst", "init": "runs/x", "accumulate": 2}, "accumulate"),
        ({"joint_size": 64}, "joint_size"),
        ({"monitor": "recall"}, "monitor"),
        ({"stage": "align"}, "monitor"),
        ({"stage": "align", "monitor": "recall", "decoder": "merge"}, "decoder"),
        ({"stage": "align", "monitor": "recall", "label_smoothing": 0.1}, "label_smoothing"),
        ({"stage": "align", "monitor": "recall", "dev_beam_size": 3}, "dev_beam_size"),
        ({"stage": "align", "monitor": "recall", "length_penalty": 0.5}, "length_penalty"),
        ({"stage": "align", "monitor": "recall", "bert": "bert_large_en_uncased"}, "bert"),
        ({"stage": "align", "monitor": "recall", "margin": 0.1}, "margin"),
        ({"stage": "align", "monitor": "recall", "alignment_loss": "triplet", "temperature": 0.1}, "temperature"),
        ({"stage": "align", "monitor": "recall", "joint_size": 30}, "joint_size"),
    ],
)
def test_conflicts_are_refused(values, name):
    with pytest.raises(UserError, match=f"  {name}: "):
        Config().with_overrides(values)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().epochs = 3


def test_json_round_trip():
    changed = Config(
        dataset="folder", captions_file="c.csv", download_urls=("https://a",), download_checksums=(), dropout=0.1
    )
    for settings in (Config(), changed, preset("demo")):
        assert Config.from_json(settings.to_json(), "x.json") == settings


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"epochs": }'])
def test_a_file_that_is_no_json_object_is_named(text):
    with pytest.raises(UserError, match=r"^x\.json: "):
        Config.from_json(text, "x.json")


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_and_holds_only_differences(name):
    settings = preset(name)
    for setting, value in PRESETS[name].items():
        assert getattr(settings, setting) == value
    repeated = {s for s, value in PRESETS[name].items() if Config.model_fields[s].default == value}
    assert repeated <= {"decoder"}  # the presets named after a decoder say so even where it is the default


def test_unknown_preset():
    with pytest.raises(UserError, match="preset: there is no 'demi'; choose from demo, "):
        resolve(typed("--preset", "demi"))


# Sources --------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(UserError, match="weight_decay: only optimizer=adamw"):
        resolve(typed("--config", str(file), "--optimizer", "sgd"))


def test_a_missing_settings_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: cannot read"):
        resolve(typed("--config", str(tmp_path / "absent.json")))


def test_a_settings_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"data_dir": "caf\xe9"}')
    with pytest.raises(UserError, match=r"latin\.json: "):
        resolve(typed("--config", str(tmp_path / "latin.json")))


def test_options_are_not_abbreviated():
    with pytest.raises(SystemExit):
        typed("--epoch", "3")


def test_captions_file_can_be_unset_on_the_command_line():
    trained = Config(dataset="folder", captions_file="c.csv")
    args = typed("--dataset", "flickr8k", "--captions-file", "none", trained=True)
    assert resolve_trained(args, trained).captions_file is None


@pytest.mark.parametrize("changes", [{}, {"stage": "align", "monitor": "recall"}])
def test_wordpieces_are_those_of_a_bert(changes):
    config = Config(vocabulary="wordpieces", bert="bert_large_en_uncased", **changes)
    assert config.bert == "bert_large_en_uncased"


# Less those that need more than one word to change.
@pytest.mark.parametrize(
    "name",
    sorted(
        TRAINED_SETTINGS
        - {"mirror", "tensorboard", "weight_decay"}
        - {"attention_penalty", "attention_size", "heads", "layers"}
        - {"bert", "embedding_file", "embedding_trainable", "untied_output"}
        - {"stage", *(name for names in config.STAGE_SETTINGS.values() for name in names)}
        - set(config.CROP_SETTINGS)
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
        "schedule": "cosine",
        "vocabulary": "wordpieces",
    }
    args = typed("--" + name.replace("_", "-"), other.get(name, "32"), trained=True)
    with pytest.raises(UserError, match=f"^{name}: the model was trained with "):
        resolve_trained(args, Config())


@pytest.mark.parametrize("name", config.CROP_SETTINGS)
def test_how_to_crop_is_refused_where_nothing_crops(name):
    refusal = (
        f"{name}: only stage=finetune and crops read it, and crops is 0; leave it at {getattr(Config(), name)}, the"
    )
    with pytest.raises(UserError, match=re.escape(refusal)):
        Config().with_overrides({name: 0.5})
    assert getattr(Config().with_overrides({name: 0.5, "crops": 1}), name) == 0.5
    with pytest.raises(UserError, match="crops: stage=finetune does not use it"):
        Config().with_overrides({"stage": "finetune", "init": "a run", "crops": 1})


def test_what_a_preset_brings_and_another_decoder_does_not_read_has_a_way_out():
    refusal = "image_scale: only merge and inject read it, and decoder is attention; leave it at 1.0, the default"
    with pytest.raises(UserError, match=re.escape(refusal)):
        preset("demo").with_overrides({"decoder": "attention"})
    assert preset("demo").with_overrides({"decoder": "attention", "image_scale": 1.0, "feature_grid": 0})
    with pytest.raises(UserError, match="embedding_file: only file read it, and embedding is learned; leave it out"):
        Config().with_overrides({"embedding_file": "words.txt"})


def test_init_brings_the_settings_of_its_run_and_the_stage_changes_them(tmp_path):
    trained = Config(embedding_size=8, label_smoothing=0.1, learning_rate=0.01, accumulate=2)
    (tmp_path / "config.json").write_text(trained.to_json())
    settings = resolve(typed("--stage", "scst", "--init", str(tmp_path), "--epochs", "3"))
    assert (settings.stage, settings.embedding_size, settings.epochs) == ("scst", 8, 3)
    assert (settings.label_smoothing, settings.learning_rate) == (0.0, config.STAGES["scst"]["learning_rate"])
    assert resolve(typed("--init", str(tmp_path))).label_smoothing == 0.1
    tuned = trained.with_overrides({"stage": "finetune", "init": "earlier", "crop": 0.5, "tuned_layers": 10})
    (tmp_path / "config.json").write_text(tuned.to_json())
    settings = resolve(typed("--stage", "scst", "--init", str(tmp_path)))
    assert (settings.stage, settings.crop) == ("scst", Config().crop), "what only fine-tuning reads is forgotten"
    cropped = trained.with_overrides({"crops": 2, "crop": 0.5})
    (tmp_path / "config.json").write_text(cropped.to_json())
    for stage, crops in (("scst", 2), ("finetune", 0)):
        settings = resolve(typed("--stage", stage, "--init", str(tmp_path)))
        assert (settings.crops, settings.crop) == (crops, 0.5), "both stages crop"
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
    with pytest.raises(UserError, match=r"nowhere.config\.json: cannot read"):
        resolve(typed("--init", str(tmp_path / "nowhere")))


def test_align_has_settings_of_its_own_over_a_preset_or_a_run(tmp_path):
    settings = resolve(typed("--stage", "align", "--preset", "demo", "--epochs", "3"))
    assert (settings.dataset, settings.feature_grid, settings.epochs) == ("demo", 3, 3)
    assert (settings.monitor, settings.image_scale) == ("recall", 1.0)
    assert settings.hidden_size == config.STAGES["align"]["hidden_size"]
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


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_backend_setting_is_settled(backend):
    os.environ["KERAS_BACKEND"] = "from outside"
    resolve(typed())
    assert os.environ["KERAS_BACKEND"] == "from outside"
    resolve(typed("--backend", backend))
    assert os.environ["KERAS_BACKEND"] == backend


# Help and scripts -----------------------------------------------------------------------------------------------------


def test_every_setting_says_what_it_means():
    for name, field in Config.model_fields.items():
        assert len(field.description or "") > 10, name
        assert field.default is not ..., name


@pytest.mark.parametrize("script", ["config", "preprocessing", "train", "evaluate", "retrieve", "test"])
def test_help_lists_every_setting(script, capsys):
    sys.argv = [script, "--help"]
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    assert left.value.code == 0
    shown = capsys.readouterr().out
    options = set(shown.replace(",", " ").split())
    for name, field in Config.model_fields.items():
        assert "--" + name.replace("_", "-") in options
        assert field.description.split()[0] in shown


def test_user_errors_end_a_script_with_status_2(capsys):
    def main():
        raise UserError("somewhere: something is wrong")

    with pytest.raises(SystemExit) as left:
        run_script(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: somewhere: something is wrong\n"


def test_ctrl_c_ends_a_script_without_a_traceback(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(BaseException) as left:  # noqa: PT011  KeyboardInterrupt itself would end pytest
        run_script(main)
    assert isinstance(left.value, SystemExit)
    assert left.value.code == 130


@pytest.mark.parametrize(("machine", "kernels"), [("x86_64", "1"), ("AMD64", "1"), ("aarch64", None)])
def test_scripts_turn_on_tensorflows_fast_kernels(monkeypatch, machine, kernels):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    seen = []
    with pytest.raises(SystemExit):
        run_script(lambda: seen.append(os.environ.get("TF_ENABLE_ONEDNN_OPTS")))
    assert seen == [kernels]


def test_what_the_user_says_of_these_kernels_stays(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    set_up_tensorflow()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_light_modules_leave_keras_alone():
    modules = "config, text, vocabulary, datasets, images, demo, download, feature_store, metrics, runs, preprocessing"
    check = f"import sys, {modules}; print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(("mixed", "precision"), [(False, "float32"), (True, "float16")])
@pytest.mark.parametrize(("stage", "share"), [("xe", Config().xe_share), ("scst", 0.2)])
def test_settings_of_an_earlier_release_are_read(mixed, precision, stage, share):
    old = {"mixed_precision": mixed, "xe_share": 0.2, "stage": stage, "init": "runs/a" if stage == "scst" else ""}
    read = Config.from_json(json.dumps(old), "old.json")
    assert (read.precision, read.xe_share) == (precision, share)


@pytest.mark.parametrize("stage", ["xe", "scst", "finetune"])
def test_what_fine_tuning_had_for_defaults_is_kept_where_it_was_read(stage):
    old = {"tuned_layers": 29, "encoder_learning_rate": 1e-5, "stage": stage, "init": "" if stage == "xe" else "runs/a"}
    read = Config.from_json(json.dumps(old), "old.json")
    expected = (29, 1e-5) if stage == "finetune" else (Config().tuned_layers, Config().encoder_learning_rate)
    assert (read.tuned_layers, read.encoder_learning_rate) == expected


def test_other_settings_of_an_earlier_release_are_refused_as_ever():
    with pytest.raises(UserError, match="xe_share: only stage=scst reads it"):
        Config.from_json(json.dumps({"mixed_precision": False, "xe_share": 0.5}), "old.json")
    with pytest.raises(UserError, match="mixed_precision: there is no such setting"):
        Config.from_json(json.dumps({"mixed_precision": True, "precision": "float32"}), "both.json")


def test_help_names_what_a_stage_has_for_default(capsys):
    with pytest.raises(SystemExit):
        make_parser("").parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "peak learning rate [default: 0.001; stage=finetune: 0.0005; stage=scst: 0.0001]" in text
    assert "peak learning rate of the encoder (finetune) [default: 0.0003]" in text
