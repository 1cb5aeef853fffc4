"""Names of images that are spelled in one way in a captions file and in another way elsewhere.

An exact name always counts. What is left over on both sides is compared in these forms, one after the other. Two names
are the same image where no other name that is left over has their form:

    path        "./a.jpg", "x\\a.jpg", "a%20b.jpg", letters with accents composed (NFC) or taken apart (NFD)
    whole path  "/home/me/photos/a.jpg", for a file in that folder
    letters     "A.JPG" for "a.jpg"
    file name   "images/a.jpg", "/elsewhere/a.jpg" or an address for "a.jpg", but not "cats/1.jpg" for "dogs/1.jpg"
    stem        "a" or "a.png" for "a.jpg"
"""

import difflib
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

# An error suggests the nearest of at most so many names, because the search is slow.
_MOST_NEAR = 20_000


def match(
    wanted: Iterable[str], there: Iterable[str], paths: Mapping[str, Path] | None = None
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Which of the names ``there`` is meant by each of the ``wanted`` names that is spelled otherwise there.

    ``paths``: where the files of ``there`` are, if they are files. The second part says for a user what was matched: a
    description -> its examples. Names that are on both sides are in neither part.
    """
    wanted, there = set(wanted), set(there)
    lost, free = wanted - there, there - wanted
    found: dict[str, str] = {}
    told: dict[str, list[str]] = {}

    def take(name: str, other: str, how: str) -> None:
        found[name] = other
        told.setdefault(f"names of images that differ from those on disk {how} (matched)", []).append(
            f"{name} is {other}"
        )

    if lost and free:
        whole = {_path(str(paths[name].absolute())): name for name in free} if paths else {}
        for name in sorted(lost):
            if other := whole.get(_path(name)):
                take(name, other, "in their folder")
        for how, form in _FORMS:
            theirs, ours = (_by_form(names, form) for names in (lost - found.keys(), free - {*found.values()}))
            for key in sorted(theirs.keys() & ours.keys()):
                if len(theirs[key]) == len(ours[key]) == 1 and _ends_alike(theirs[key][0], ours[key][0]):
                    take(theirs[key][0], ours[key][0], how)
    return found, told


def nearest(name: str, there: Iterable[str], likeness: float = 0.6) -> str:
    """What to add to an error about a ``name`` that is not ``there``: the nearest name there; empty if none is near.

    ``likeness``: the least share of letters that both names have.
    """
    names = list(there)
    if len(names) > _MOST_NEAR:
        names = [other for other in names if other.startswith(name[:2])][:_MOST_NEAR]
    near = difflib.get_close_matches(name, names, n=1, cutoff=likeness)
    return f"; the nearest name there is {near[0]!r}" if near else ""


def _path(name: str) -> str:
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    if re.match(r"https?://", name):
        name = re.split(r"[?#]", name)[0]
    return posixpath.normpath(unquote(name))


def _letters(name: str) -> str:
    return unicodedata.normalize("NFKC", _path(name)).casefold()


def _file(name: str) -> str:
    return PurePosixPath(_letters(name)).name


def _stem(name: str) -> str:
    file = _file(name)
    return file[: -len(PurePosixPath(file).suffix)] if 2 <= len(PurePosixPath(file).suffix) <= 5 else file


# The forms of a name, and what differs between names that are equal in a form.
_FORMS: Sequence[tuple[str, Callable[[str], str]]] = (
    ("in their spelling", _path),
    ("in capital letters", _letters),
    ("in their folder", _file),
    ("in their ending", _stem),
)


def _by_form(names: Iterable[str], form: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(form(name), []).append(name)
    return groups


def _ends_alike(one: str, other: str) -> bool:
    """Whether the folders of one name are the last folders of the other one."""
    folders = [PurePosixPath(_letters(name)).parts[:-1] for name in (one, other)]
    shorter, longer = sorted(folders, key=len)
    return longer[len(longer) - len(shorter) :] == shorter
