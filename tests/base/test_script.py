"""The frame of the scripts: how errors and Ctrl-C end them, and what TensorFlow is told."""

import errno
import os
import platform
import signal
import subprocess
import sys

import pytest
from helpers import ROOT

from captioning.base.errors import UserError
from captioning.base.script import (
    let_memory_grow,
    run_script,
    set_up_tensorflow,
    stop_if_told,
    stops_between_batches,
)


def test_user_errors_end_a_script_with_status_2(capsys):
    def main():
        raise UserError("somewhere: something is wrong")

    with pytest.raises(SystemExit) as left:
        run_script(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: somewhere: something is wrong\n"


def test_errors_show_what_strangers_wrote_with_escapes(capsys):
    def main():
        raise UserError("one\ntwo\x1b[2J")

    with pytest.raises(SystemExit):
        run_script(main)
    assert capsys.readouterr().err == "error: one\ntwo\\x1b[2J\n"


@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252:strict", "utf-8:strict"])
def test_no_text_stops_stdout(encoding):
    program = "from captioning.base.script import run_script; run_script(lambda: print('\\u72ac \\ud800 dog'))"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.strip().endswith(b"\\ud800 dog")


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


SCRIPT = """
import os, signal, sys, time
from captioning.base.script import listen_to_ctrl_c, run_script
def main():
    listen_to_ctrl_c()
    try:
        print("there", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
run_script(main)
"""


@pytest.mark.parametrize(
    ("sent", "status", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_signals_end_a_script_like_ctrl_c(sent, status, said):
    """Also a script that was started in the background by a shell without job control, which ignores SIGINT."""
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert started.stdout.readline() == "there\n"
    started.send_signal(sent)
    out, err = started.communicate(timeout=300)
    assert (started.returncode, out, err.strip()) == (status, "cleaned up\n", said)


def test_the_handlers_of_signals_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        run_script(lambda: 0)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


@pytest.fixture
def own_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_waits_for_the_end_of_a_batch(own_handlers, capfd):
    done = []

    def train():
        with stops_between_batches():
            signal.raise_signal(signal.SIGINT)
            done.append("batch")
            stop_if_told()
            done.append("next batch")

    with pytest.raises(KeyboardInterrupt):
        train()
    assert done == ["batch"]
    assert "press Ctrl-C again" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    stop_if_told()  # nothing waits any more


def test_a_second_signal_does_not_wait(own_handlers):
    done = []

    def train():
        with stops_between_batches():
            signal.raise_signal(signal.SIGINT)
            done.append("batch")
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of it")

    with pytest.raises(KeyboardInterrupt):
        train()
    assert done == ["batch"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_batch_is_heard_at_the_end(own_handlers, capfd, sent):
    signal.signal(sent, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), stops_between_batches():
        signal.raise_signal(sent)
    assert ("press Ctrl-C again" in capfd.readouterr().err) == (sent == signal.SIGINT)


def test_an_error_of_the_batch_comes_before_the_signal(own_handlers):
    def train():
        with stops_between_batches():
            signal.raise_signal(signal.SIGINT)
            raise UserError("this batch is wrong")

    with pytest.raises(UserError):
        train()
    stop_if_told()  # nothing waits any more


def test_signals_that_are_ignored_stay_ignored(own_handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stops_between_batches():
        signal.raise_signal(signal.SIGINT)
        stop_if_told()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_full_disk_behind_stdout_is_one_message():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, ROOT / "config.py", "--presets"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the output: cannot be written (No space left on device); make room")
    assert ended.stderr.count("\n") == 1


def test_a_full_disk_is_one_message_and_other_errors_of_the_system_are_not_hidden(capsys):
    def main(number):
        raise OSError(number, os.strerror(number), "runs/x/curves.png")

    with pytest.raises(SystemExit) as left:
        run_script(lambda: main(errno.ENOSPC))
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: runs/x/curves.png: cannot be written (No space left on device)")
    with pytest.raises(IsADirectoryError):
        run_script(lambda: main(errno.EISDIR))


def test_a_user_error_that_another_library_wrapped_is_shown_as_itself(capsys):
    def main():
        try:
            raise UserError("features.npy: is gone; bring it back")
        except UserError as error:
            raise RuntimeError(f"UnknownError: {error}\n[[node PyFunc]] a graph") from None

    with pytest.raises(SystemExit) as left:
        run_script(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: features.npy: is gone; bring it back\n"
    with pytest.raises(RuntimeError):
        run_script(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_memory_of_a_gpu_grows_unless_the_user_wants_it_otherwise(monkeypatch):
    names = ("TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    let_memory_grow()
    assert [os.environ[name] for name in names] == ["true", "false"]
    monkeypatch.setenv(names[0], "false")
    let_memory_grow()
    assert os.environ[names[0]] == "false"
