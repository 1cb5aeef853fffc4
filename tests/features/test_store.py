"""The feature store: right features, whatever happens on the way, and no store taken for another."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import OPTIONS, ROOT, fake_encoder, fake_pixels

from captioning.base.errors import UserError
from captioning.features.batch_marks import Marks
from captioning.features.store import FeatureStore, StoreKey, digest_images, extract
from captioning.pictures.loading import UnreachableImage, UnreadableImage

KEY = StoreKey("fake", "w" * 64, "recipe-1", 32, 1, "float16", "i" * 64)
SHAPE = (2, 3)
NAMES = [f"{i:03}.jpg" for i in range(22)]  # the last batch of 4 is not full
BROKEN = {NAMES[i] for i in (1, 5, 18)}


def load(name: str) -> np.ndarray:
    if name in BROKEN:
        raise UnreadableImage(f"{name}: cannot be read as a picture: no picture format that Pillow knows")
    return fake_pixels(name)


def make(folder: Path, names=NAMES, key=KEY, load=load, encode=None, shape=SHAPE, **options) -> FeatureStore:
    return extract(folder, key, names, load, encode or fake_encoder(shape), shape, **OPTIONS | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """Ends an extraction like a signal would."""


# Content --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_each_image_gets_its_features(tmp_path, dtype):
    store = make(tmp_path / "store", list(reversed(NAMES)), replace(KEY, dtype=dtype))
    assert sorted(store.rows) == [name for name in NAMES if name not in BROKEN]
    assert (store.regions, store.feature_size, store.dtype) == (*SHAPE, dtype)
    for name, row in store.rows.items():
        wanted = fake_encoder(SHAPE)(fake_pixels(name)[None])[0].astype(dtype)
        np.testing.assert_array_equal(store.read(np.array([row]))[0], wanted)


def test_unreadable_images_are_listed_with_the_reason_and_left_out(tmp_path):
    store = make(tmp_path / "store")
    assert list(store.unreadable) == sorted(BROKEN)
    assert all(reason.startswith(f"{name}: cannot be read") for name, reason in store.unreadable.items())
    assert not set(store.rows) & BROKEN
    assert store.read(np.array([NAMES.index(min(BROKEN))])).max() == 0


def test_a_file_that_the_system_does_not_give_now_is_not_left_out_for_ever(tmp_path):
    def refused(name):
        if name == NAMES[9]:
            raise UnreachableImage(f"{name}: cannot be read as a picture: Permission denied")
        return load(name)

    with pytest.raises(UserError, match=rf"{NAMES[9]}: .*Permission denied; make the file readable and run"):
        make(tmp_path / "store", load=refused)
    done = (tmp_path / "store" / "progress.bin").read_bytes()
    assert 1 in done
    assert 0 in done
    make(tmp_path / "store")
    make(tmp_path / "other")
    assert contents(tmp_path / "store") == contents(tmp_path / "other")


def test_a_batch_without_one_readable_image(tmp_path):
    """The encoder takes one image size only, also where no image of a batch says which."""
    sizes = set()

    def encode(pixels):
        sizes.add(pixels.shape)
        return fake_encoder(SHAPE)(pixels)

    def load_48(name):
        if name in NAMES[4:8] + NAMES[20:]:
            load(min(BROKEN))
        return np.resize(fake_pixels(name), (48, 48, 3))

    store = make(tmp_path / "store", key=replace(KEY, image_size=48), load=load_48, encode=encode)
    assert sizes <= {(4, 48, 48, 3)}
    assert len(store.rows) == 16


def test_read_repeats_and_reorders(make_store):
    store = make_store(NAMES)
    everything = np.load(store.folder / "features.npy")
    rows = np.array([5, 0, 5, 21, 3, 3])
    np.testing.assert_array_equal(store.read(rows), everything[rows])
    part = store.read(rows)
    part[:] = -1  # a copy: the store cannot be changed through it
    np.testing.assert_array_equal(store.read(rows), everything[rows])


def test_reading_from_several_threads(make_store):
    store = make_store(NAMES)
    everything = np.load(store.folder / "features.npy")

    def read(seed):
        rows = np.random.default_rng(seed).integers(0, len(NAMES), 50)
        return np.array_equal(store.read(rows), everything[rows])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_what_was_read_does_not_stay_in_memory(make_store):
    store = make_store([f"{i:04}.png" for i in range(2048)], shape=(1024, 3), batch_size=64)  # 24 MiB
    mapped = []
    for start in range(0, 2048, 64):
        store.read(np.arange(start, start + 64))
        mapped.append(int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1]))  # KiB
    assert max(mapped) - min(mapped) < 8 << 10


def test_a_finished_store_is_opened_not_made_again(tmp_path):
    make(tmp_path / "store")
    before = contents(tmp_path / "store")
    make(tmp_path / "store", load=None, encode=lambda pixels: pytest.fail("encoded again"))
    assert contents(tmp_path / "store") == before


def test_fingerprint_depends_on_every_part():
    changed = [replace(KEY, **{name: 7 if isinstance(value, int) else "x"}) for name, value in vars(KEY).items()]
    assert len({key.fingerprint for key in [KEY, *changed]}) == len(changed) + 1
    assert re.fullmatch("[0-9a-f]{20}", KEY.fingerprint)


def test_digest_of_images_depends_on_names_and_sizes_not_on_order(tmp_path):
    for name, size in (("a", 3), ("b", 4)):
        (tmp_path / name).write_bytes(bytes(size))
    paths = {name: tmp_path / name for name in "ab"}
    first = digest_images(paths.items())
    # The same digest as in every release, or the stores on people's disks would be lost.
    assert first == hashlib.sha256(b"a\t3\nb\t4").hexdigest()
    assert digest_images(reversed(paths.items())) == first
    assert digest_images([("a", tmp_path / "a")]) != first
    (tmp_path / "a").write_bytes(bytes(9))
    assert digest_images(paths.items()) != first


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", list(vars(KEY)))
def test_the_store_of_something_else_is_refused_and_the_difference_named(tmp_path, part):
    make(tmp_path / "store")
    other = replace(KEY, **{part: 7 if isinstance(getattr(KEY, part), int) else "other"})
    with pytest.raises(UserError, match=f"this store's {part} is .* is wanted; run preprocessing.py"):
        FeatureStore(tmp_path / "store", other)
    with pytest.raises(UserError, match=f"this store's {part} is"):
        make(tmp_path / "store", key=other)


def test_a_begun_store_of_something_else_is_refused(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path / "store", encode=_killing(1))
    with pytest.raises(UserError, match=r"begun with other settings \(weights\); delete it"):
        make(tmp_path / "store", key=replace(KEY, weights="other"))


def test_an_unfinished_store_is_not_opened(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path / "store", encode=_killing(1))
    with pytest.raises(UserError, match=r"not a finished feature store \(index.json is missing\)"):
        FeatureStore(tmp_path / "store")
    with pytest.raises(UserError, match="not a finished feature store"):
        FeatureStore(tmp_path / "nowhere")


def _truncate(data: bytes) -> bytes:
    return data[:-1]


def _header_only(data: bytes) -> bytes:
    return data[:60]


def _empty(data: bytes) -> bytes:
    return b""


def _text(data: bytes) -> bytes:
    return b"no such thing"


def _pickle(data: bytes) -> bytes:
    return b"\x80\x04\x95" + data


def _other_rows(data: bytes) -> bytes:
    return data.replace(b"(22, 2, 3)", b"(11, 2, 3)")


def _flat(data: bytes) -> bytes:
    return data.replace(b"(22, 2, 3)", b"(132,)    ")


def _cut_header(data: bytes) -> bytes:
    return data.replace(b"}", b" ", 1)


def _version(data: bytes) -> bytes:
    return data[:6] + b"\x03" + data[7:]


def _long_header(data: bytes) -> bytes:
    return data[:8] + b"\xff\xff" + data[10:]


def _objects(data: bytes) -> bytes:
    return data.replace(b"'<f2'", b"'|O' ")


def _columns_first(data: bytes) -> bytes:
    return data.replace(b"False", b"True ", 1)


def _latin(data: bytes) -> bytes:
    return data.replace(b"e", b"\xe9", 1)


def _deep(data: bytes) -> bytes:
    return b"[" * 100_000


WRONG_ROWS = (b"1", b"-1", b"22", b'"0"', b"0.0", b"null", b"true", b"Infinity", b"9" * 5000)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("features.npy", damage) for damage in (_truncate, _header_only, _empty, _text, _pickle, _other_rows, _flat)]
    + [("features.npy", damage) for damage in (_cut_header, _version, _long_header, _objects, _columns_first)]
    + [("index.json", damage) for damage in (_truncate, _empty, _latin, _deep, lambda data: b"{}", lambda data: b"[]")]
    + [("index.json", lambda data, row=row: data.replace(b'"000.jpg": 0', b'"000.jpg": ' + row)) for row in WRONG_ROWS]
    + [("index.json", lambda data: data.replace(b'"001.jpg": "001', b'"001.jpg": 7, "x": "001'))]
    + [("key.json", damage) for damage in (_truncate, _empty, _latin, _deep)],
)
def test_a_damaged_store_is_named(tmp_path, name, damage):
    folder = tmp_path / "store"
    make(folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(UserError, match=f"^{folder}: damaged feature store .* delete it and run preprocessing.py"):
        make(folder)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("features.npy", damage) for damage in (_truncate, _empty, _text, _cut_header, _other_rows, _flat)]
    + [("key.json", damage) for damage in (_truncate, _empty, _latin, _deep)]
    + [
        ("key.json", lambda data, size=size: data.replace(b'"batch_size": 4', b'"batch_size": ' + size))
        for size in (b"0", b"-4", b"1000000000", b'"4"', b"null", b"4.5", b"true", b"NaN")
    ],
)
def test_a_begun_store_that_is_damaged_is_named(tmp_path, name, damage):
    folder = tmp_path / "store"
    with pytest.raises(Killed):
        make(folder, encode=_killing(3))
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(UserError, match=f"^{folder}: damaged feature store .* delete it"):
        make(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file/store: cannot write the feature store: Not a directory"):
        make(tmp_path / "file" / "store")
    with pytest.raises(UserError, match="file: cannot write the feature store: "):
        make(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="store: cannot write the feature store: Permission denied"):
        make(tmp_path / "store")


# Checksums ------------------------------------------------------------------------------------------------------------


def _change(path: Path, place: int, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= bits
    path.write_bytes(data)


def _add(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2])


HARM = {
    "a mark that was added": lambda folder: _change(folder / "progress.bin", 4),
    "a mark that was removed": lambda folder: _change(folder / "progress.bin", 0),
    "a short progress.bin": lambda folder: _shorten(folder / "progress.bin"),
    "no progress.bin": lambda folder: (folder / "progress.bin").unlink(),
    "a long progress.bin": lambda folder: (folder / "progress.bin").write_bytes(bytes(1000)),
    "another number": lambda folder: _change(folder / "features.npy", 128 + 17),
    "another checksum": lambda folder: _change(folder / "checksums.bin", 5),
    "no checksums": lambda folder: (folder / "checksums.bin").unlink(),
    "no checksums and a mark that was added": lambda folder: (
        (folder / "checksums.bin").unlink(),
        _change(folder / "progress.bin", 4),
    ),
    "short checksums": lambda folder: _shorten(folder / "checksums.bin"),
    "no reasons": lambda folder: (folder / "unreadable.jsonl").unlink(),
    "a reason that is no text": lambda folder: (folder / "unreadable.jsonl").write_text('{"001.jpg": 7}\n[]\n{}\n'),
    "a reason for an image that is readable": lambda folder: _add(
        folder / "unreadable.jsonl", b'{"000.jpg": "why"}\n{"other.jpg": "why"}\n'
    ),
    "garbage for reasons": lambda folder: (folder / "unreadable.jsonl").write_bytes(b"\xff\n" + b"[" * 10**5 + b"\n"),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_begun_store_that_was_changed_ends_as_if_it_had_not_been(tmp_path, harm):
    folder = tmp_path / "store"
    make(tmp_path / "whole")
    with pytest.raises(Killed):
        make(folder, encode=_killing(3))
    harm(folder)
    make(folder)
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "place"), [("features.npy", 130), ("features.npy", -1), ("checksums.bin", 0), ("checksums.bin", 13)]
)
def test_a_finished_store_that_was_changed_is_mended_when_it_is_verified(tmp_path, capsys, name, place):
    folder, encoded = tmp_path / "store", []
    make(folder)
    before = contents(folder)
    make(folder, verify=True, encode=lambda pixels: pytest.fail("nothing is damaged"))
    assert "verified, all 6 batches are as they were written" in capsys.readouterr().err
    _change(folder / name, place, 0x40)
    make(folder, verify=True, encode=lambda pixels: encoded.append(1) or fake_encoder(SHAPE)(pixels))
    assert "1 of 6 batches are damaged and are extracted again" in capsys.readouterr().err
    assert len(encoded) == 1
    assert contents(folder) == before


def test_a_reason_that_was_changed_is_noticed(tmp_path):
    folder = tmp_path / "store"
    make(folder)
    before = contents(folder)
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace("no picture format", "no such format"))
    make(folder, verify=True)
    assert contents(folder) == before


def test_a_store_is_read_back_before_it_counts_as_finished(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    real = Marks.mark

    def forgetful(marks, number, checksum):
        real(marks, number, checksum)
        if number == 2:
            _change(folder / "features.npy", 128 + 2 * 4 * 12)

    monkeypatch.setattr(Marks, "mark", forgetful)
    with pytest.raises(UserError, match="the disk gives back other bytes than were written"):
        make(folder)
    assert not (folder / "index.json").exists()
    monkeypatch.undo()
    make(folder)
    make(tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_stores_of_releases_without_checksums(tmp_path, capsys):
    folder = tmp_path / "store"
    make(tmp_path / "whole")
    with pytest.raises(Killed):
        make(folder, encode=_killing(3))
    (folder / "checksums.bin").unlink()
    text = (folder / "key.json").read_text()
    (folder / "key.json").write_text(text.replace(',\n  "checksums": true', ""))
    encoded = []
    make(folder, encode=lambda pixels: encoded.append(1) or fake_encoder(SHAPE)(pixels))
    assert len(encoded) == 3, "what was done stays"
    (folder / "key.json").write_text(text)
    assert contents(folder) == contents(tmp_path / "whole"), "a begun one gets some"
    (folder / "key.json").write_text(text.replace(',\n  "checksums": true', ""))
    (folder / "checksums.bin").unlink()
    assert len(FeatureStore(folder, KEY).rows) == 19
    make(folder, verify=True, encode=lambda pixels: pytest.fail("nothing is known to be damaged"))
    assert "made by a release without checksums, so it cannot be verified" in capsys.readouterr().err


def test_features_that_are_removed_while_they_are_read_are_named(make_store):
    store = make_store(NAMES)
    (store.folder / "features.npy").unlink()
    with pytest.raises(UserError, match=r"features\.npy cannot be read any more \(No such file"):
        store.read(np.array([0]))


# Interruption ---------------------------------------------------------------------------------------------------------


def _killing(batch: int):
    """An ``encode`` that ends the process's work at this batch, counted from 0."""
    left = [batch]

    def encode(pixels):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return fake_encoder(SHAPE)(pixels)

    return encode


def test_interrupted_before_each_sync_of_a_file_and_resumed(tmp_path, monkeypatch):
    """Every file operation that makes something durable, or replaces a file, is once the last one."""
    make(tmp_path / "whole")
    real = {"fsync": os.fsync, "replace": os.replace}
    for calls in range(100):
        left = [calls]

        def dying(name, left=left):
            def call(*args):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real[name](*args)

            return call

        folder = tmp_path / f"killed-{calls}"
        for name in real:
            monkeypatch.setattr(os, name, dying(name))
        try:
            make(folder, batch_size=4)
        except Killed:
            for name, function in real.items():
                monkeypatch.setattr(os, name, function)
            begun = (folder / "key.json").exists()
            make(folder, batch_size=7 if begun else 4)  # a begun store keeps its batch size
            assert contents(folder) == contents(tmp_path / "whole")
        else:
            break
    assert 15 < calls < 99


def test_resuming_encodes_only_what_is_left(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path / "store", encode=_killing(4))
    encoded = []
    make(tmp_path / "store", encode=lambda pixels: encoded.append(1) or fake_encoder(SHAPE)(pixels))
    assert len(encoded) == 2  # of six


def test_a_line_cut_short_by_a_crash_is_no_obstacle(tmp_path):
    make(tmp_path / "whole")
    with pytest.raises(Killed):
        make(tmp_path / "store", encode=_killing(4))
    with open(tmp_path / "store" / "unreadable.jsonl", "a") as file:
        file.write('{"018.jpg": "018.jpg: can')
    make(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


CHILD = """
import sys, time
from pathlib import Path
from test_store import *

def slow(pixels):
    time.sleep(0.02)
    return fake_encoder(SHAPE)(pixels)

make(Path(sys.argv[1]), names=[f"{i:03}.jpg" for i in range(300)], encode=slow)
"""


def start_child(folder: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/features")]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_killed_again_and_again_and_resumed(tmp_path):
    """``kill -9`` at random moments, then one undisturbed end: all files as if nothing had happened."""
    names = [f"{i:03}.jpg" for i in range(300)]
    make(tmp_path / "whole", names)
    folder, rng = tmp_path / "store", random.Random(0)
    done, kills = 0, 0
    for _ in range(4):
        child = start_child(folder)
        deadline = time.monotonic() + 60
        while (now := _done(folder)) <= done and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        child.kill()
        child.communicate()
        kills += child.returncode == -9
        done = max(now, _done(folder))
    assert kills == 4
    assert 0 < done < 75
    make(folder, names)
    assert contents(folder) == contents(tmp_path / "whole")


def _done(folder: Path) -> int:
    progress = folder / "progress.bin"
    return progress.read_bytes().count(1) if progress.exists() else 0


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    make(tmp_path / "whole", [f"{i:03}.jpg" for i in range(300)])
    children = [start_child(tmp_path / "store") for _ in range(3)]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], errors
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Use up all the space that is left. Returns the file that does."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
    return filler


def test_a_disk_too_small_for_the_features(small_disk, tmp_path):
    wide = (64, 1000)  # 22 x 64 x 1000 x 2 bytes = 2.8 MB
    key = replace(KEY, image_size=256)

    def load_256(name):
        return np.resize(load(name), (256, 256, 3))

    with pytest.raises(UserError, match=r"the disk is full; the features need 2\.8 MB\..*--feature-dir"):
        make(small_disk / "store", key=key, load=load_256, shape=wide)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    make(small_disk / "store", key=key, load=load_256, shape=wide)
    make(tmp_path / "whole", key=key, load=load_256, shape=wide)
    assert contents(small_disk / "store") == contents(tmp_path / "whole")


@pytest.mark.parametrize("batch", [0, 2, 5])
def test_a_disk_that_fills_up_on_the_way(small_disk, tmp_path, batch):
    """Features have their space from the start; what is noted of unreadable images has not."""

    def load_none(name):
        raise UnreadableImage(name + ": " + "x" * 3000)

    count = [0]

    def load_then_none(name):
        return fake_pixels(name) if int(name[:3]) < 4 * batch else load_none(name)

    def encode(pixels):
        if count[0] == 0:
            fill(small_disk)
        count[0] += 1
        return fake_encoder(SHAPE)(pixels)

    with pytest.raises(UserError, match="the disk is full"):
        make(small_disk / "store", load=load_then_none, encode=encode)
    with pytest.raises(UserError, match="the disk is full"):
        make(small_disk / "store", load=load_then_none, encode=encode)
    (small_disk / "filler").unlink()
    make(small_disk / "store", load=load_then_none)
    make(tmp_path / "whole", load=load_then_none)
    assert contents(small_disk / "store") == contents(tmp_path / "whole")
    assert len(json.loads((small_disk / "store" / "index.json").read_text())["unreadable"]) == 22 - 4 * batch
