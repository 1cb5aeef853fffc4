"""Bundles of strangers: whatever they hold, they are refused by name, before they take memory or write a file."""

import hashlib
import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_captioner import save_captioner

from captioning.base.errors import UserError
from captioning.storage.members import kind_of, settings_of
from model import Captioner

FILE = "captioner.zip"


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> dict[str, bytes]:
    """The members of a small bundle that is whole."""
    _, path = save_captioner(tmp_path_factory.mktemp("saved"))
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist() if name != "bundle.json"}


def pack(folder: Path, members: dict[str, bytes], **about) -> Path:
    """A bundle whose digests match."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    head = {"format": 1, "kind": "captioner", "sha256": digests} | about
    with zipfile.ZipFile(folder / FILE, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("bundle.json", json.dumps(head))
        for name, content in members.items():
            bundle.writestr(name, content)
    return folder / FILE


def weights(declare) -> bytes:
    """A weights file that ``declare`` fills."""
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        declare(opened)
    return file.getvalue()


def settings(members: dict[str, bytes], **changes) -> bytes:
    return json.dumps(json.loads(members["config.json"]) | changes).encode()


def stored(members: dict[str, bytes], sizes: object) -> dict[str, bytes]:
    """The members of a captioner of stored features, whose sizes are these."""
    changed = {"features": "bu_att", "encoder": "resnet50", "image_size": 224, "feature_grid": 1}
    return members | {"config.json": settings(members, **changed), "features.json": json.dumps(sizes).encode()}


def huge(file: h5py.File) -> None:
    file.create_dataset("layers/dense/vars/0", (1 << 15, 1 << 15), "float32", chunks=(16, 16))  # 4 GB of zeros


def saved_model(change) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        change(archive)
    return file.getvalue()


HOSTILE = {
    "a zip bomb": lambda given: given | {"decoder.weights.h5": bytes(3 << 20)},
    "a bomb in the settings": lambda given: given | {"config.json": b" " * (3 << 20)},
    "a million units": lambda given: given | {"config.json": settings(given, hidden_size=10**6)},
    "as many units as are allowed": lambda given: given | {"config.json": settings(given, hidden_size=8192)},
    "a large embedding": lambda given: given | {"config.json": settings(given, embedding_size=8192)},
    "an endless caption": lambda given: given | {"config.json": settings(given, max_caption_length=10**8)},
    "endless batches": lambda given: given | {"config.json": settings(given, decode_batch_size=10**9)},
    "endless threads": lambda given: given | {"config.json": settings(given, workers=10**6)},
    "words without weights": lambda given: (
        given
        | {
            "vocabulary.json": json.dumps(
                {"words": ["<pad>", "<start>", "<end>", "<unk>", *map(str, range(10**4))]}
            ).encode()
        }
    ),
    "an array of 4 GB in the decoder": lambda given: given | {"decoder.weights.h5": weights(huge)},
    "a link to another file": lambda given: (
        given
        | {"decoder.weights.h5": weights(lambda file: file.update({"layers": h5py.ExternalLink("/etc/passwd", "/")}))}
    ),
    "a loop of links": lambda given: (
        given | {"decoder.weights.h5": weights(lambda file: file.update({"a": file["/"]}))}
    ),
    "garbage for weights": lambda given: given | {"decoder.weights.h5": b"garbage"},
    "nothing for weights": lambda given: given | {"decoder.weights.h5": b""},
    "weights of another model": lambda given: (
        given | {"decoder.weights.h5": weights(lambda file: file.update({"other": np.zeros(10**4, "float32")}))}
    ),
    "no decoder": lambda given: {name: given[name] for name in given if name != "decoder.weights.h5"},
    "no encoder": lambda given: {name: given[name] for name in given if name != "encoder.keras"},
    "garbage for an encoder": lambda given: given | {"encoder.keras": b"PK garbage"},
    "an encoder that is a bomb": lambda given: (
        given | {"encoder.keras": saved_model(lambda archive: archive.writestr("config.json", b" " * (3 << 20)))}
    ),
    "an encoder with an array of 4 GB": lambda given: (
        given | {"encoder.keras": saved_model(lambda archive: archive.writestr("model.weights.h5", weights(huge)))}
    ),
    "an encoder with a billion units": lambda given: (
        given
        | {
            "encoder.keras": saved_model(
                lambda archive: archive.writestr("config.json", '{"config": {"units": 1000000000}}')
            )
        }
    ),
    "features of a billion numbers": lambda given: stored(given, {"regions": 4, "feature_size": 10**9}),
    "features of a million numbers": lambda given: stored(given, {"regions": 4, "feature_size": 10**6}),
    "features without sizes": lambda given: stored(given, []),
    "settings that are not UTF-8": lambda given: given | {"config.json": b"\xff"},
    "settings nested deeply": lambda given: given | {"config.json": b"[" * 10**5},
    "words that are not UTF-8": lambda given: given | {"vocabulary.json": b'{"words": ["\xff"]}'},
    "words that are no texts": lambda given: given | {"vocabulary.json": b'{"words": [[]]}'},
    "a member named ..": lambda given: given | {"..": b""},
    "a member in another folder": lambda given: given | {"../../x": b""},
    "a member with a long name": lambda given: given | {"x" * 300: b""},
    "a member with NUL": lambda given: given | {"x\0y": b""},
    "very many members": lambda given: given | {f"x{i}": b"" for i in range(100)},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_bundle_is_named_and_takes_no_memory(members, tmp_path, change):
    path = pack(tmp_path, change(members))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"captioner\.zip"):
            Captioner.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_the_same_bundle_without_harm_is_read(members, tmp_path):
    assert settings_of(pack(tmp_path, members), "captioner").hidden_size


@pytest.mark.parametrize(
    "about",
    [
        {"format": 10**30},
        {"format": True},
        {"sha256": {"config.json": 7}},
        {"kind": []},
        {"kind": "x" * 300},
        {"encoder": []},
        {"encoder": {"file": 1, "digest": ""}},
        {"encoder": {"file": "a\0b", "digest": ""}},
        {"encoder": {"file": "x" * 5000, "digest": ""}},
    ],
)
def test_a_damaged_list_of_members_is_named(members, tmp_path, about):
    with pytest.raises(UserError, match=r"captioner\.zip"):
        Captioner.load(pack(tmp_path, members, **about))
    if "encoder" not in about:
        with pytest.raises(UserError, match=r"captioner\.zip"):
            kind_of(tmp_path / FILE)


def test_a_lie_about_the_packed_size_is_seen(members, tmp_path):
    """The directory of a zip file says how large a member is when it is packed. The file itself bounds that."""
    path = pack(tmp_path, members | {"decoder.weights.h5": bytes(3 << 20)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("decoder.weights.h5").compress_size
    place = content.rindex(b"decoder.weights.h5") - 46 + 20  # the field in the directory
    assert int.from_bytes(content[place : place + 4], "little") == size
    path.write_bytes(content[:place] + (3 << 20).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(UserError, match=r"captioner\.zip"):
        Captioner.load(path)
