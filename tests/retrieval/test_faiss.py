"""Searches with candidates from faiss: equal scores, pictures that come and go, interruptions and damaged files."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from captioning.base.errors import UserError
from captioning.retrieval import index_types
from captioning.retrieval.approximate import KINDS, Approximate
from captioning.retrieval.index import ImageIndex, create
from captioning.retrieval.index_types import attach
from captioning.retrieval.ranking import neighbours

pytestmark = pytest.mark.slow
pytest.importorskip("faiss")

J, PICTURES = 16, 2_000


def units(vectors) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def drawn(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors in 40 clusters."""
    centres = np.random.default_rng(99).normal(size=(40, J))
    rng = np.random.default_rng(seed)
    return units(centres[rng.integers(40, size=count)] + 0.6 * rng.normal(size=(count, J)))


VECTORS, QUERIES = drawn(PICTURES), drawn(50, 1)


def index_of(folder: Path, vectors: np.ndarray) -> ImageIndex:
    images = [(f"{number}.jpg", (1, 1)) for number in range(len(vectors))]
    return create(folder, "m", "s", images, {}, [vectors], J)


@pytest.fixture(scope="module", params=list(KINDS))
def built(request, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("faiss") / request.param
    attach(index_of(folder, VECTORS), request.param, lambda: {"words": drawn(200, 2)})
    return request.param, folder


@pytest.fixture
def copied(built, tmp_path) -> tuple[str, Path]:
    """The same folder, for a test that changes it."""
    shutil.copytree(built[1], tmp_path / "index")
    return built[0], tmp_path / "index"


def changed(copied, tmp_path, vectors: np.ndarray) -> ImageIndex:
    """An index of other ``vectors``, with the files of the one that was built."""
    kind, folder = copied
    index = index_of(tmp_path / "changed", vectors)
    for path in folder.glob(f"{kind}*"):
        shutil.copy(path, index.folder)
    return index


@pytest.fixture
def learned(monkeypatch) -> list[int]:
    """How many pictures faiss learns at a time, from here on."""
    counts: list[int] = []
    add = Approximate.add

    def spy(self, rows, keys):
        counts.append(len(rows))
        add(self, rows, keys)

    monkeypatch.setattr(Approximate, "add", spy)
    return counts


def named(kind: str, folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{kind}*"))


def recall(index: ImageIndex, vectors: np.ndarray) -> float:
    exact = neighbours(QUERIES, vectors, 5)[0]
    found = index.search(QUERIES, 5)[0]
    return np.mean([len({*a} & {*b}) / 5 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])


def test_what_is_found_has_the_scores_of_exact_search(built, learned):
    kind, folder = built
    index = ImageIndex(folder)
    attach(index, kind)
    assert not learned, "it was read from the disk"
    rows, cosines = index.search(QUERIES, 5)
    assert (rows.shape, rows.dtype, cosines.dtype) == ((50, 5), np.intp, np.float32)
    np.testing.assert_allclose(cosines, np.einsum("qkj,qj->qk", VECTORS[rows], QUERIES), atol=1e-6)
    assert (np.diff(cosines) <= 0).all()
    assert recall(index, VECTORS) > 0.97
    # So many are wanted that all are compared.
    np.testing.assert_array_equal(index.search(QUERIES, 900)[0], neighbours(QUERIES, VECTORS, 900)[0])
    assert index.search(QUERIES, 9_999)[0].shape == (50, PICTURES)


def test_faiss_looks_at_a_part_only(built, monkeypatch):
    index = ImageIndex(built[1])
    attach(index, built[0])
    monkeypatch.setattr("captioning.retrieval.approximate.neighbours", None)
    index.search(QUERIES, 5)


def test_the_recall_is_told_and_kept(built, tmp_path, capsys):
    kind, folder = built
    about = json.loads((folder / f"{kind}.json").read_text())
    assert sorted(about["recall"]) == ["photos", "words"]
    assert min(about["recall"].values()) > 0.95
    attach(index_of(tmp_path / "new", VECTORS), kind)
    assert f"recall@10 of {kind} against exact search: " in capsys.readouterr().err
    worse = Approximate.made(kind, VECTORS)
    worse.add(np.arange(0, PICTURES, 2), np.arange(PICTURES // 2, dtype=np.uint64))  # half of the pictures
    worse.measure({})
    assert 0.3 < worse.recall["photos"] < 0.7


def test_new_pictures_are_added(copied, tmp_path, learned):
    vectors = np.concatenate([VECTORS, drawn(60, 3)])
    index = changed(copied, tmp_path, vectors)
    before = json.loads((index.folder / f"{copied[0]}.json").read_text())
    attach(index, copied[0])
    assert learned == [60]
    assert (index.search(vectors[-60:], 1)[0][:, 0] == np.arange(PICTURES, PICTURES + 60)).mean() > 0.95
    assert named(copied[0], index.folder) == [f"{copied[0]}{end}" for end in ("-2.faiss", "-2.npy", ".json")]
    after = json.loads((index.folder / f"{copied[0]}.json").read_text())
    assert (after["recall"], after["measured"]) == (before["recall"], PICTURES), "a few do not change it"


def test_pictures_that_are_gone_are_not_found(copied, tmp_path, learned):
    kind = copied[0]
    kept = np.arange(PICTURES) >= 100
    index = changed(copied, tmp_path, VECTORS[kept])
    attach(index, kind)
    assert not learned
    assert named(kind, index.folder) == [f"{kind}-1.faiss", f"{kind}-2.npy", f"{kind}.json"]
    rows, cosines = index.search(VECTORS[:100], 5)
    np.testing.assert_allclose(cosines, np.einsum("qkj,qj->qk", VECTORS[kept][rows], VECTORS[:100]), atol=1e-6)
    assert recall(index, VECTORS[kept]) > 0.97


def test_too_many_gone_pictures_and_other_settings_begin_anew(copied, tmp_path, learned, capsys):
    kind, folder = copied
    index = changed(copied, tmp_path, VECTORS[600:])
    attach(index, kind)
    assert sum(learned) == PICTURES - 600
    assert (index.approximate.rows >= 0).all()
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": {"links": 3}}))
    attach(ImageIndex(folder), kind)
    assert sum(learned) == 2 * PICTURES - 600
    assert "damaged" not in capsys.readouterr().err


def test_an_interrupted_build_goes_on_from_what_was_saved(tmp_path, learned, monkeypatch):
    index = index_of(tmp_path / "index", VECTORS)
    monkeypatch.setattr(index_types, "_CHUNK", 500)

    def interrupt():
        if len(learned) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attach(index, "hnsw", pause=interrupt)
    assert named("hnsw", index.folder) == []
    learned.clear()
    monkeypatch.setattr(index_types, "_SAVE_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        attach(index, "hnsw", pause=interrupt)
    assert json.loads((index.folder / "hnsw.json").read_text())["recall"] == {}
    learned.clear()
    attach(index, "hnsw")
    assert learned == [500, 500], "two of four chunks had been saved"
    assert recall(index, VECTORS) > 0.97


def _replaced(old: str, new: str):
    def damage(folder: Path) -> None:
        path = folder / "hnsw.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return damage


def _in_place(end: str, change):
    """``change`` takes and gives the content of the file with this ending, whose sum stays as it was."""

    def damage(folder: Path) -> None:
        (path,) = folder.glob(f"hnsw-*.{end}")
        path.write_bytes(change(path.read_bytes()))

    return damage


def _with_its_sum(end: str, change):
    """The same with the right sum, as if somebody had written it so."""

    def damage(folder: Path) -> None:
        _in_place(end, change)(folder)
        about = json.loads((folder / "hnsw.json").read_text())
        (path,) = folder.glob(f"hnsw-*.{end}")
        about["files"][end][1:] = index_types._sum_of(path)
        (folder / "hnsw.json").write_text(json.dumps(about))

    return damage


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize("built", ["hnsw"], indirect=True)  # the files of both kinds are read alike
@pytest.mark.parametrize(
    "damage",
    [
        *(_in_place(end, change) for end in ("faiss", "npy") for change in (flipped, lambda data: data[:-1])),
        *(_with_its_sum(end, lambda data: data[: len(data) // 2]) for end in ("faiss", "npy")),
        _with_its_sum("faiss", lambda data: b""),
        _with_its_sum("faiss", lambda data: b"IHNs" + data[4:20] + b"\xff" * 40),
        _with_its_sum("npy", lambda data: data[:-8] + (5).to_bytes(8, "little")),
        lambda folder: (folder / "hnsw-1.faiss").unlink(),
        _replaced('"hnsw-1.faiss"', '"../hnsw-1.faiss"'),
        _replaced('"hnsw-1.npy"', '"index.json"'),
        _replaced('"version": 1', '"version": 0'),
        _replaced('"made_for": 2000', '"made_for": "x"'),
        _replaced('"effort": ', '"effort": 1'),
        _replaced('"photos": ', '"photos": null, "x": '),
        lambda folder: (folder / "hnsw.json").write_text("[]"),
    ],
)
def test_damage_is_named_and_built_again(built, tmp_path, learned, capsys, damage):
    folder = tmp_path / "index"
    shutil.copytree(built[1], folder)
    damage(folder)
    index = ImageIndex(folder)
    attach(index, "hnsw")
    assert "hnsw.json: damaged (" in capsys.readouterr().err
    assert sum(learned) == PICTURES
    assert recall(index, VECTORS) > 0.97


def test_a_full_disk_is_one_error(tmp_path, monkeypatch):
    def full(found, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index_types, "_write_faiss", full)
    index = index_of(tmp_path / "index", VECTORS)
    with pytest.raises(
        UserError, match=r"index: the files of --index-type hnsw cannot be written: No space left .*make room"
    ):
        attach(index, "hnsw")
    assert named("hnsw", index.folder) == []
    assert index.search(VECTORS[:1], 1)[0].tolist() == [[0]], "exact search goes on"


def test_too_little_memory_is_one_error(tmp_path, monkeypatch):
    def exhausted(self, rows, keys):
        raise MemoryError

    monkeypatch.setattr(Approximate, "add", exhausted)
    with pytest.raises(UserError, match="index: there is too little memory for --index-type hnsw; take ivfpq or exact"):
        attach(index_of(tmp_path / "index", VECTORS), "hnsw")


def test_a_searcher_serves_again_while_nothing_changes(copied, learned):
    kind, folder = copied
    first = attach(ImageIndex(folder), kind)
    again = ImageIndex(folder)
    assert attach(again, kind, before=first) is first
    assert first.vectors is again.vectors
