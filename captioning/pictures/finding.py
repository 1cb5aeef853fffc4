"""Picture files, found by their suffixes in folders and on the command line. Needs no Keras and decodes nothing."""

import glob
import os
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from captioning.base.errors import UserError
from captioning.base.texts import printable
from captioning.pictures.extra_formats import HEIF_SUFFIXES, INSTALL, RAW_SUFFIXES, readable_suffixes

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".jpf", ".jpx"),
}

# Folders that machines and programs fill with small copies, waste and notes of their own. Patterns in lower case.
_MACHINES = (
    *("@eadir", "@tmp", "@sharebin", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # network disks
    *("trashbox", "network trash folder", "$recycle.bin", "recycler", "system volume information"),
    *("lost+found", "__macosx", "files_trashbin", "files_versions", "appdata_*", "*.lrdata"),
)
# Libraries of Apple's programs keep the photos in these folders, and small copies in others.
_APPLE_LIBRARY = (".photoslibrary", ".migratedphotolibrary", ".photolibrary")
_APPLE_PHOTOS = {"originals", "masters"}
# Files beside pictures that are nothing of their own. A text is one if it has the name of a picture.
_BESIDE = {".xmp"}
_TEXT = ".txt"
_SHOWN = 8  # kinds that are named; others are counted together


class Finder:
    """Finds the picture files below folders, and remembers what it left out."""

    def __init__(self, exclude: Sequence[str] = (), follow_links: bool = False):
        """``exclude``: patterns of names and of paths in the folder.

        ``follow_links``: whether links to folders are followed.
        """
        self.exclude, self.follow_links = tuple(exclude), follow_links
        self._found = SUFFIXES | readable_suffixes()
        self._forget()

    def _forget(self) -> None:
        self._machines: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._links: list[str] = []
        self._excluded = self._hidden = 0

    def names(self, folder: str | Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[str]:
        """The paths of all picture files below ``folder``, relative to it and with slashes. Suffixes decide.

        Hidden files and folders are left out, such as the waste bins of photo programs, and folders of machines such as
        @eaDir. Links to folders are followed only if that is wanted, each folder once. Links that lead nowhere are
        included, so that they are reported. ``on_error`` gets the error of each subfolder that cannot be listed. Raises
        UserError when there is no such folder.
        """
        if not os.path.isdir(folder):
            raise UserError(f"{printable(str(folder))}: there is no such folder of images; name another")
        seen: set[tuple[int, int]] = set()
        for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=self.follow_links):
            below = Path(parent).relative_to(folder)
            if self.follow_links and not _is_new(parent, seen):
                folders.clear()
                continue
            yield from self.chosen(below, folders, files, parent)

    def chosen(self, below: Path, folders: list[str], files: list[str], parent: str = "") -> Iterator[str]:
        """The paths of the pictures among ``files``, sorted. ``folders`` then holds those to enter, sorted.

        ``below``: the path of their folder. ``parent``: where it is on a disk. A bucket has none, and no links either.
        """
        folders[:] = [name for name in sorted(folders) if self._enters(parent, below, name)]
        files.sort()
        described: set[str] | None = None
        for name in files:
            if described is None and name.lower().endswith(_TEXT):  # only texts are looked up in it
                pictures = {name for name in files if os.path.splitext(name)[1].lower() in self._found}
                described = pictures | {os.path.splitext(name)[0] for name in pictures}
            if self._takes(parent, below, name, described or ()):
                yield (below / name).as_posix()

    def _enters(self, parent: str, below: Path, name: str) -> bool:
        """Whether the pictures of a subfolder are wanted."""
        if name.startswith("."):
            return False
        if _is_of_a_machine(parent or str(below), name):
            self._machines[name] += 1
        elif self._is_excluded(below / name):
            self._excluded += 1
        elif parent and not self.follow_links and os.path.islink(os.path.join(parent, name)):
            self._links.append((below / name).as_posix())
        else:
            return True
        return False

    def _takes(self, parent: str, below: Path, name: str, described: Collection[str]) -> bool:
        """Whether a file is a picture that is wanted.

        ``described``: what texts about the pictures of its folder are called, without their suffix.
        """
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        if name.startswith("."):
            self._hidden += suffix in self._found
        elif self._is_excluded(below / name):
            self._excluded += 1
        elif suffix in self._found:
            path = os.path.join(parent, name)
            if not parent or os.path.isfile(path) or os.path.islink(path):
                return True
            self._kinds["no regular file"] += 1
        elif suffix not in _BESIDE and not (suffix == _TEXT and stem in described):
            self._kinds[suffix or "no suffix"] += 1
        return False

    def _is_excluded(self, path: Path) -> bool:
        return any(fnmatch(path.name, pattern) or fnmatch(path.as_posix(), pattern) for pattern in self.exclude)

    def left_out(self) -> list[str]:
        """What was left out, for users: a line for each reason. It is forgotten then."""
        lines = []
        if self._kinds:
            extra = sorted((HEIF_SUFFIXES | RAW_SUFFIXES) & self._kinds.keys())
            advice = f" ({INSTALL} reads {', '.join(extra)})" if extra else ""
            lines.append(f"left out by suffix: {_counts(self._kinds)}{advice}")
        if self._machines:
            lines.append(f"left out: folders of machines: {_counts(self._machines)}")
        if self._links:
            named = ", ".join(self._links[:_SHOWN]) + (", ..." if len(self._links) > _SHOWN else "")
            lines.append(f"left out: {len(self._links):,} links to folders: {named} (--follow-links follows them)")
        if self._excluded:
            lines.append(f"left out by --exclude: {self._excluded:,} files and folders")
        if self._hidden:
            lines.append(f"left out: {self._hidden:,} hidden pictures, whose names begin with a point")
        self._forget()
        return list(map(printable, lines))

    def tell(self) -> None:
        """Print what was left out on stderr. It is forgotten then."""
        for line in self.left_out():
            print(f"note: {line}", file=sys.stderr)


def _counts(counter: Counter[str]) -> str:
    """Such as "30 .mov, 2 .txt", the most frequent first."""
    shown = [f"{count:,} {name}" for name, count in counter.most_common(_SHOWN)]
    others = sum(counter.values()) - sum(count for _, count in counter.most_common(_SHOWN))
    return ", ".join(shown) + (f", {others:,} others" if others else "")


def _is_of_a_machine(parent: str, name: str) -> bool:
    if os.path.basename(parent).lower().endswith(_APPLE_LIBRARY):
        return name.lower() not in _APPLE_PHOTOS
    return any(fnmatch(name.lower(), pattern) for pattern in _MACHINES)


def _is_new(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not walked before under another name, as links in a circle would have it."""
    try:
        found = os.stat(folder)
    except OSError:  # it was removed meanwhile
        return False
    key = found.st_dev, found.st_ino
    if key in seen:
        return False
    seen.add(key)
    return True


def add_finding(parser: ArgumentParser) -> None:
    """Offer the options of a ``Finder`` to a script that takes folders."""
    parser.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="leave out files and folders whose name, or path in the folder, matches this, such as 'drafts' or "
        "'2020/*.png'; may be given several times",
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="also take the pictures behind links to folders, each folder once"
    )


def finder_of(args: Namespace) -> Finder:
    """The finder that the options of ``add_finding`` ask for."""
    return Finder(args.exclude or (), args.follow_links)


def require_pictures(folder: str | Path, option: str, finder: Finder) -> None:
    """Raise UserError, which names the ``option``, when ``folder`` is no folder or holds no pictures.

    Stops at the first.
    """
    if next(finder.names(folder), None) is None:
        raise no_pictures(f"{option}: {folder}", finder)
    finder.left_out()  # which is forgotten, since it is not all


def no_pictures(where: str | Path, finder: Finder) -> UserError:
    """The error of a folder without pictures. ``where``: the folder, and the option that names it, if there is one."""
    left_out = "".join(f"; {line}" for line in finder.left_out())
    return UserError(f"{printable(str(where))}: holds no pictures (by suffix: {', '.join(sorted(SUFFIXES))}){left_out}")


def unlisted(error: OSError) -> str:
    """What to say of a subfolder that cannot be listed, given what ``Finder.names`` reports."""
    return f"{printable(str(error.filename))}: cannot be listed: {error.strerror}"


def report_unlisted(error: OSError) -> None:
    """Say on stderr that a subfolder cannot be listed."""
    print(f"error: {unlisted(error)}", file=sys.stderr)


def is_address(source: str) -> bool:
    """Whether ``source`` is a web address. Otherwise it is a path."""
    return source.startswith(("http://", "https://"))


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments, with all files and folders that match, sorted, in place of a pattern such as ``*.jpg``.

    Most shells do this, but not those of Windows, and none does it in quotes. What is the name of a file is no pattern.
    ``**`` stands for any folders. Hidden files match only a pattern that names the point. Raises UserError: a pattern
    that nothing matches.
    """
    found: list[str] = []
    for argument in arguments:
        if is_address(argument) or not glob.has_magic(argument) or os.path.lexists(argument):
            found.append(argument)
            continue
        matches = sorted(glob.glob(argument, recursive=True))
        if not matches:
            raise UserError(f"{printable(argument)}: no file has such a name; check the pattern and the folder")
        found += matches
    return found


def sources(arguments: Sequence[str], finder: Finder) -> Iterator[str]:
    """The pictures that the arguments name. A folder gives all below it, sorted; for patterns see ``expanded``.

    Subfolders that cannot be listed are reported on stderr. Raises UserError: a folder without pictures, or a pattern
    that nothing matches.
    """
    for argument in expanded(arguments):
        if not is_address(argument) and os.path.isdir(argument):
            found = sorted(Path(argument, name) for name in finder.names(argument, report_unlisted))
            if not found:
                raise no_pictures(argument, finder)
            yield from map(str, found)
        else:
            yield argument
