"""Vectors of pictures for an index, computed on a Ray cluster: each shard's in one file, which the index takes in.

A shard is published as a .npz file:

    vectors        float32 (readable pictures, J), in the order of the manifest
    unreadable     uint8: JSON text of [[name, reason, whether the file could not be opened], ...]
"""

import hashlib
import io
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from captioning.base.errors import UserError
from captioning.base.json_files import from_json
from captioning.cluster.jobs import Kind, begin, begun_with, clear, reading
from captioning.cluster.manifest import MANIFEST, Listed, Manifest
from captioning.cluster.places import Place
from captioning.cluster.running import Do, Report, Work, do_all, emptying
from captioning.command_line.resolving import settle_backend
from captioning.pictures.loading import UnreachableImage, UnreadableImage
from captioning.retrieval.index import Embed, ImageIndex, Stamp
from config import Config

VECTORS = Kind("vectors", ".npz")

# As ``Embed`` gives them: names, vectors of the readable ones, and reasons by name.
Embedded = tuple[Sequence[str], np.ndarray, Mapping[str, UnreadableImage]]


def index_on_cluster(
    update: Callable[[Embed], ImageIndex],
    *,
    cluster: str,
    source: Place,
    shards: Place,
    model: Path,
    fingerprint: str,
    stamp_of: Callable[[str], Stamp],
    config: Config,
    most: int,
    cores: int,
) -> ImageIndex:
    """Bring an index of pictures of ``source`` up to date. Returns what ``update`` gives.

    ``update(embed)`` does that with vectors of ``embed``, and commits. It is called again if ``embed`` had only vectors
    that an interrupted run has published. ``shards``: where workers publish what they have; it is emptied when the
    index has it. ``model``: towers with this ``fingerprint``. ``stamp_of`` gives the size and the time of change of a
    picture. ``most``: pictures of a shard. ``cores``: those of a worker. Raises UserError.
    """
    settings = {"folder": source.shown, "model": fingerprint}
    work = Work(VECTORS, source.address, shards.address, load, (model, fingerprint, config), cores)
    left: set[str] = set()
    with ExitStack() as stack:

        @cache
        def hold() -> None:
            stack.enter_context(emptying(VECTORS, shards, cluster))

        def embed(names: Sequence[str]) -> Iterator[Embedded]:
            hold()
            manifest = _begin(shards, settings, names, stamp_of, config, most)
            do_all(work, manifest, shards)
            wanted = set(names)
            left.update(wanted)
            for shard in range(manifest.shards):
                listed = list(manifest.paths(shard))
                yield from _embedded(shards, shard, listed, wanted)
                left.difference_update(listed)

        while True:
            index = update(embed)
            if _is_of(settings, begun_with(shards)):  # the index has its vectors
                hold()
                clear(VECTORS, shards)
            if not left:
                return index
            left.clear()


def _is_of(settings: dict[str, Any], begun: dict[str, Any]) -> bool:
    """Whether a job that was ``begun`` is one of vectors with these ``settings``."""
    return begun.get("kind") == VECTORS.prefix and all(begun.get(name) == value for name, value in settings.items())


def _begin(
    shards: Place,
    settings: dict[str, Any],
    names: Sequence[str],
    stamp_of: Callable[[str], Stamp],
    config: Config,
    most: int,
) -> Manifest:
    """Begin a job of the pictures ``names``, or go on with one whose pictures are what they were. Raises UserError."""
    begun = begun_with(shards)
    if _is_of(settings, begun):
        whole = MANIFEST in shards.names()  # else the job was killed while it was cleared
        if not whole or begun.get("pictures") != _digest(Manifest(shards), stamp_of):
            if whole:
                print(
                    f"note: {shards.shown}: pictures have changed since this job began; it begins anew", file=sys.stderr
                )
            clear(VECTORS, shards)
            begun = {}
    settings = settings | {"pictures": begun.get("pictures") or _digest(names, stamp_of)}

    def listed() -> list[Listed]:
        return [(name, stamp_of(name)[0], None) for name in names]

    return begin(VECTORS, shards, settings, listed, most, config.extract_batch_size)


def _digest(names: Iterable[str], stamp_of: Callable[[str], Stamp]) -> str:
    """Digest (hex) of the names, sizes and times of change of pictures."""
    digest = hashlib.sha256()
    for name in names:
        stamp: Stamp | None = None
        with suppress(OSError, KeyError):  # it is gone
            stamp = stamp_of(name)
        digest.update(os.fsencode(f"{name}\t{stamp}\n"))
    return digest.hexdigest()


def _embedded(shards: Place, shard: int, listed: Sequence[str], wanted: set[str]) -> Iterator[Embedded]:
    """Those of the pictures ``listed`` of a shard that are ``wanted``."""
    file = io.BytesIO(b"".join(shards.chunks(VECTORS.file(shard))))
    with reading(VECTORS, shards, shard), np.load(file, allow_pickle=False) as found:
        vectors, unreadable = found["vectors"], from_json(found["unreadable"].tobytes(), list)
    reasons: dict[str, UnreadableImage] = {
        name: (UnreachableImage if unreachable else UnreadableImage)(reason) for name, reason, unreachable in unreadable
    }
    readable = [name for name in listed if name not in reasons]
    names = [name for name in listed if name in wanted]
    rows = [row for row, name in enumerate(readable) if name in wanted]
    if names:
        yield names, vectors[rows], {name: reason for name, reason in reasons.items() if name in wanted}


class Stored:
    """A picture in a bucket, as an index asks for its size. Its time of change counts for nothing."""

    def __init__(self, source: Place, name: str, size: int):
        self._address, self._size = f"{source.shown}/{name}", size

    def __str__(self) -> str:
        return self._address

    def stat(self) -> os.stat_result:
        """Its size."""
        return os.stat_result((0, 0, 0, 0, 0, 0, self._size, 0, 0, 0))


class _Opened(dict[str, Path]):
    """What is opened for the name of a picture in ``source``: a path, or the bytes of a picture in a bucket."""

    def __init__(self, source: Place):
        self._source = source

    def __missing__(self, name: str) -> Any:
        return self._source.picture(name)


def load(source: Place, model: Path, fingerprint: str, config: Config) -> Do:
    """Load the towers. Returns what embeds a shard. Raises UserError if they are others here."""
    settle_backend(None)  # before Keras is imported
    from captioning.retrieval.aligner import Aligner

    aligner = Aligner.load(model)
    if aligner.fingerprint != fingerprint:
        raise UserError(f"{model}: are other towers on the machine {platform.node()}; copy the same to every machine")

    return partial(embed_shard, aligner, source, config)


def embed_shard(aligner: Any, source: Place, config: Config, paths: Mapping[str, str], output: Path) -> Report:
    """Embed the pictures ``paths`` of ``source`` into the file ``output``, by an ``aligner`` of retrieval/."""
    parts: list[np.ndarray] = []
    reasons: dict[str, UnreadableImage] = {}
    for _, vectors, unreadable in aligner.embed_files(
        list(paths), _Opened(source), config.extract_batch_size, config.workers
    ):
        parts.append(vectors)
        reasons |= unreadable
    lines = [[name, str(reason), isinstance(reason, UnreachableImage)] for name, reason in reasons.items()]
    text = np.frombuffer(json.dumps(lines).encode(), np.uint8)
    with open(output, "wb") as file:
        np.savez(file, vectors=np.concatenate(parts), unreadable=text)
    return Report(unreadable=len(lines), said=list(map(str, reasons.values())))
