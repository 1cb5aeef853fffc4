"""start.py sets up an environment, completes one that was begun, and says in a line why it cannot."""

import errno
import subprocess

import pytest

import start


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository without .venv, in which nothing is installed. Gives what was called, in order."""
    called = []
    for name in start.LISTS:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(start, "ROOT", tmp_path)
    monkeypatch.setattr(start, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(start, "PYTHON", tmp_path / ".venv/bin/python")

    def create(folder, with_pip):
        called.append("venv")
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").touch()
        (folder / "pip").touch()

    def run(command, **_):
        called.append(command[3])
        missing = command[3] == "--version" and not (tmp_path / ".venv/pip").exists()
        return subprocess.CompletedProcess(command, int(missing))

    monkeypatch.setattr(start.venv, "create", create)
    monkeypatch.setattr(start.subprocess, "run", run)
    return called


def test_it_installs_once_for_each_list_of_dependencies(place, tmp_path):
    start.set_up("")
    assert place == ["venv", "install"]
    start.set_up("")
    assert place == ["venv", "install"]
    (tmp_path / "requirements.txt").write_text("more")
    start.set_up("")
    assert place == ["venv", "install", "--version", "install"]


def test_an_environment_without_pip_is_completed(place, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    start.set_up("")
    assert place == ["--version", "venv", "install"]


FULL = OSError(errno.ENOSPC, "No space left on device")
NO_PIP = subprocess.CalledProcessError(1, "ensurepip", b"Traceback ...\nOSError: No space left on device\n")


@pytest.mark.parametrize("error", [FULL, NO_PIP])
def test_a_full_disk_is_one_message(place, monkeypatch, capsys, error):
    def create(*_, **__):
        raise error

    monkeypatch.setattr(start.venv, "create", create)
    with pytest.raises(SystemExit) as left:
        start.set_up("")
    assert left.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert "run the same command again" in line


def test_an_installation_that_fails_is_no_installation(place, monkeypatch, capsys, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(start.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
        with pytest.raises(SystemExit) as left:
            start.set_up("")
    assert left.value.code == 2
    assert "pip could not install the dependencies" in capsys.readouterr().err
    start.set_up("")
    assert place == ["venv", "--version", "install"]


def test_captioning_installs_no_extras_and_stays_where_the_user_is(place, monkeypatch):
    commands = []
    monkeypatch.setattr(start, "set_up", lambda extras: commands.append(extras))
    monkeypatch.setattr(
        start.subprocess,
        "run",
        lambda command, cwd: commands.append((command[1:], cwd)) or subprocess.CompletedProcess(command, 0),
    )
    monkeypatch.setattr(start.sys, "argv", ["start.py", "caption", "photo.jpg", "--json"])
    start.main()
    assert commands == ["", (["-m", "captioning.installed.entry", "photo.jpg", "--json"], None)]
