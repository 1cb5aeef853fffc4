"""What a bundle holds, read and checked member by member. No Keras. ``bundles.py`` describes the format."""

import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captioning.base.archives import refuse_bombs
from captioning.base.errors import UserError, first_line
from captioning.base.json_files import parse_json, take
from captioning.command_line.reading import read_settings
from captioning.words.vocabulary import Vocabulary
from config import Config

# The formats. A bundle is of the oldest one that can say what it holds, so that earlier releases read it if they can.
PLAIN, LENT, RECIPE = 1, 2, 3
FORMAT = RECIPE  # the newest
# For each kind: the weights that it adds, and the command that trains it.
KINDS = {
    "captioner": ("decoder.weights.h5", "train.py"),
    "aligner": ("towers.weights.h5", "train.py --stage align"),
}
# What the name of a member may be, so that it is a file in the folder that the bundle is unpacked into.
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_MOST_MEMBERS = 32
_MOST_TEXT = 64 << 20  # bytes of a member that is JSON
ADVICE = "copy or train it anew"


def name_of(path: Path) -> str:
    """The name of a bundle in tables: that of its run folder, or that of its own file if it has a name of its own."""
    path = Path(path)
    if path.name in {f"{kind}.zip" for kind in KINDS}:
        path = path.parent
    return path.resolve().name.removesuffix(".zip")


def kind_of(path: Path) -> str:
    """The kind of a bundle, or of the bundle in a run folder: a key of ``KINDS``. Raises UserError if it has none."""
    path = Path(path)
    if path.is_dir():
        found = [kind for kind in KINDS if (path / f"{kind}.zip").exists()]
        if not found:
            raise UserError(
                f"{path}: holds no trained model ({', '.join(f'{kind}.zip' for kind in KINDS)}); name another"
            )
        return found[0]
    if not path.exists():
        raise UserError(f"{path}: there is no such model; name another")
    return _about(path)[1]


def settings_of(path: Path, kind: str) -> Config:
    """The settings of a bundle, or of the bundle in a run folder. Does not read its weights. Raises UserError."""
    return settings_in(opened(path, kind, ("config.json",)))


class Bundle(NamedTuple):
    """A bundle that was read: its file, its members, and what its bundle.json says besides digests.

    ``members``: the content of each member that was asked for, by name. ``lent``: who lends it its encoder, if it has
    none.
    """

    path: Path
    members: dict[str, bytes]
    about: dict[str, Any]
    lent: dict[str, str] | None

    def text(self, name: str) -> str:
        """A member that is UTF-8 text. Raises UserError."""
        try:
            return self.members[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: damaged: {name} is not UTF-8 ({error.reason}); {ADVICE}") from None


def opened(path: Path, kind: str, names: Sequence[str] = ()) -> Bundle:
    """The bundle ``path``, or that of the run folder ``path``, with its members ``names`` (no names: with all).

    Raises UserError, also when a member is not what was written.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_run(path, kind)
    if not path.exists():
        raise UserError(f"{path}: there is no such {kind}; train one with {KINDS[kind][1]}, or name another")
    about, found, digests, lent = _about(path)
    if found != kind:
        raise UserError(f"{path}: {_other_kind(found, kind)}")
    members = _read(path, names or tuple(digests))
    if not names and all(name.endswith(".json") for name in members):  # as setup.py writes it
        raise UserError(
            f"{path}: has no weights for Keras, as the captioner of an installed package, which ONNX Runtime runs; name "
            "the bundle of the repository instead"
        )
    for name in names or ("config.json", "vocabulary.json", KINDS[kind][0], *digests):
        if hashlib.sha256(members.get(name, b"")).hexdigest() != digests.get(name):
            raise UserError(f"{path}: damaged: {name} is not what was written; {ADVICE}")
    del about["sha256"]
    return Bundle(path, members, about, lent)


def _about(path: Path) -> tuple[dict[str, Any], str, dict[str, str], dict[str, str] | None]:
    """What the bundle.json of ``path`` says: all of it, the kind, the digest of each member, who lends the encoder.

    Raises UserError.
    """
    content = _read(path, ("bundle.json",)).get("bundle.json")
    if content is None:
        raise UserError(f"{path}: not a bundle, or a damaged one (it has no bundle.json); {ADVICE}")
    about = parse_json(content, f"{path}: not a bundle, or a damaged one: bundle.json", ADVICE, dict)
    try:
        written_format, digests = take(about, "format", int), take(about, "sha256", dict)
        found = take({"kind": "captioner"} | about, "kind", str, KINDS.__contains__)  # the first bundles named no kind
        if len(digests) > _MOST_MEMBERS or not all(map(_NAME.fullmatch, digests)):
            raise ValueError("its members have other names than those of a bundle")
        for name in digests:
            take(digests, name, str)
        lent = about.get("encoder")
        if lent is not None:
            lent = {key: take(take(about, "encoder", dict), key, str) for key in ("file", "digest")}
            if "\0" in lent["file"]:
                raise ValueError("the file that lends the encoder has an impossible name")
    except ValueError as error:
        raise UserError(f"{path}: not a bundle, or a damaged one ({error}); {ADVICE}") from None
    if written_format > FORMAT:
        raise UserError(
            f"{path}: written by a newer release (bundle format {written_format}, this one reads {FORMAT}); "
            "update this software"
        )
    return about, found, digests, lent


def _read(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The content of those members ``names`` that the zip file ``path`` has. Raises UserError.

    No member takes more memory than a few times the size of the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bombs(archive)
            there = {member.filename: member for member in archive.infolist()}
            for name in names:
                if name.endswith(".json") and name in there and there[name].file_size > _MOST_TEXT:
                    raise ValueError(f"{name} has {there[name].file_size:,} bytes")
            return {name: archive.read(there[name]) for name in names if name in there}
    except Exception as error:  # zipfile raises errors of many kinds on damaged archives
        raise UserError(f"{path}: not a bundle, or a damaged one ({first_line(error)}); {ADVICE}") from None


def _in_run(folder: Path, kind: str) -> Path:
    """Where the bundle of a run folder is or should be. Raises UserError when there is one of another kind instead."""
    path = folder / f"{kind}.zip"
    for other in KINDS:
        if not path.exists() and (folder / f"{other}.zip").exists():
            raise UserError(f"{folder}: {_other_kind(other, kind)}")
    return path


def _other_kind(found: str, wanted: str) -> str:
    return f"the model is of kind {found}, and one of kind {wanted} is wanted here, as {KINDS[wanted][1]} makes it"


def settings_in(bundle: Bundle) -> Config:
    return read_settings(bundle.text("config.json"), f"{bundle.path}:config.json")


def vocabulary_in(bundle: Bundle) -> Vocabulary:
    return Vocabulary.from_json(bundle.text("vocabulary.json"), f"{bundle.path}:vocabulary.json")
