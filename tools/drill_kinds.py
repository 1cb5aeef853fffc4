"""The kinds of files that this software reads, for ``tools/drill.py``: each makes small whole ones, and reads them.

Only those kinds need Keras that say so.
"""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioning.albums.captions import read_lines
from captioning.base.errors import UserError
from captioning.base.files import load_arrays, save_arrays
from captioning.command_line.reading import read_settings
from captioning.data import datasets, scenes
from captioning.data.predictions import read_predictions
from captioning.data.records import ImageRecord
from captioning.embeddings.file import read_vectors
from captioning.features.store import FeatureStore, StoreKey, extract
from captioning.pictures.loading import load_image
from captioning.pictures.metadata import write_caption
from captioning.reports.rows import read_rows
from captioning.retrieval.index import ImageIndex, update
from captioning.storage.runs import Run
from captioning.words.vocabulary import Vocabulary
from config import ROOT, Config, DataSettings

_SMALL = Config(
    encoder="mine.keras", image_size=32, embedding_size=8, hidden_size=8, max_caption_length=6, batch_size=4
)
WORDS = Vocabulary(["a", "dog", "runs", "on", "grass"])


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Kind:
    """A kind of file. ``make`` writes whole ones into a folder. ``read`` reads them, or raises UserError if it must.

    ``writes``: whether ``read`` may change files in the folder, as work that goes on does. ``keras``: whether it
    imports Keras. ``share``: how many of the inputs it gets, compared with other kinds; less where reading takes long.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], object]
    writes: bool = False
    keras: bool = False
    share: float = 1.0


# Settings, words, runs -----------------------------------------------------------------------------------------------


def _settings(folder: Path) -> None:
    (folder / "config.json").write_text(Config().to_json(), encoding="utf-8")


def _run(folder: Path) -> None:
    run = Run.create(Config(run_dir=str(folder)), WORDS, "run")
    run.write_history(
        [{"epoch": i, "nll": 3.0 / i, "val_nll": 4.0 / i, "bleu4": 2.0 * i, "cider": 5.0 * i} for i in (1, 2, 3)]
    )
    run.write_state(epochs=3, best_epoch=3, best_score=6.0)
    (run.folder / "about.json").write_text(json.dumps({"command": "train.py", "seed": 0, "resumed": []}))


def _read_run(folder: Path) -> object:
    run = Run.open(str(folder / "run"))
    return run.config(), run.vocabulary(), run.history(), run.state()


def _begin_run(folder: Path) -> None:
    """What resuming does to about.json, without the versions of packages, which take long to find."""
    run = Run.open(str(folder / "run"))
    run.state()
    run.begin(run.config())


def _scores(folder: Path) -> None:
    rows = json.loads((ROOT / "results/flickr8k-merge/scores-test-coco.json").read_text(encoding="utf-8"))
    (folder / "scores.json").write_text(json.dumps(rows[:1]))


def _predictions(folder: Path) -> None:
    entries = [{"image_id": i, "file_name": f"{i}.jpg", "caption": "a dog runs", "cider": 31.5} for i in range(6)]
    (folder / "predictions.json").write_text(json.dumps(entries))


def _read_predictions(folder: Path) -> object:
    records = [ImageRecord(i, f"{i}.jpg", folder / f"{i}.jpg", ("a dog runs",), "test") for i in range(6)]
    return read_predictions(folder / "predictions.json", records)


def _arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    save_arrays(
        folder / "embedding.npz", {"vectors": rng.normal(size=(9, 5)).astype("float32"), "pieces": np.arange(9)}
    )


def _vectors(folder: Path) -> None:
    lines = ["5 4", *(f"{word} {' '.join('0.25' for _ in range(4))}" for word in WORDS.words[4:])]
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")


# Features and indexes ------------------------------------------------------------------------------------------------

_KEY = StoreKey("drill", "0" * 64, "none", 32, 1, "float16", "1" * 64)
_NAMES = [f"{i:02}.jpg" for i in range(14)]


def _pixels(name: str) -> np.ndarray:
    return np.full((32, 32, 3), int(name[:2]), "uint8")


def _encode(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :1, :4, 0] / 256 + 1


def _extract(folder: Path, encode: Callable = _encode, verify: bool = False) -> FeatureStore:
    return extract(folder / "store", _KEY, _NAMES, _pixels, encode, (1, 4), batch_size=4, verify=verify)


class _Stop(BaseException):
    pass


def _begun_store(folder: Path) -> None:
    left = [2]

    def encode(pixels: np.ndarray) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise _Stop
        return _encode(pixels)

    try:
        _extract(folder, encode)
    except _Stop:
        return


def _finish_store(folder: Path) -> object:
    """What is read of a store that was begun must be right, whatever happened to its files."""
    store = _extract(folder)
    for name, row in store.rows.items():
        if not np.array_equal(store.read(np.array([row]))[0], _encode(_pixels(name)[None])[0].astype("float16")):
            raise AssertionError(f"{name} has other features, and nothing was said")
    return store


def _open_store(folder: Path) -> object:
    return FeatureStore(folder / "store", _KEY).read(np.arange(len(_NAMES)))


def _index(folder: Path) -> ImageIndex:
    (folder / "photos").mkdir(exist_ok=True)
    paths = {name: folder / "photos" / name for name in _NAMES}
    for name, path in paths.items():
        if not path.exists():
            path.write_text(name)

    def embed(names: list[str]) -> Iterator:
        yield names, np.eye(8, dtype="float32")[[int(name[:2]) % 8 for name in names]], {}

    return update(folder / "index", "model", "photos", paths, embed, 8)  # type: ignore[arg-type]


def _search(folder: Path) -> object:
    """What is read of an index must be right."""
    index = ImageIndex(folder / "index")
    for name, vector in zip(index.images, index.vectors, strict=True):
        if not np.array_equal(vector, np.eye(8)[int(name[:2]) % 8]):
            raise AssertionError(f"{name} has another vector, and nothing was said")
    return index.search(np.eye(8, dtype="float32")[:2], 3)


# Data sets -----------------------------------------------------------------------------------------------------------


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _flickr8k(folder: Path) -> None:
    names = "abcdef"
    splits = {"train": "abc", "dev": "d", "test": "ef"}
    _write(folder, {f"Flicker8k_Dataset/{name}.jpg": "" for name in names})
    _write(
        folder, {f"Flickr_8k.{split}Images.txt": "".join(f"{n}.jpg\n" for n in part) for split, part in splits.items()}
    )
    _write(folder, {"Flickr8k.token.txt": "".join(f"{n}.jpg#{k}\tA dog {k} runs .\n" for n in names for k in range(2))})


def _flickr30k(folder: Path) -> None:
    _write(folder, {f"flickr30k-images/{i}.jpg": "" for i in range(8)})
    lines = [
        "image_name| comment_number| comment",
        *(f"{i}.jpg| {k}| A dog runs ." for i in range(8) for k in range(2)),
    ]
    _write(folder, {"results.csv": "\n".join(lines) + "\n"})


def _coco(folder: Path) -> None:
    for part, ids in (("train", (3, 25, 50)), ("val", (7, 75))):
        content = {
            "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids],
            "annotations": [{"id": i, "image_id": i, "caption": "a dog"} for i in ids],
        }
        _write(folder, {f"{part}2017/{i:012d}.jpg": "" for i in ids})
        _write(folder, {f"annotations/captions_{part}2017.json": json.dumps(content)})


def _karpathy(folder: Path) -> None:
    splits = ("train", "train", "val", "test")
    images = [
        {"filename": f"{i}.jpg", "split": split, "sentences": [{"raw": "a dog runs", "tokens": ["a"]}], "imgid": i}
        for i, split in enumerate(splits)
    ]
    _write(folder, {f"images/{i}.jpg": "" for i in range(len(splits))})
    _write(folder, {"split.json": json.dumps({"images": images, "dataset": "x"})})


def _table(folder: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(
        [("image", "caption", "split"), *((f"{i}.jpg", "A dog, here", "train") for i in range(6))]
    )
    _write(folder, {f"images/{i}.jpg": "" for i in range(6)} | {"captions.csv": text.getvalue()})


def _lines(folder: Path) -> None:
    rows = [json.dumps({"image": f"{i}.jpg", "captions": ["A dog", "It runs"], "split": "dev"}) for i in range(6)]
    _write(folder, {f"images/{i}.jpg": "" for i in range(6)} | {"captions.jsonl": "\n".join(rows)})


def _dataset(**settings: str) -> Callable[[Path], object]:
    """Reads a data set. ``settings`` may name files and folders below the drill's folder."""

    def read(folder: Path) -> object:
        named = {"data_dir": str(folder / settings.get("data_dir", ""))}
        if "captions_file" in settings:
            named["captions_file"] = str(folder / settings["captions_file"])
        return datasets.load(DataSettings(**(settings | named)))  # type: ignore[arg-type]

    return read


def _scenes(folder: Path) -> None:
    scenes.ensure(folder / "demo", 20, 0)
    for path in (folder / "demo" / "images").iterdir():
        path.unlink()  # only what is read here


def _read_scenes(folder: Path) -> object:
    return scenes.load_scenes(folder / "demo")


# Pictures and albums -------------------------------------------------------------------------------------------------


def _picture(kind: str, **options: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"a.{kind}", **options)  # type: ignore[arg-type]

    return make


def _load_picture(folder: Path) -> object:
    return [load_image(path, 32) for path in folder.iterdir() if path.is_file()]


def _write_metadata(folder: Path) -> object:
    return [write_caption(path, "a dog runs", True) for path in sorted(folder.iterdir()) if path.suffix != ".xmp"]


def _album(folder: Path) -> None:
    lines = [json.dumps({"image": f"{i}.jpg", "captions": [{"caption": "a dog", "log_prob": -1.5}]}) for i in range(6)]
    _write(folder, {"captions.jsonl": "\n".join(lines) + "\n"})


def _read_album(folder: Path) -> object:
    path = folder / "captions.jsonl"
    return list(read_lines(path)) if path.exists() else None


def _bundle(folder: Path) -> None:
    from captioning.storage import bundles  # here, because it imports Keras

    members = {"config.json": Config().to_json(), "vocabulary.json": WORDS.to_json(), "decoder.weights.h5": "weights"}
    for name, text in members.items():
        (folder / name).write_text(text)
    (folder / "run").mkdir()
    (folder / "members").mkdir()
    for name in members:
        (folder / name).rename(folder / "members" / name)
    bundles._zip(folder / "members", folder / "run" / "captioner.zip", {"format": 1, "kind": "captioner"})
    for path in (folder / "members").iterdir():
        path.unlink()
    (folder / "members").rmdir()


def _members(folder: Path) -> None:
    (folder / "config.json").write_text(Config().to_json(), encoding="utf-8")
    (folder / "vocabulary.json").write_text(WORDS.to_json(), encoding="utf-8")


def _packed(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write the bundle ``path`` with these members, and with right digests."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
        bundle.writestr("bundle.json", json.dumps({"format": 1, "kind": "captioner", "sha256": digests}))
    return path


def _read_members(folder: Path) -> object:
    """What is read of a bundle with these members, whose digests are right."""
    from captioning.storage.members import opened, settings_of, vocabulary_in

    path = _packed(folder / "captioner.zip", contents(folder))
    return settings_of(path, "captioner"), vocabulary_in(opened(path, "captioner", ("vocabulary.json",)))


def _weights(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "a.weights.h5", "w") as file:
        for i in range(4):
            file[f"layers/dense_{i}/vars/0"] = np.ones((3, 5), "float32")


def _read_weights(folder: Path) -> object:
    from captioning.features.weight_files import refuse_oversized

    try:
        return refuse_oversized(folder / "a.weights.h5")
    except Exception as error:  # every caller makes a UserError of any
        raise UserError(str(error)) from None


@cache
def _decoder() -> Any:
    """A small decoder. The drill builds it once, and gives it all damaged weights."""
    from captioning.decoders.build import build_decoder

    return build_decoder(_SMALL, vocabulary_size=len(WORDS), regions=1, feature_size=5)


def _keras_weights(folder: Path) -> None:
    from captioning.features.weight_files import save_weights

    save_weights(_decoder(), folder / "decoder.weights.h5")


def _read_keras_weights(folder: Path) -> object:
    """What is done with the weights of a bundle whose digests are right."""
    from captioning.features.weight_files import refuse_oversized
    from captioning.storage import bundles

    try:
        refuse_oversized(folder / "decoder.weights.h5")
    except Exception as error:  # the bundle's reader makes a UserError of any
        raise UserError(str(error)) from None
    return bundles.load_weights(_decoder(), folder / "decoder.weights.h5", folder / "captioner.zip")


def _captioner(folder: Path) -> None:
    """The members of a small captioner's bundle, and in ``encoder/`` those of its encoder."""
    import keras
    from keras import layers

    images = keras.Input((None, None, 3))
    keras.Model(images, layers.Conv2D(5, 32, strides=32)(images)).save(folder / "encoder.keras")
    with zipfile.ZipFile(folder / "encoder.keras") as packed:
        packed.extractall(folder / "encoder")
    (folder / "encoder.keras").unlink()
    (folder / "config.json").write_text(_SMALL.to_json(), encoding="utf-8")
    (folder / "vocabulary.json").write_text(WORDS.to_json(), encoding="utf-8")
    _keras_weights(folder)


def _load_captioner(folder: Path) -> object:
    """Load a bundle of these members, whose digests are right."""
    from model import Captioner

    members = contents(folder)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as encoder:
        for name in [name for name in members if name.startswith("encoder/")]:
            encoder.writestr(name.removeprefix("encoder/"), members.pop(name))
    return Captioner.load(_packed(folder / "captioner.zip", members | {"encoder.keras": packed.getvalue()}))


def _read_bundle(folder: Path) -> object:
    from captioning.storage.members import kind_of, settings_of

    return settings_of(folder / "run", "captioner"), kind_of(folder / "run")


def _read_zip(folder: Path) -> object:
    return load_arrays(folder / "embedding.npz")


def _archive(folder: Path) -> None:
    _coco(folder)
    names = list((folder / "train2017").iterdir())
    with zipfile.ZipFile(folder / "train2017.zip", "w") as archive:
        for path in names:
            archive.write(path, f"train2017/{path.name}")
    for path in names:
        path.unlink()
    (folder / "train2017").rmdir()


def _config_text(folder: Path) -> None:
    _write(folder, {"mine.json": json.dumps({"epochs": 3, "dataset": ["flickr8k", "coco"], "dropout": 0.5})})


def _read_config_text(folder: Path) -> object:
    path = folder / "mine.json"
    return (
        read_settings(path.read_text(encoding="utf-8", errors="surrogateescape"), str(path)) if path.is_file() else None
    )


KINDS = (
    Kind("settings", _settings, lambda folder: Run(folder).config()),
    Kind("settings of a user", _config_text, _read_config_text),
    Kind("run folder", _run, _read_run),
    Kind("run that goes on", _run, _begin_run, writes=True, keras=True),
    Kind("scores", _scores, lambda folder: read_rows(folder / "scores.json")),
    Kind("predictions", _predictions, _read_predictions),
    Kind("arrays", _arrays, _read_zip),
    Kind("word vectors", _vectors, lambda folder: read_vectors(folder / "vectors.txt", WORDS.words, 0)),
    Kind("feature store", _extract, _open_store),
    Kind("feature store, verified", _extract, lambda folder: _extract(folder, verify=True), writes=True),
    Kind("begun feature store", _begun_store, _finish_store, writes=True),
    Kind("index", _index, _search),
    Kind("index that goes on", _index, _index, writes=True),
    Kind("bundle", _bundle, _read_bundle, keras=True),
    Kind("members of a bundle", _members, _read_members, writes=True, keras=True),
    Kind("weights", _weights, _read_weights, keras=True),
    Kind("weights, read by Keras", _keras_weights, _read_keras_weights, keras=True, share=0.5),
    Kind("captioner, read by Keras", _captioner, _load_captioner, writes=True, keras=True, share=0.1),
    Kind("flickr8k", _flickr8k, _dataset(dataset="flickr8k")),
    Kind("flickr30k", _flickr30k, _dataset(dataset="flickr30k")),
    Kind("coco", _coco, _dataset(dataset="coco")),
    Kind("coco, packed", _archive, _dataset(dataset="coco"), writes=True),
    Kind("karpathy", _karpathy, _dataset(dataset="karpathy", captions_file="split.json", data_dir="images")),
    Kind("captions as a table", _table, _dataset(dataset="folder", captions_file="captions.csv", data_dir="images")),
    Kind("captions as lines", _lines, _dataset(dataset="folder", captions_file="captions.jsonl", data_dir="images")),
    Kind("demo scenes", _scenes, _read_scenes),
    Kind("album", _album, _read_album),
    *(
        Kind(f"picture, {kind}", _picture(kind), _load_picture)
        for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff")
    ),
    *(Kind(f"metadata, {kind}", _picture(kind), _write_metadata, writes=True) for kind in ("png", "jpeg", "webp")),
)
