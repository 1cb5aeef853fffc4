"""What is left of killed processes is swept, and what living ones need stays."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from helpers import ROOT

from captioning.base import scratch
from captioning.base.errors import UserError

MAKE = """
import sys, time
from pathlib import Path
from captioning.base.scratch import held, scratch_folder
parent = Path(sys.argv[1])
(parent / ".work-x.tmp").touch()
with scratch_folder(parent, ".work-") as folder, held(parent / ".work-x.tmp"):
    (folder / "part").write_text("much")
    print("there", flush=True)
    time.sleep(60)
"""


def old(path):
    os.utime(path, (time.time() - 10,) * 2)


def test_leftovers_of_a_killed_process_are_swept_and_those_of_a_living_one_are_not(tmp_path):
    worker = subprocess.Popen([sys.executable, "-c", MAKE, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with worker:
        assert worker.stdout.readline() == "there\n"
        made = list(tmp_path.iterdir())
        assert len(made) == 2
        for path in made:
            old(path)
        scratch.sweep(tmp_path, ".work-")
        assert list(tmp_path.iterdir()) == made
        worker.send_signal(signal.SIGKILL)
    (tmp_path / ".working").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / ".work-link").symlink_to(tmp_path / "work")
    with scratch.scratch_folder(tmp_path, ".work-") as folder:
        found = {path.name for path in tmp_path.iterdir()}
        assert found == {folder.name, ".working", "work", ".work-link"}
    assert not folder.exists()


def test_a_leftover_that_may_be_about_to_be_locked_stays_and_is_not_locked_meanwhile(tmp_path, monkeypatch):
    (tmp_path / ".work-new").mkdir()
    monkeypatch.setattr(scratch, "_open", lambda path: pytest.fail("its own process could not lock it now"))
    scratch.sweep(tmp_path, ".work-")
    assert (tmp_path / ".work-new").exists()


def test_what_users_keep_among_temporary_files_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "captioning-pictures").mkdir()
    (tmp_path / "captioning-of-mine.jsonl").touch()
    (tmp_path / f"{scratch.TEMPORARY}left").mkdir()
    made = set(tmp_path.iterdir())
    for path in made:
        old(path)
    with scratch.temporary_folder("the model") as folder:
        assert {*tmp_path.iterdir()} == made - {tmp_path / f"{scratch.TEMPORARY}left"} | {folder}


def test_without_locks_only_what_is_a_day_old_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "fcntl", None)
    for name, age in (("a", 3600), ("b", 25 * 3600)):
        (tmp_path / f".work-{name}").mkdir()
        os.utime(tmp_path / f".work-{name}", (time.time() - age,) * 2)
    with scratch.scratch_folder(tmp_path, ".work-"):
        assert (tmp_path / ".work-a").exists()
        assert not (tmp_path / ".work-b").exists()


def test_no_folder_for_temporary_files_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"gone: no room for the model .*TMPDIR"), scratch.temporary_folder("the model"):
        pass
