"""Bundles: the one file that a trained model travels in. It is a zip archive.

    bundle.json             {"format": 1, 2 or 3, "kind": "captioner" or "aligner", "keras": version,
                            "sha256": {member: digest}}. In format 2 also "encoder": {"file": path, "digest": digest}.
                            In format 3 also "keras_hub": version
    config.json             every setting of the run
    vocabulary.json         the words in id order, see ``Vocabulary.to_json``
    encoder.weights.h5      Keras weights of an encoder that ``build_encoder`` can build by its name, or
    encoder.keras           the saved Keras model that the run had as its encoder
    encoder.json            in format 3: the recipe of an encoder of KerasHub (see ``kerashub.Recipe``). Its weights
                            are in encoder.weights.h5. Or
    features.json           of a captioner of stored features (the setting features), which has no encoder:
                            {"regions": those of the image with most of them, "feature_size": numbers per region}

A captioner adds decoder.weights.h5, the Keras weights of its decoder. If its word embedding is not learned, it also
adds embedding.npz: the arrays that the embedding had before training (see captioning/embeddings/arrays.py). An aligner
adds towers.weights.h5, the Keras weights of its towers.

An aligner of format 2 has no encoder. Another file lends it one: the bundle of a captioner, or the Keras weights of a
backbone. "file" is the path of that file from the folder of the bundle. "digest" is that of the encoder
(``features.digests.encoder_digest``), and no other encoder is accepted.

``evaluate.py --fit-confidence`` adds confidence.json and confidence.npz (see captioning/confidence/stored.py) to the
bundle of a captioner. ``train.py --stage concepts`` adds concepts.json and concepts.weights.h5 (see
captioning/concepts/detector.py).
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from captioning.base.errors import UserError, first_line
from captioning.base.files import replacing
from captioning.base.json_files import load_json, take
from captioning.base.scratch import no_room, scratch_folder, temporary_folder
from captioning.base.trained import bundle_of
from captioning.features import kerashub
from captioning.features.digests import backbone_of, encoder_digest, recipe_of
from captioning.features.encoder import build_encoder
from captioning.features.kerashub import Recipe
from captioning.features.precomputed import StoredFeatures
from captioning.features.weight_files import halve_weights, refuse_oversized, save_weights, written_by_hdf5
from captioning.storage.members import (
    ADVICE,
    KINDS,
    LENT,
    PLAIN,
    RECIPE,
    Bundle,
    opened,
    settings_in,
    settings_of,
    vocabulary_in,
)
from captioning.words.vocabulary import Vocabulary
from config import KERASHUB, Config

_STORED, _STORED_SIZES = "features.json", ("regions", "feature_size")
_MOST = 1 << 20  # of each of these sizes
UNFINISHED = ".bundle-"  # begins the names of folders in which bundles are made


@contextmanager
def writing(
    path: Path,
    kind: str,
    config: Config,
    vocabulary: Vocabulary,
    encoder: keras.Model,
    half: bool = False,
    lender: Path | None = None,
) -> Iterator[Path]:
    """Gives a folder that becomes the bundle ``path`` at the end. The caller adds the weights of the ``kind``.

    The folder already holds what both kinds have. With ``half`` kernels are stored as float16, except those of an
    encoder that is a saved Keras model. With ``lender``, a bundle of a captioner or a weights file, the encoder stays
    in that file. ``path`` is written whole or not at all. Raises UserError when the lender has another encoder.
    """
    path = Path(path)
    lent = _lent_by(lender, path.parent, config, encoder) if lender else None
    with scratch_folder(path.parent, UNFINISHED) as folder:
        (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
        (folder / "vocabulary.json").write_text(vocabulary.to_json(), encoding="utf-8")
        if not lent:
            _write_encoder(folder, config, encoder)
        yield folder
        if half:
            for weights in sorted(folder.glob("*.weights.h5")):
                halve_weights(weights)
        about = {"format": PLAIN, "kind": kind, "keras": keras.__version__}
        if lent:
            about |= {"format": LENT, "encoder": lent}
        elif (folder / "encoder.json").exists():
            about |= {"format": RECIPE, "keras_hub": version("keras-hub")}
        _zip(folder, path, about)


@contextmanager
def changing(path: Path, kind: str) -> Iterator[Path]:
    """Gives a folder with the members of a bundle. What it holds at the end becomes the bundle.

    ``path`` is a bundle, or a run folder that holds one. Members that the caller leaves alone stay byte for byte. The
    bundle is written whole or not at all. Raises UserError when it is missing, damaged, of another kind or cannot be
    written.
    """
    bundle = opened(path, kind)
    try:
        with scratch_folder(bundle.path.parent, UNFINISHED) as folder:
            for name, content in bundle.members.items():
                (folder / name).write_bytes(content)
            yield folder
            _zip(folder, bundle.path, bundle.about)
    except OSError as error:
        raise UserError(
            f"{bundle.path}: cannot be written ({error.strerror or error}); copy it to another place"
        ) from None


def _zip(folder: Path, path: Path, about: dict[str, Any]) -> None:
    """Make the bundle ``path`` of the files in ``folder``. ``about``: what its bundle.json says besides digests."""
    members = sorted(folder.iterdir())
    digests = {member.name: hashlib.sha256(member.read_bytes()).hexdigest() for member in members}
    (folder / "bundle.json").write_text(json.dumps({**about, "sha256": digests}, indent=2), encoding="utf-8")
    with replacing(path) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as bundle:
        for member in [folder / "bundle.json", *members]:
            bundle.write(member, member.name)


def _write_encoder(folder: Path, config: Config, encoder: keras.Model) -> None:
    """Write the member that holds the encoder into ``folder``, or says what takes its place."""
    if config.features:
        _, regions, feature_size = encoder.output_shape
        about = {"regions": regions, "feature_size": feature_size}
        (folder / _STORED).write_text(json.dumps(about) + "\n", encoding="utf-8")
        return
    if config.encoder.endswith(".keras"):
        # The model in memory is saved. The file that it came from may have changed or gone since.
        with written_by_hdf5(encoder, folder / "encoder.keras"):
            backbone_of(encoder).save(folder / "encoder.keras")
        return
    save_weights(encoder, folder / "encoder.weights.h5")
    if config.encoder.startswith(KERASHUB):
        (folder / "encoder.json").write_text(recipe_of(encoder), encoding="utf-8")


@contextmanager
def reading(path: Path, kind: str) -> Iterator[tuple[Path, Config, Vocabulary, keras.Model]]:
    """Gives a folder with the members of a bundle, and its settings, vocabulary and encoder.

    ``path`` is a bundle, or a run folder that holds one. No code in it is run. Raises UserError when it is missing,
    damaged, of another kind or of a newer format.
    """
    bundle = opened(path, kind)
    config, vocabulary = settings_in(bundle), vocabulary_in(bundle)
    if config.words != vocabulary.splitting.name:
        raise UserError(
            f"{bundle.path}: config.json splits captions by {config.words}, and vocabulary.json by "
            f"{vocabulary.splitting.name}; {ADVICE}"
        )
    with temporary_folder(f"the parts of {bundle.path}") as folder:
        _unpack(bundle, folder)
        try:
            _refuse_oversized(config, vocabulary, folder / KINDS[kind][0])
            encoder = _borrowed(bundle.path, config, bundle.lent) if bundle.lent else _read_encoder(folder, config)
        except UserError as error:
            if bundle.lent:
                raise
            raise UserError(f"{bundle.path}: {str(error).replace(f'{folder}{os.sep}', '')}") from None
        except Exception as error:  # h5py and Keras raise errors of many kinds on other files
            raise UserError(
                f"{bundle.path}: damaged, or not made by this software ({first_line(error)}); {ADVICE}"
            ) from None
        yield folder, config, vocabulary, encoder


def _unpack(bundle: Bundle, folder: Path) -> None:
    """Write the members of ``bundle`` into ``folder``, a temporary one. Raises UserError if there is no room."""
    try:
        for name, content in bundle.members.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise no_room(f"the parts of {bundle.path}", error) from None


def _refuse_oversized(config: Config, vocabulary: Vocabulary, weights: Path) -> None:
    """Raise ValueError if the file of ``weights`` cannot hold those of a decoder, or of towers, with these settings.

    So memory is bounded by the size of the file, whatever its settings say.
    """
    least = config.hidden_size * (config.hidden_size + config.embedding_size)
    if config.stage == "align":
        least += config.hidden_size * config.joint_size
    elif config.decoder in ("transformer", "aoa", "m2"):
        least += config.hidden_size**2 * (config.layers - 1)
    elif config.decoder in ("attention", "adaptive", "updown"):
        least += config.hidden_size * config.attention_size
    if config.features:  # the projection of a region; the encoder has no weights that say how wide regions are
        least += _stored_sizes(weights.parent)[1] * min(config.hidden_size, config.embedding_size)
    if config.embedding == "learned":
        least += len(vocabulary) * config.embedding_size
    held = refuse_oversized(weights)
    if held < least:
        raise ValueError(
            f"{weights.name} holds {held:,} numbers, and the settings in config.json need more than {least:,}"
        )


def _read_encoder(folder: Path, config: Config) -> keras.Model:
    """The encoder that ``config`` describes, with the weights of the member in ``folder``, or what takes its place."""
    if config.features:
        return StoredFeatures(*_stored_sizes(folder))
    if (folder / "encoder.keras").exists():
        return build_encoder(config.with_overrides({"encoder": str(folder / "encoder.keras")}))
    if config.encoder.endswith(".keras"):
        raise ValueError("encoder.keras is missing")
    held = refuse_oversized(folder / "encoder.weights.h5")
    if config.encoder.startswith(KERASHUB):
        if not (folder / "encoder.json").exists():  # a preset that a stranger names is not fetched
            raise ValueError("encoder.json is missing")
        recipe = Recipe.from_json((folder / "encoder.json").read_bytes())
        kerashub.refuse_oversized(recipe, config, held)
        encoder = build_encoder(config, blank=True, recipe=recipe)
    else:
        encoder = build_encoder(config, blank=True)
    encoder.load_weights(folder / "encoder.weights.h5")
    return encoder


def _stored_sizes(folder: Path) -> list[int]:
    """The ``_STORED_SIZES`` of stored features, from the member in ``folder``. Raises ValueError."""
    about = load_json(folder / _STORED, dict, max_bytes=1 << 16)
    return [take(about, name, int, lambda size: 0 < size <= _MOST) for name in _STORED_SIZES]


def _lent_by(lender: Path, folder: Path, config: Config, encoder: keras.Model) -> dict[str, str]:
    """What bundle.json of a bundle in ``folder`` says of the encoder that stays in ``lender``.

    Raises UserError when the encoder of ``lender`` is neither ``encoder`` nor ``encoder`` rounded to float16.
    """
    lender = bundle_of(lender)
    other = UserError(
        f"{lender}: holds another encoder than the one that these towers were trained with; name the file that holds "
        "that one, or let the new bundle have its own"
    )
    try:
        found = encoder_digest(_encoder_in(lender, config), config.encoder)
    except (OSError, ValueError, KeyError):  # Keras: weights of other layers
        raise other from None
    if found not in (encoder_digest(encoder, config.encoder, rounded) for rounded in (False, True)):
        raise other
    try:
        # A path from folder to file, so that both can be moved together.
        name = Path(os.path.relpath(lender.resolve(), folder.resolve())).as_posix()
    except ValueError:  # Windows: another drive
        raise UserError(f"{lender}: is on another drive than {folder}; write the bundle to the same drive") from None
    return {"file": name, "digest": found}


def _borrowed(path: Path, config: Config, lent: Mapping[str, str]) -> keras.Model:
    """The encoder that another file lends to the bundle ``path``. Raises UserError if it is missing or another one."""
    lender = Path(os.path.normpath(path.parent / lent["file"]))
    if not lender.is_file():
        raise UserError(
            f"{path}: has no encoder of its own and uses that of {lender}, and there is no such file; keep both files "
            "where the repository has them, or copy both"
        )
    other = UserError(
        f"{path}: uses the encoder of {lender}, and that file holds another encoder than the one these towers were "
        "trained with; put the file of the same release there"
    )
    try:
        encoder = _encoder_in(lender, config)
    except UserError as error:
        raise UserError(f"{path}: uses the encoder of {lender}, which cannot be read. {error}") from None
    except (OSError, ValueError, KeyError):  # Keras: weights of other layers
        raise other from None
    if encoder_digest(encoder, config.encoder) != lent["digest"]:
        raise other
    return encoder


def _encoder_in(lender: Path, config: Config) -> keras.Model:
    """The encoder that ``config`` describes, with the weights of a captioner's bundle or of a weights file.

    Raises UserError when the file is missing, damaged or not of such an encoder; ValueError when a bundle holds the
    weights of another one.
    """
    names = _encoder_members(config.encoder)
    if lender.suffix != ".zip":
        if len(names) > 1:
            raise UserError(f"{lender}: does not say what its weights are of; name the bundle of a captioner instead")
        return build_encoder(config.with_overrides({"encoder_weights": str(lender)}))
    if _encoder_members(settings_of(lender, "captioner").encoder) != names:
        raise ValueError("the two encoders are of other families")
    bundle = opened(lender, "captioner", names)
    with temporary_folder(f"the encoder of {lender}") as folder:
        _unpack(bundle, folder)
        return _read_encoder(folder, config)


def _encoder_members(encoder: str) -> tuple[str, ...]:
    """The members of a bundle that hold the encoder of this name."""
    if encoder.endswith(".keras"):
        return ("encoder.keras",)
    return ("encoder.weights.h5", "encoder.json") if encoder.startswith(KERASHUB) else ("encoder.weights.h5",)


def load_weights(model: keras.Model, path: Path, bundle: Path) -> None:
    """Give ``model`` the weights in ``path``, a member of ``bundle``. Raises UserError when they do not fit it."""
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise errors of many kinds on other files
        raise UserError(
            f"{bundle}: its weights do not fit the model of this release ({first_line(error)}); train it anew, or use the release "
            "that wrote it"
        ) from None
