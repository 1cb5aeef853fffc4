"""The frame of the scripts: how errors and Ctrl-C end them, and what TensorFlow is told."""

import os
import platform
import subprocess
import sys

import pytest
from helpers import ROOT

from captioning.base.errors import UserError
from captioning.base.script import run_script, set_up_tensorflow


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


def test_a_reader_that_leaves_early_ends_a_script_in_silence():
    command = [sys.executable, ROOT / "config.py", "--presets"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


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
