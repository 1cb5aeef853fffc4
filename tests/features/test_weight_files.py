"""Weights files: a full disk is an error and no crash, and a file that says more than it holds is refused."""

import errno
import os

import h5py
import keras
import numpy as np
import pytest

from captioning.features.weight_files import refuse_oversized, save_weights


@pytest.fixture(scope="module")
def model() -> keras.Model:
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    made.compile(optimizer="adam")
    made.optimizer.build(made.trainable_variables)
    return made


def test_what_is_saved_is_no_larger_than_its_file(model, tmp_path):
    save_weights(model, tmp_path / "a.weights.h5")
    stored = sum(int(np.prod(variable.shape)) for variable in [*model.weights, *model.optimizer.variables])
    assert refuse_oversized(tmp_path / "a.weights.h5") == stored
    assert [path.name for path in tmp_path.iterdir()] == ["a.weights.h5"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve room")
def test_a_full_disk_is_seen_before_hdf5_meets_it(model, tmp_path, monkeypatch, number):
    """HDF5 would end the process with a segmentation fault."""

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"a\.weights\.h5") as caught:
        save_weights(model, tmp_path / "a.weights.h5")
    assert caught.value.errno == number
    assert not list(tmp_path.iterdir())


def test_an_error_of_hdf5_gets_its_number(model, tmp_path, monkeypatch):
    def broken(path):
        raise RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = 'No space')")

    monkeypatch.setattr(model, "save_weights", broken)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.weights\.h5"):
        save_weights(model, tmp_path / "a.weights.h5")


def test_files_that_claim_too_much_are_refused(tmp_path):
    path = tmp_path / "a.weights.h5"
    for what in ("large", "outside", "link", "texts"):
        with h5py.File(path, "w") as file:
            if what == "large":
                file.create_dataset("x", (10**5, 10**5), "float32", chunks=True)
            elif what == "outside":
                file.create_dataset("x", (4,), "float32", external=[(tmp_path / "other", 0, 16)])
            elif what == "link":
                file["x"] = h5py.SoftLink("/y")
            else:
                file["x"] = ["text"]
        with pytest.raises(ValueError, match=r"bytes|not stored in the file itself|another place"):
            refuse_oversized(path)
