"""Settings: every wrong one is refused by name before any work starts, and every preset is valid."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT

from captioning.base.errors import UserError
from captioning.base.settings import ON, choices, read_by_choice, rules_of
from captioning.command_line.resolving import preset
from config import PRESETS, Config, DataSettings, DecoderSettings, main


def test_unknown_setting_suggests_the_nearest():
    with pytest.raises(UserError, match=r"batchsize: there is no such setting; did you mean batch_size\?"):
        Config().with_overrides({"batchsize": 3})
    with pytest.raises(UserError, match=r"zzz: there is no such setting$"):
        Config().with_overrides({"zzz": 1})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"dataset": "folder"}, "captions_file"),
        ({"captions_file": "c.csv"}, "captions_file"),
        ({"dev_fraction": 0.5, "test_fraction": 0.5}, "dev_fraction"),
        ({"min_length": 31}, "min_length"),
        ({"beam_size": 10, "beam_groups": 4}, "beam_groups"),
        ({"beam_size": 5, "num_captions": 6}, "num_captions"),
        ({"diversity_penalty": 1.0}, "diversity_penalty"),
        ({"do_sample": True, "top_p": 0}, "top_p"),
        ({"do_sample": True, "typical_p": 1.5}, "typical_p"),
        ({"do_sample": True, "sample_temperature": 0}, "sample_temperature"),
        ({"top_k": 5}, "top_k"),
        ({"do_sample": True, "include": ["dog"]}, "do_sample"),
        ({"do_sample": True, "consensus": True}, "do_sample"),
        ({"do_sample": True, "beam_size": 4, "beam_groups": 2}, "do_sample"),
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
        ({"decoder": "attention"}, "feature_grid"),
        ({"decoder": "attention", "feature_grid": 0, "image_scale": 0.5}, "image_scale"),
        ({"decoder": "merge", "attention_size": 8}, "attention_size"),
        ({"decoder": "adaptive", "feature_grid": 0, "layers": 3}, "layers"),
        ({"decoder": "adaptive", "feature_grid": 0, "attention_penalty": 1.0}, "attention_penalty"),
        ({"decoder": "transformer", "feature_grid": 0, "hidden_size": 100}, "heads"),
        ({"decoder": "aoa", "feature_grid": 0, "hidden_size": 100}, "heads"),
        ({"decoder": "transformer", "feature_grid": 0, "memory_slots": 20}, "memory_slots"),
        ({"decoder": "updown", "feature_grid": 0, "layers": 3}, "layers"),
        ({"decoder": "m2"}, "feature_grid"),
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
        ({"stage": "scst", "init": "runs/x", "bleu_weight": -1}, "bleu_weight"),
        ({"stage": "scst", "init": "runs/x", "cider_weight": 0}, "cider_weight"),
        ({"stage": "scst", "init": "runs/x", "cider_weight": 0, "similar_weight": 1}, "cider_weight"),
        ({"stage": "scst", "init": "runs/x", "retrieval_weight": 1}, "retrieval_aligner"),
        ({"stage": "scst", "init": "runs/x", "retrieval_aligner": "towers.zip"}, "retrieval_aligner"),
        ({"stage": "scst", "init": "runs/x", "retrieval_images": 9}, "retrieval_images"),
        ({"stage": "scst", "init": "runs/x", "similar_images": 9}, "similar_images"),
        ({"rarity_weight": 1}, "rarity_weight"),
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


def test_a_setting_that_depends_on_an_unread_one_is_unread():
    refusal = "image_scale: it is read only with decoder=merge.*, and stage=align does not use decoder; leave it"
    with pytest.raises(UserError, match=refusal):
        Config().with_overrides({"stage": "align", "monitor": "recall", "image_scale": 0.5})


@pytest.mark.parametrize("name", Config.model_fields)
def test_who_reads_a_setting_is_said_in_settings_and_values_that_exist(name):
    rules = rules_of(Config, name)
    for condition in (*rules.only, rules.never or {}):
        for other, values in condition.items():
            assert values == ON or set(values) < set(choices(Config, other))


def test_the_settings_of_one_decoder():
    assert read_by_choice(Config(), DecoderSettings, "decoder") == {"image_scale": 1.0}
    config = Config(decoder="transformer", feature_grid=0, layers=3)
    assert read_by_choice(config, DecoderSettings, "decoder") == {"untied_output": False, "layers": 3, "heads": 8}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_and_holds_only_differences(name):
    settings = preset(name)
    for setting, value in PRESETS[name].settings.items():
        assert getattr(settings, setting) == value
    repeated = {s for s, value in PRESETS[name].settings.items() if Config.model_fields[s].default == value}
    assert repeated <= {"decoder"}  # the presets named after a decoder say so even where it is the default


@pytest.mark.parametrize("name", PRESETS)
def test_the_score_of_a_preset_is_one_that_is_written_down(name):
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    figures = re.findall(r"\d+\.\d+", PRESETS[name].score)
    assert figures or PRESETS[name].score == "not measured"
    for figure in figures:
        assert figure in results


def test_presets_are_listed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["config.py", "--presets"])
    main()
    shown = capsys.readouterr().out
    for name, preset_of_name in PRESETS.items():
        assert f"{name}: {preset_of_name.aim}\n    python train.py --preset {name}\n" in shown


@pytest.mark.parametrize("changes", [{}, {"stage": "align", "monitor": "recall"}])
def test_wordpieces_are_those_of_a_bert(changes):
    config = Config(vocabulary="wordpieces", bert="bert_large_en_uncased", **changes)
    assert config.bert == "bert_large_en_uncased"


@pytest.mark.parametrize("name", ["crop", "colour_jitter", "erase"])
def test_how_to_crop_is_refused_where_nothing_crops(name):
    refusal = f"{name}: it is read only with stage=finetune or with crops, and stage is xe and crops is 0; leave it at "
    with pytest.raises(UserError, match=re.escape(refusal)):
        Config().with_overrides({name: 0.5})
    assert getattr(Config().with_overrides({name: 0.5, "crops": 1}), name) == 0.5
    with pytest.raises(UserError, match="crops: stage=finetune does not use it"):
        Config().with_overrides({"stage": "finetune", "init": "a run", "crops": 1})


def test_what_a_preset_brings_and_another_decoder_does_not_read_has_a_way_out():
    refusal = (
        "image_scale: it is read only with decoder=merge.*, and decoder is attention; leave it at 1.0, the default"
    )
    with pytest.raises(UserError, match=refusal):
        preset("demo").with_overrides({"decoder": "attention"})
    assert preset("demo").with_overrides({"decoder": "attention", "image_scale": 1.0, "feature_grid": 0})
    with pytest.raises(
        UserError, match="embedding_file: it is read only with embedding=file, and embedding is learned; leave it out"
    ):
        Config().with_overrides({"embedding_file": "words.txt"})


def test_a_setting_taken_for_another_names_that_one():
    refusal = "leave it at 0.05, the default, or give --sample-temperature if you meant that"
    with pytest.raises(UserError, match=f"temperature: it is read only with stage=align.*{refusal}"):
        Config().with_overrides({"temperature": 0.7})


def test_every_setting_says_what_it_means():
    for name, field in Config.model_fields.items():
        assert len(field.description or "") > 10, name
        assert field.default is not ..., name
        assert rules_of(Config, name).taken_for in {"", *Config.model_fields}, name


def test_light_modules_leave_keras_alone():
    rooms = ["words.vocabulary", "data.datasets", "data.scenes", "data.download", "pictures.loading", "features.store"]
    rooms += ["metrics.cider", "storage.runs"]
    modules = ", ".join(["config", "preprocessing", *(f"captioning.{room}" for room in rooms)])
    check = f"import sys, {modules}; preprocessing.check_encoder(config.Config()); print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_every_number_has_an_upper_limit_and_every_text_can_name_a_file():
    """A stranger's bundle brings its own settings. None of them may ask for any amount of memory or time."""
    for name, field in [*Config.model_fields.items(), *DataSettings.model_fields.items()]:
        if field.annotation in (int, float):
            assert any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in field.metadata), name
    for text in ("a\0b", "x" * 5000):
        for name in ("data_dir", "run_dir", "init", "encoder"):
            with pytest.raises(UserError, match=f"{name}: has a NUL character or more"):
                Config().with_overrides({name: text})
    for value in ("inf", "nan", "1e308", "9" * 5000):
        with pytest.raises(UserError, match="learning_rate"):
            Config().with_overrides({"learning_rate": value})
