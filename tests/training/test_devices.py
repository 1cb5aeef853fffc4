"""Several devices share each batch: how batches are filled up, what is refused, and that training stays the same."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from helpers import ROOT, until
from pydantic import ValidationError
from running import TINY, make_data, process

from captioning.base.devices import (
    fill_up,
    join_hosts,
    own_rows,
    repeat_last,
    share,
    tells_of_lost_process,
    use_devices,
)
from captioning.base.errors import UserError
from config import Config, OneVectorDecoders, RegionDecoders

DECODERS = [*get_args(OneVectorDecoders), *get_args(RegionDecoders)]
STAGES = get_args(Config.model_fields["stage"].annotation)


def test_a_batch_is_filled_up_with_rows_that_count_nothing():
    features, tokens = np.arange(1.0, 7).reshape(3, 2), np.arange(1, 11).reshape(5, 2)
    image_of, advantages = np.asarray([0, 1, 1, 2, 2]), np.ones((3, 2), "float32")
    (images, ids, of), gains = fill_up(((features, tokens, image_of), advantages), 4)
    # The images repeat the last one, so that no image is without regions.
    np.testing.assert_array_equal(images, [*features, features[2]])
    np.testing.assert_array_equal(ids, [*tokens, *[[0, 0]] * 3])
    np.testing.assert_array_equal(of, [*image_of, 0, 0, 0])
    np.testing.assert_array_equal(gains, [*advantages, [0, 0]])
    assert (ids.dtype, gains.dtype) == (tokens.dtype, advantages.dtype)


def test_a_batch_that_is_full_stays_as_it_is():
    features, tokens = np.ones((4, 2)), np.ones((8, 2), int)
    (images,), ids = fill_up(((features,), tokens), 4)
    assert images is features
    assert ids is tokens


def test_what_is_predicted_for_rows_that_fill_up_repeats_the_last_row():
    features, draws = repeat_last((np.asarray([[1.0], [2.0]]), np.asarray([3, 4])), 3)
    assert features.tolist() == [[1], [2], [2]]
    assert draws.tolist() == [3, 4, 4]


@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "two", ""])
def test_a_number_of_devices_is_positive(wrong):
    with pytest.raises(ValidationError, match=r"devices: .* is no number from 1 on; give one, or all"):
        Config(devices=wrong)


@pytest.mark.parametrize(
    ("backend", "reason"),
    [("tensorflow", "tf.distribute doubles the loss"), ("torch", "Keras cannot train on several devices with PyTorch")],
)
@pytest.mark.parametrize("wanted", ["2", "all"])
def test_other_backends_are_refused_with_the_reason(backend, reason, wanted, monkeypatch):
    monkeypatch.setattr("captioning.base.devices.backend_name", lambda: backend)
    with pytest.raises(UserError, match=f"^devices: .*{reason}.*--backend jax"):
        use_devices(wanted)
    use_devices("1")


def test_more_devices_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr("captioning.base.devices.backend_name", lambda: "jax")
    monkeypatch.setattr("captioning.base.devices._devices_by_process", lambda: [["gpu:0", "gpu:1"], ["gpu:2"]])
    with pytest.raises(UserError, match=r"^devices: 3 are wanted, and JAX sees 2 \(gpu:0, gpu:1\)"):
        use_devices("3")
    with pytest.raises(UserError, match=r"^devices: 2 are wanted, and JAX sees 1 in process 1 \(gpu:2\)"):
        use_devices("2", hosts=True)


@pytest.mark.parametrize(
    ("hosts", "mentions"),
    [
        ("10.0.0.1", "'10.0.0.1' is neither auto nor ADDRESS:PORT,PROCESSES,RANK"),
        ("10.0.0.1:1234,2", "neither auto nor"),
        ("10.0.0.1:1234,2,2", "of 2 processes none has the rank 2"),
    ],
)
def test_wrong_hosts_are_refused(hosts, mentions, monkeypatch):
    monkeypatch.setattr("captioning.base.devices.backend_name", lambda: "jax")
    with pytest.raises(UserError, match=f"^hosts: .*{mentions}"):
        join_hosts(hosts)


def test_a_process_reads_its_own_rows_of_a_batch(monkeypatch):
    """Two processes with two devices each: six rows are filled up to eight, and each process gets four."""
    monkeypatch.setattr("captioning.base.devices.device_count", lambda: 4)
    images, tokens = np.arange(6), np.arange(1, 7)
    for rank, (seen, read) in enumerate([([0, 1, 2, 3], [1, 2, 3, 4]), ([4, 5, 5, 5], [5, 6, 0, 0])]):
        monkeypatch.setattr("captioning.base.devices._place", lambda rank=rank: (rank, 2))
        assert own_rows(images).tolist() == seen
        for batch, own in (((images, tokens), False), ((own_rows(images), tokens), True)):
            found = share(batch, own_images=own)
            assert [part.tolist() for part in found] == [seen, read]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:8933", True),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate", False),
        ("operands could not be broadcast together", False),
    ],
)
def test_a_lost_process_is_told_from_other_errors(text, expected):
    assert tells_of_lost_process(ValueError(text)) == expected


def trained(folder, *jobs: str) -> dict[str, list[list[dict[str, float]]]]:
    """What ``spread_runs.py`` prints of ``jobs``, on four virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/spread_runs.py"), str(folder), *jobs],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The slow test takes one decoder of each kind, and the stage xe takes attention. The others are weekly.
SLOW = ["merge", "m2"]
WEEKLY = ["merge", *(name for name in DECODERS if name not in SLOW)]


@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param([*SLOW, "xe", *(name for name in STAGES if name != "xe")], marks=pytest.mark.slow, id="stages"),
        pytest.param(WEEKLY, marks=pytest.mark.weekly, id="decoders"),
    ],
)
def test_training_on_four_devices_is_that_on_one(tmp_path, jobs):
    """The run of xe on four devices goes on with one, and then with three."""
    pytest.importorskip("jax")
    found = trained(tmp_path, *jobs)
    assert list(found) == jobs
    for job, (one, four) in found.items():
        assert len(one) == len(four) == (3 if job == "xe" else 2)
        scores = {"loss", "nll", "val_loss", "val_nll", "reward", "recall"} & one[0].keys()
        for score in scores:
            values = [[line[score] for line in lines] for lines in (one, four)]
            np.testing.assert_allclose(*values, rtol=1e-4, err_msg=f"{job}: {score}")


def losses(run: Path) -> list[list[float]]:
    """Three losses of each whole epoch of a run."""
    if not (run / "history.csv").exists():
        return []
    with open(run / "history.csv", newline="") as file:
        return [[float(line[name]) for name in ("loss", "nll", "val_nll")] for line in csv.DictReader(file)]


@pytest.mark.slow
def test_two_processes_train_like_one_and_none_waits_for_a_dead_one(tmp_path):
    pytest.importorskip("jax")
    options = [*make_data(tmp_path), "--encoder", tmp_path / "encoder.keras", *TINY, "--run-dir", tmp_path]
    options += ["--decoder", "merge", "--backend", "jax", "--no-tensorboard"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        hosts = f"127.0.0.1:{free.getsockname()[1]},2"
    both = [
        process("train", *options, "--name", "two", "--epochs", "100000", "--hosts", f"{hosts},{rank}")
        for rank in (0, 1)
    ]
    try:
        until(lambda: len(losses(tmp_path / "two")) >= 2 or both[0].poll() is not None)
        both[1].send_signal(signal.SIGKILL)
        printed, errors = both[0].communicate(timeout=60)
        silent, _ = both[1].communicate()
    finally:
        for each in both:
            each.kill()
    assert both[0].returncode in (2, -signal.SIGABRT), errors
    assert "hosts: another process has ended" in errors or "coordination service" in errors
    assert "epoch 2/100000" in printed
    assert "epoch" not in silent  # process 0 alone prints
    assert not [
        path for path in tmp_path.iterdir() if path.is_dir() and path.name not in ("two", "pictures", "features")
    ]
    single = process("train", *options, "--name", "one", "--epochs", "2")
    assert single.communicate()[1] is not None
    assert single.returncode == 0
    np.testing.assert_allclose(losses(tmp_path / "two")[:2], losses(tmp_path / "one"), rtol=1e-4)
