"""The text files of a trained model, from its run folder or its bundle. No Keras.

``captioning/storage`` reads whole models and checks every byte. Settings and words are needed before Keras is loaded.
"""

import hashlib
import zipfile
import zlib
from pathlib import Path

from captioning.base.archives import refuse_bombs
from captioning.base.errors import UserError


def _model_place(path: Path) -> Path:
    """Where the settings of a trained model are: its run folder or its bundle.

    A folder that holds a bundle and no settings stands for that bundle. Raises UserError if there is no such path.
    """
    bundle = path / "captioner.zip"
    if path.is_dir() and not (path / "config.json").exists() and bundle.exists():
        return bundle
    if not path.exists():
        raise UserError(
            f"{path}: there is no such file or folder; name a run folder, or a bundle such as captioner.zip"
        )
    return path


def read_trained(path: Path, name: str) -> tuple[str, str]:
    """The text of the file ``name``, such as config.json, of the model in the run folder or bundle ``path``; its
    source.

    Raises UserError when it is missing or damaged.
    """
    place = _model_place(path)
    try:
        if place.is_dir():
            return (place / name).read_text(encoding="utf-8"), str(place / name)
        with zipfile.ZipFile(place) as bundle:
            refuse_bombs(bundle)
            return bundle.read(name).decode("utf-8"), f"{place}:{name}"
    except FileNotFoundError:
        raise UserError(f"{place}: not a run folder (it holds no {name}); name another, or a bundle") from None
    except KeyError:
        raise UserError(f"{place}: not a bundle of a captioner (it holds no {name}); name another") from None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(
            f"{place}: neither a run folder nor a bundle, or a damaged one ({error}); copy it again, or name another"
        ) from None


def bundle_of(model: Path) -> Path:
    """The bundle of a captioner: ``model`` itself, or the one in the run folder ``model``."""
    return model / "captioner.zip" if model.is_dir() else model


def fingerprint(model: Path) -> str:
    """A digest of all that a captioner's bundle holds, as hexadecimal text. Raises UserError as ``read_trained`` does.

    It is that of bundle.json, which holds a digest of each member.
    """
    text, _ = read_trained(bundle_of(model), "bundle.json")
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
