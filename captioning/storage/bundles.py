"""Bundles: the one file that a trained model travels in, a zip archive with

    bundle.json             {"format": 1, "kind": "captioner" or "aligner", "keras": version, "sha256": {member: digest}}
    config.json             every setting of the run
    vocabulary.json         the words, in id order
    encoder.weights.h5      Keras weights of an encoder that ``encoders`` can rebuild by name, or
    encoder.keras           the saved Keras model that the run was given as its encoder

and what the kind adds: Keras weights, ``decoder.weights.h5`` of a captioner and ``towers.weights.h5`` of an aligner, and
of a captioner whose word embedding is not learned ``embedding.npz``, what that had before training (see ``embedding_arrays``).
"""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras

from captioning.base.errors import UserError
from captioning.command_line.reading import read_settings
from captioning.features.encoder import build_encoder
from captioning.features.weight_files import halve_weights
from captioning.words.vocabulary import Vocabulary
from config import Config

FORMAT = 1
# The weights that each kind adds, and what trains it.
KINDS = {
    "captioner": ("decoder.weights.h5", "train.py"),
    "aligner": ("towers.weights.h5", "train.py --stage align"),
}


@contextmanager
def writing(
    path: Path, kind: str, config: Config, vocabulary: Vocabulary, encoder: keras.Model, half: bool = False
) -> Iterator[Path]:
    """A folder that becomes the bundle ``path`` at the end, with what all kinds have and what was put there meanwhile.

    ``half``: kernels are stored as float16, but for an encoder that is a saved Keras model. All or nothing: a neighbouring file is completed first and then renamed.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bundle-") as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
        (folder / "vocabulary.json").write_text(vocabulary.to_json(), encoding="utf-8")
        if config.encoder.endswith(".keras"):
            # The model in memory, not the file it came from, which may have changed or gone since.
            backbone = next(layer for layer in encoder.layers if isinstance(layer, keras.Model))
            backbone.save(folder / "encoder.keras")
        else:
            encoder.save_weights(folder / "encoder.weights.h5")
        yield folder
        if half:
            for weights in folder.glob("*.weights.h5"):
                halve_weights(weights)
        members = sorted(folder.iterdir())
        about = {
            "format": FORMAT,
            "kind": kind,
            "keras": keras.__version__,
            "sha256": {member.name: hashlib.sha256(member.read_bytes()).hexdigest() for member in members},
        }
        (folder / "bundle.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        archive = folder / "archive"
        with zipfile.ZipFile(archive, "w") as bundle:
            for member in [folder / "bundle.json", *members]:
                bundle.write(member, member.name)
        os.replace(archive, path)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[tuple[Path, Config, Vocabulary, keras.Model]]:
    """A folder with the members of a bundle, or of a run folder's, while it is read; and what all kinds have.

    Runs no code from it. Raises UserError when it is missing, damaged, of another kind or of a newer format.
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
    """Give ``model`` the weights in a file of ``bundle``. Raises UserError when they are of another model."""
    try:
        model.load_weights(path)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{bundle}: its weights do not fit the model of this release ({error}); train it anew, or use the release "
            "that wrote it"
        ) from None


def name_of(path: Path) -> str:
    """What a bundle is called: by its run folder, or by its own file name where that tells more."""
    path = Path(path)
    if path.name in {f"{kind}.zip" for kind in KINDS}:
        path = path.parent
    return path.resolve().name.removesuffix(".zip")


def settings_of(path: Path, kind: str) -> Config:
    """The settings of a bundle, or of that of a run folder; its weights are not read. Raises UserError."""
    path, members = _members(path, kind, ("config.json",))
    return read_settings(members["config.json"].decode(), f"{path}:config.json")


def _members(path: Path, kind: str, names: Sequence[str] = ()) -> tuple[Path, dict[str, bytes]]:
    """The file that holds the bundle, and its members ``names`` (all of them unless named). Raises UserError."""
    path = Path(path)
    if path.is_dir():
        path = _in_run(path, kind)
    if not path.exists():
        raise UserError(f"{path}: there is no such {kind}; train one with {KINDS[kind][1]}, or name another")
    try:
        with zipfile.ZipFile(path) as bundle:
            about = json.loads(bundle.read("bundle.json"))
            written_format, digests = int(about["format"]), dict(about["sha256"])
            found = about.get("kind", "captioner")  # which was the only one at first
            members = {name: bundle.read(name) for name in names or bundle.namelist() if name in digests}
    except Exception as error:  # zipfile raises errors of many kinds on damaged archives.
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
    """The bundle of a run folder. Raises UserError when it holds one of another kind instead."""
    path = folder / f"{kind}.zip"
    for other in KINDS:
        if not path.exists() and (folder / f"{other}.zip").exists():
            raise UserError(f"{folder}: {_other_kind(other, kind)}")
    return path


def _other_kind(found: str, wanted: str) -> str:
    return f"the model is of kind {found}, and one of kind {wanted} is wanted here, as {KINDS[wanted][1]} makes it"
