"""A job: one destination, its manifest, and the shards that are published there. No Keras.

    job.json                   what made all of it: source, models and settings, as an album's settings.json
    manifest.parquet           the pictures and their shards (``manifest``)
    captions-000012.jsonl      what a shard gave. It appears whole, so the shards that have such a file are done
    captions-000012.missing    only where pictures of the shard could not be opened. The next run does the shard again
    captions.jsonl             all shards in order, with --merge

A job can be killed at any moment. The shards that were in flight leave nothing. The next run does those that are not
published. Two workers may do one shard. They write the same bytes, and each writes a whole file.
"""

import json
import re
import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError, first_line
from captioning.base.files import LOCK, alone_with
from captioning.base.json_files import as_written, from_json
from captioning.base.scratch import temporary_folder
from captioning.base.texts import printable
from captioning.cluster.manifest import MANIFEST, Listed, Manifest, write_manifest
from captioning.cluster.places import Place

JOB = "job.json"
LOCAL = "local"
BUSY = "another job is writing here; wait for it, or name another destination"


def add_cluster(parser: ArgumentParser) -> None:
    """Offer ``--cluster`` and its options to a script."""
    group = parser.add_argument_group("whole collections on a Ray cluster")
    group.add_argument(
        "--cluster",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="do the work shard by shard on a Ray cluster: HOST:PORT of its head, or auto on a machine of the cluster; "
        "without ADDRESS on the cores of this machine. Sources and destinations may be s3:// and gs:// addresses. Needs "
        'pip install -e ".[cluster]"',
    )
    group.add_argument(
        "--shard-pictures",
        type=int,
        metavar="N",
        help="with --cluster: the most pictures of a shard, which is done and published as a whole [default: 10000]",
    )
    group.add_argument(
        "--worker-cores", type=int, metavar="N", help="with --cluster: cores of each worker [default: 1]"
    )


def add_shards(parser: ArgumentParser) -> None:
    """Offer ``--shards`` to a script that joins what workers have published."""
    parser.add_argument(
        "--shards",
        metavar="PLACE",
        help="with --cluster: a folder or bucket that all machines reach, where shards lie until they are joined "
        "[default: shards/ beside the result]",
    )


def settle_cluster(args: Namespace) -> None:
    """Give the options of ``add_cluster`` their defaults. Raises UserError for those that cannot be followed."""
    for name, default in (("shard_pictures", 10_000), ("worker_cores", 1), ("shards", None)):
        given, option = getattr(args, name, None), f"--{name.replace('_', '-')}"
        if given is not None and args.cluster is None:
            raise UserError(f"{option}: is read only with --cluster; add that, or leave this out")
        if isinstance(given, int) and given < 1:
            raise UserError(f"{option}: {given} is less than 1; give a larger number")
        setattr(args, name, default if given is None else given)


@contextmanager
def written_alone(destination: Place, emptied: bool = False) -> Iterator[None]:
    """Keep jobs of this and other clusters away from a destination that is a folder. Raises UserError if one is there.

    ``running.alone_on_cluster`` keeps those of the same cluster away from a bucket, which has no locks. ``emptied``:
    the job empties the folder, which is then removed.
    """
    folder = destination.folder
    if folder is None:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]  # the innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"{destination.option}: {folder}: cannot be made ({error.strerror}); name another") from None
    try:
        with alone_with(folder, f"{destination.option}: {BUSY}"):
            destination.sweep()
            yield
            made = made or [folder] * emptied
    finally:
        _remove_empty(made)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders in this order, up to the first that holds something."""
    with suppress(OSError):  # it holds something
        for folder in folders:
            if folder.exists():
                folder.rmdir()


def settings_file(whole: str) -> str:
    """The name of the file with the settings of an album, which lies beside it."""
    return f"{whole}.settings.json"


@dataclass(frozen=True)
class Kind:
    """What a job makes of each shard: the files ``prefix-000012suffix``."""

    prefix: str
    suffix: str

    def file(self, shard: int) -> str:
        """The name of the file of a shard."""
        return f"{self.prefix}-{shard:06}{self.suffix}"

    def marker(self, shard: int) -> str:
        """The name of the file which says that pictures of a shard could not be opened."""
        return f"{self.prefix}-{shard:06}.missing"

    @property
    def whole(self) -> str:
        """The name of the file of all shards."""
        return f"{self.prefix}{self.suffix}"

    def published(self, names: dict[str, int]) -> set[int]:
        """The shards that need not be done again. ``names``: the files of the destination."""
        found = (re.fullmatch(rf"{self.prefix}-(\d{{6,}}){re.escape(self.suffix)}", name) for name in names)
        shards = {int(match[1]) for match in found if match}
        return {shard for shard in shards if self.marker(shard) not in names}

    def made(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are files or markers of shards."""
        pattern = re.compile(rf"{self.prefix}-\d{{6,}}({re.escape(self.suffix)}|\.missing)")
        return [name for name in names if pattern.fullmatch(name)]


def refuse_strangers(kind: Kind, shards: Place) -> None:
    """Raise UserError if a place for shards, which a job empties at its end, holds what is not of such a job."""
    found = shards.entries()
    if strangers := sorted({*found} - {*kind.made(found), MANIFEST, JOB, LOCK}):
        raise UserError(
            f"{shards.option}: {shards.shown}: holds other things, such as {printable(strangers[0])}, and shards need a "
            "place of their own; name an empty or new one"
        )


def clear(kind: Kind, shards: Place) -> None:
    """Remove the files of a job. Raises UserError.

    What says which job it was goes last. So a job that is killed here can be cleared again.
    """
    names = shards.names()
    for name in [*kind.made(names), MANIFEST, JOB]:
        if name in names:
            shards.remove(name)


@contextmanager
def reading(kind: Kind, shards: Place, shard: int) -> Iterator[None]:
    """Let errors of a damaged file of a shard become a UserError that names it."""
    try:
        yield
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{shards.shown}/{kind.file(shard)}: damaged ({first_line(error)}); delete it, then run the same command again"
        ) from None


def begun_with(destination: Place) -> dict[str, Any]:
    """The settings of the job in ``destination``; empty if there is none. Raises UserError if they are damaged."""
    if JOB not in destination.names():
        return {}
    try:
        return from_json(b"".join(destination.chunks(JOB)), dict)
    except ValueError as error:
        raise UserError(
            f"{destination.option}: {destination.shown}/{JOB}: damaged ({error}); name another destination"
        ) from None


def begin(
    kind: Kind,
    destination: Place,
    settings: dict[str, Any],
    pictures: Callable[[], Iterable[Listed]],
    most: int,
    batch: int,
) -> Manifest:
    """Begin a job, or go on with one. Raises UserError if it was begun with other ``settings``, and changes nothing.

    ``pictures`` lists them for a new job. ``most``: pictures of a shard. ``batch``: those of a batch.
    """
    settings = as_written(settings | {"kind": kind.prefix, "shard_pictures": most, "extract_batch_size": batch})
    begun = begun_with(destination)
    if begun:
        changes = [
            f"{name} was {begun.get(name)}, now {now}" for name, now in settings.items() if begun.get(name) != now
        ]
        if changes:
            raise UserError(
                f"{destination.option}: {destination.shown} was begun with other settings ({'; '.join(changes)}). Use "
                "those, or name another destination"
            )
        return Manifest(destination)
    names = destination.names()
    if found := [name for name in (kind.whole, settings_file(kind.whole)) if name in names]:
        raise UserError(
            f"{destination.option}: {destination.shown}: holds {found[0]}, which no job made here; name another "
            "destination, or move it away"
        )
    if kind.published(names):
        raise UserError(
            f"{destination.option}: {destination.shown} holds results, but {JOB}, which says what made them, is "
            "missing; name another destination"
        )
    with temporary_folder("the list of pictures") as scratch:
        write_manifest(pictures(), destination, scratch, most, batch)
    destination.publish(JOB, [json.dumps(settings, indent=2).encode()])
    return Manifest(destination)


def todo(kind: Kind, manifest: Manifest, destination: Place) -> list[int]:
    """The shards that are not published yet."""
    done = kind.published(destination.names())
    return [shard for shard in range(manifest.shards) if shard not in done]


def merge(kind: Kind, destination: Place, shards: int) -> str:
    """Join the files of all shards in their order into one. Returns its name.

    A file that begins with all of them stays: it may have been gone on with. Raises UserError if a shard is not
    published, and for a file that begins with anything else.
    """
    names, whole = destination.names(), kind.whole
    parts = [kind.file(shard) for shard in range(shards)]
    if lacking := [part for part in parts if part not in names]:
        raise UserError(
            f"--merge: {destination.shown}: {len(lacking):,} shards are not done, such as {lacking[0]}; run the same "
            "command to do them"
        )
    content = chain.from_iterable(map(destination.chunks, parts))
    if whole not in names:
        destination.publish(whole, content)
    elif names[whole] < sum(names[part] for part in parts) or not _begins_with(destination, whole, content):
        raise UserError(
            f"--merge: {destination.shown}/{whole}: is there already and does not begin with what the shards hold; move "
            "it away, then run the same command again"
        )
    return whole


def _begins_with(place: Place, name: str, content: Iterable[bytes]) -> bool:
    """Whether a file begins with the parts of ``content``."""
    with closing(place.open(name)) as file:
        return all(file.read(len(part)) == part for part in content)
