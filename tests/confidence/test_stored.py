"""A confidence on disk: what is written is read again, and what cannot be read is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from keras import ops
from sure import CONFIDENCE

from captioning.base.errors import UserError
from captioning.confidence.inputs import SIGNALS
from captioning.confidence.stored import MEMBERS, Confidence


def test_what_is_saved_is_loaded_again(tmp_path):
    CONFIDENCE.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MEMBERS)
    loaded = Confidence.load(tmp_path, Path("captioner.zip"))
    signals = np.random.default_rng(0).normal(size=(4, 3, len(SIGNALS))).astype("float32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded.of_signals(signals)), ops.convert_to_numpy(CONFIDENCE.of_signals(signals))
    )
    assert (loaded.unsure_below, loaded.right_cider, loaded.fitted) == (0.4, 33.0, {"dataset": "toy"})
    for part, same in zip(loaded.subspace, CONFIDENCE.subspace, strict=True):
        np.testing.assert_array_equal(part, same)
        assert part.dtype == same.dtype


def test_a_bundle_without_one(tmp_path):
    assert Confidence.load(tmp_path, Path("captioner.zip")) is None


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"format": 2},
            {"format": "1"},
            {"inputs": "magic"},
            {"inputs": []},
            {"signals": ["smell"]},
            {"near": "here"},
        ),
        *({"fitted": 3}, {"weights": [1.0]}, {"means": "x"}, {"deviations": [[1]] * 5}, {"bias": None}, {"far": True}),
        {"near": float("nan")},
    ],
)
def test_what_this_release_cannot_read_is_named(tmp_path, change):
    CONFIDENCE.save(tmp_path)
    path = tmp_path / "confidence.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"^captioner\.zip: its confidence cannot be read .*--fit-confidence$"):
        Confidence.load(tmp_path, Path("captioner.zip"))


@pytest.mark.parametrize("content", [b"", b"PK", b"[" * 100_000, b"\xff"])
def test_a_confidence_of_other_files_is_named(tmp_path, content):
    for name in MEMBERS:
        CONFIDENCE.save(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"captioner\.zip|confidence\.npz"):
            Confidence.load(tmp_path, Path("captioner.zip"))
