"""One option per setting, and a help that says all of it."""

import runpy
import sys

import pytest
from helpers import ROOT

from captioning.command_line.options import make_parser
from config import Config


def test_options_are_not_abbreviated():
    with pytest.raises(SystemExit):
        make_parser("").parse_args(["--epoch", "3"])


@pytest.mark.parametrize(("option", "meant"), [("--num_beams", "--beam-size"), ("--beem-size", "--beam-size"),
                                                ("--beam_size", "--beam-size"), ("--zzz", None)])  # fmt: skip
def test_an_unknown_option_is_named_with_the_one_that_is_meant(option, meant, capsys):
    with pytest.raises(SystemExit):
        make_parser("").parse_args([option, "3"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"unrecognized arguments: {option} 3" in last
    assert last.endswith(f"; for {option} take {meant}" if meant else f"{option} 3")


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


@pytest.fixture(scope="module")
def help_of():
    """The help of a script that starts from nothing (False) or from a trained captioner (True), without line breaks."""
    return {trained: " ".join(make_parser("", trained).format_help().split()) for trained in (False, True)}


def test_help_names_what_a_stage_has_for_default(help_of):
    assert "peak learning rate [default: 0.001; stage=finetune: 0.0005; stage=scst: 0.0001]" in help_of[False]
    assert "peak learning rate of the encoder [default: 0.0003; only with stage=finetune]" in help_of[False]


@pytest.mark.parametrize(
    "note",
    [
        "[default: 8; only with decoder=transformer, aoa or m2]",
        "[default: 0.05; only with stage=align and with alignment_loss=infonce]",
        "only with embedding=bert-static or bert-prefix or with vocabulary=wordpieces]",
        "only with stage=finetune or with crops]",
        "[default: 0.0; only with decoder=attention, transformer, updown, aoa or m2; not with stage=scst, concepts or align]",
        "[default: unset; only with dataset=folder, cocostyle, karpathy, flickr30k or kaggle]",
    ],
)
def test_help_says_who_reads_a_setting(help_of, note):
    assert note in help_of[False]


def test_help_says_what_training_has_fixed_where_a_trained_captioner_is_used(help_of):
    assert "fixed by training" not in help_of[False]
    assert "[default: 8; only with decoder=transformer, aoa or m2; fixed by training]" in help_of[True]
    assert "not with stage=align; fixed by training" not in help_of[True].split("settings: Decoding:")[1]


def test_help_shows_the_choices_and_per_cent(help_of):
    assert "--backend {tensorflow,jax,torch} Keras backend" in help_of[False]
    assert "cosine decay to 1% of the peak" in help_of[False]


def test_usage_names_the_options_of_the_script_alone():
    parser = make_parser("", trained=True)
    parser.add_argument("picture", metavar="IMAGE")
    assert parser.format_usage().split(maxsplit=2)[2] == "[-h] [--quiet] IMAGE [--SETTING VALUE ...]\n"
