"""Bundles: the one file that a trained model travels in. It is a zip archive.

    bundle.json             {"format": 1, "kind": "captioner" or "aligner", "keras": version, "sha256": {member: digest}}
    config.json             every setting of the run
    vocabulary.json         the words in id order, see ``Vocabulary.to_json``
    encoder.weights.h5      Keras weights of an encoder that ``build_encoder`` can build by its name, or
    encoder.keras           the saved Keras model that the run had as its encoder

A captioner adds decoder.weights.h5, the Keras weights of its decoder. If its word embedding is not learned, it also adds
embedding.npz: the arrays that the embedding had before training (see captioning/embeddings/arrays.py). An aligner adds
towers.weights.h5, the Keras weights of its towers.

``evaluate.py --fit-confidence`` adds confidence.json and confidence.npz (see captioning/confidence/stored.py) to the
bundle of a captioner.
"""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from captioning.base.errors import UserError
from captioning.base.files import replacing
from captioning.command_line.reading import read_settings
from captioning.features.digests import backbone_of
from captioning.features.encoder import build_encoder
from captioning.features.weight_files import halve_weights
from captioning.words.vocabulary import Vocabulary
from config import Config

FORMAT = 1
# For each kind: the weights that it adds, and the command that trains it.
KINDS = {
    "captioner": ("decoder.weights.h5", "train.py"),
    "aligner": ("towers.weights.h5", "train.py --stage align"),
}


@contextmanager
def writing(
    path: Path, kind: str, config: Config, vocabulary: Vocabulary, encoder: keras.Model, half: bool = False
) -> Iterator[Path]:
    """Gives a folder that becomes the bundle ``path`` at the end. The caller adds the weights of the ``kind``.

    The folder already holds what both kinds have. With ``half`` kernels are stored as float16, except those of an encoder
    that is a saved Keras model. ``path`` is written whole or not at all.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bundle-") as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
        (folder / "vocabulary.json").write_text(vocabulary.to_json(), encoding="utf-8")
        if config.encoder.endswith(".keras"):
            # The model in memory is saved. The file that it came from may have changed or gone since.
            backbone_of(encoder).save(folder / "encoder.keras")
        else:
            encoder.save_weights(folder / "encoder.weights.h5")
        yield folder
        if half:
            for weights in sorted(folder.glob("*.weights.h5")):
                halve_weights(weights)
        _zip(folder, path, {"format": FORMAT, "kind": kind, "keras": keras.__version__})


@contextmanager
def changing(path: Path, kind: str) -> Iterator[Path]:
    """Gives a folder with the members of a bundle. What it holds at the end becomes the bundle.

    ``path`` is a bundle, or a run folder that holds one. Members that the caller leaves alone stay byte for byte. The
    bundle is written whole or not at all. Raises UserError when it is missing, damaged, of another kind or cannot be
    written.
    """
    path, members = _members(path, kind)
    with zipfile.ZipFile(path) as bundle:
        about = json.loads(bundle.read("bundle.json"))
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bundle-") as temporary:
            folder = Path(temporary)
            for name, content in members.items():
                (folder / Path(name).name).write_bytes(content)
            yield folder
            _zip(folder, path, about)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); copy it to another place") from None


def _zip(folder: Path, path: Path, about: dict[str, Any]) -> None:
    """Make the bundle ``path`` of the files in ``folder``. ``about``: what its bundle.json says besides digests."""
    members = sorted(folder.iterdir())
    digests = {member.name: hashlib.sha256(member.read_bytes()).hexdigest() for member in members}
    (folder / "bundle.json").write_text(json.dumps({**about, "sha256": digests}, indent=2), encoding="utf-8")
    with replacing(path) as new, zipfile.ZipFile(new, "w") as bundle:
        for member in [folder / "bundle.json", *members]:
            bundle.write(member, member.name)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[tuple[Path, Config, Vocabulary, keras.Model]]:
    """Gives a folder with the members of a bundle, and its settings, vocabulary and encoder.

    ``path`` is a bundle, or a run folder that holds one. No code in it is run. Raises UserError when it is missing,
    damaged, of another kind or of a newer format.
    """
    path, members = _members(path, kind)
    config = read_settings(members["config.json"].decode(), f"{path}:config.json")
    vocabulary = Vocabulary.from_json(members["vocabulary.json"].decode(), f"{path}:vocabulary.json")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, content in members.items():
            (folder / Path(name).name).write_bytes(content)
        if "encoder.keras" in members:
            encoder = build_encoder(config.with_overrides({"encoder": str(folder / "encoder.keras")}))
        else:
            encoder = build_encoder(config, blank=True)
            encoder.load_weights(folder / "encoder.weights.h5")
        yield folder, config, vocabulary, encoder


def load_weights(model: keras.Model, path: Path, bundle: Path) -> None:
    """Give ``model`` the weights in ``path``, a member of ``bundle``. Raises UserError when they do not fit it."""
    try:
        model.load_weights(path)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{bundle}: its weights do not fit the model of this release ({error}); train it anew, or use the release "
            "that wrote it"
        ) from None


def name_of(path: Path) -> str:
    """The name of a bundle in tables: that of its run folder, or that of its own file if it has a name of its own."""
    path = Path(path)
    if path.name in {f"{kind}.zip" for kind in KINDS}:
        path = path.parent
    return path.resolve().name.removesuffix(".zip")


def settings_of(path: Path, kind: str) -> Config:
    """The settings of a bundle, or of the bundle in a run folder. Does not read its weights. Raises UserError."""
    path, members = _members(path, kind, ("config.json",))
    return read_settings(members["config.json"].decode(), f"{path}:config.json")


def _members(path: Path, kind: str, names: Sequence[str] = ()) -> tuple[Path, dict[str, bytes]]:
    """The bundle's file, and the content of its members ``names``, of all members if there are no names.

    Raises UserError, also when a member is not what was written.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_run(path, kind)
    if not path.exists():
        raise UserError(f"{path}: there is no such {kind}; train one with {KINDS[kind][1]}, or name another")
    try:
        with zipfile.ZipFile(path) as bundle:
            about = json.loads(bundle.read("bundle.json"))
            written_format, digests = int(about["format"]), dict(about["sha256"])
            found = about.get("kind", "captioner")  # the first bundles named no kind
            members = {name: bundle.read(name) for name in names or bundle.namelist() if name in digests}
    except Exception as error:  # zipfile raises errors of many kinds on damaged archives
        raise UserError(f"{path}: not a bundle, or a damaged one ({error}); copy or train it anew") from None
    if written_format > FORMAT:
        raise UserError(
            f"{path}: written by a newer release (bundle format {written_format}, this one reads {FORMAT}); "
            "update this software"
        )
    if found != kind:
        raise UserError(f"{path}: {_other_kind(found, kind)}")
    for name in names or ("config.json", "vocabulary.json", KINDS[kind][0], *digests):
        if hashlib.sha256(members.get(name, b"")).hexdigest() != digests.get(name):
            raise UserError(f"{path}: damaged: {name} is not what was written; copy or train it anew")
    return path, members


def _in_run(folder: Path, kind: str) -> Path:
    """Where the bundle of a run folder is or should be. Raises UserError when there is one of another kind instead."""
    path = folder / f"{kind}.zip"
    for other in KINDS:
        if not path.exists() and (folder / f"{other}.zip").exists():
            raise UserError(f"{folder}: {_other_kind(other, kind)}")
    return path


def _other_kind(found: str, wanted: str) -> str:
    return f"the model is of kind {found}, and one of kind {wanted} is wanted here, as {KINDS[wanted][1]} makes it"
