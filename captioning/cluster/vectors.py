"""Vectors of pictures for an index, computed on a Ray cluster: each shard's in one file, which the index takes in.

A shard is published as a .npz file:

    vectors        float32 (readable pictures, J), in the order of the manifest
    unreadable     uint8: JSON text of [[name, reason, whether the file could not be opened], ...]
"""

import io
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from captioning.base.errors import UserError
from captioning.base.json_files import from_json
from captioning.cluster.jobs import Kind, begin, clear, reading, refuse_strangers, todo, written_alone
from captioning.cluster.manifest import Listed
from captioning.cluster.places import Place
from captioning.cluster.running import Do, Report, Work, alone_on_cluster, do_all
from captioning.command_line.resolving import settle_backend
from captioning.pictures.loading import UnreachableImage, UnreadableImage
from config import Config

VECTORS = Kind("vectors", ".npz")

# As ``retrieval.index.Embed`` gives them: names, vectors of the readable ones, and reasons by name.
Embedded = tuple[Sequence[str], np.ndarray, Mapping[str, UnreadableImage]]


def embed_on_cluster(
    names: Sequence[str],
    *,
    cluster: str,
    source: Place,
    shards: Place,
    model: Path,
    fingerprint: str,
    size_of: Callable[[str], int],
    config: Config,
    most: int,
    cores: int,
) -> Iterator[Embedded]:
    """Embed the pictures ``names`` of ``source``. Yields them shard by shard, when all shards are published.

    ``shards``: where workers publish what they have; it is emptied at the end. ``model``: towers with this
    ``fingerprint``. ``size_of`` gives the bytes of a picture. ``most``: pictures of a shard. ``cores``: those of a
    worker. What an interrupted run has published is taken first. Raises UserError.
    """
    left, settings = set(names), {"folder": source.shown, "model": fingerprint}
    work = Work(VECTORS, source.address, shards.address, load, (model, fingerprint, config), cores)

    def listed() -> list[Listed]:
        return [(name, size_of(name), None) for name in names if name in left]

    with written_alone(shards, emptied=True), ExitStack() as stack:
        refuse_strangers(VECTORS, shards)
        while left:
            manifest = begin(VECTORS, shards, settings, listed, most, config.extract_batch_size)
            if todo(VECTORS, manifest, shards):
                stack.enter_context(alone_on_cluster(cluster, shards))
            do_all(work, manifest, shards)
            for shard in range(manifest.shards):
                yield from _embedded(shards, shard, list(manifest.paths(shard)), left)
            left.difference_update(manifest)
            clear(VECTORS, shards)
            stack.close()


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
