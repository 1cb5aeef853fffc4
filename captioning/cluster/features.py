"""Features of a data set extracted on a Ray cluster: each shard as a store of its own, joined into one.

A shard is published as a zip that is not compressed. It holds features.npy and index.json of its store (see
``features.store``), whose images are named by their places in the shard: 00000000, 00000001 and so on.
Legend: B images, R regions, D feature size.
"""

import platform
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.base.json_files import load_json, take
from captioning.base.scratch import temporary_folder
from captioning.cluster.jobs import Kind, begin, begun_with, clear, reading
from captioning.cluster.manifest import Listed, Manifest
from captioning.cluster.places import Place
from captioning.cluster.running import Do, Report, Work, do_all, emptying
from captioning.command_line.resolving import settle_backend
from captioning.features.looks import Look
from captioning.features.store import FeatureStore, StoreKey, extract, join
from captioning.pictures.notes import Notes
from config import EncoderSettings

FEATURES = Kind("features", ".zip")
_MEMBERS = ("features.npy", "index.json")


def extract_on_cluster(
    cluster: str,
    shards: Place,
    folder: Path,
    key: StoreKey,
    pictures: Sequence[Listed],
    settings: EncoderSettings,
    look: Look,
    init: str,
    shape: tuple[int, int],
    most: int,
    cores: int,
) -> FeatureStore:
    """Make the store in ``folder`` of the features of ``pictures``, which are sorted by name, and open it.

    ``cluster``: the address of a cluster. ``shards``: where workers publish what they have; it is emptied at the end.
    ``key``, ``shape``: see ``features.store.extract``. ``settings`` and ``init`` say which encoder it is. ``most``:
    pictures of a shard. ``cores``: those of a worker. Raises UserError.
    """
    about, batch = {"kind": FEATURES.prefix, "store": key.fingerprint}, settings.extract_batch_size
    if (folder / "index.json").exists():
        store = FeatureStore(folder, key)
        if about.items() <= begun_with(shards).items():  # a job that was killed while it was cleared
            with emptying(FEATURES, shards, cluster):
                clear(FEATURES, shards)
        return store
    with emptying(FEATURES, shards, cluster):
        manifest = begin(FEATURES, shards, about, lambda: pictures, most, batch)
        work = Work(FEATURES, ".", shards.address, load, (settings, key, look, init, shape), cores)
        do_all(work, manifest, shards)
        with temporary_folder("the features of a shard") as scratch:

            def batches(numbers: Sequence[int]) -> Generator[tuple[np.ndarray, dict[str, str]], None, None]:
                return joined(shards, manifest, numbers, batch, scratch)

            store = join(folder, key, [name for name, *_ in pictures], batches, shape, batch)
        clear(FEATURES, shards)
    return store


def load(source: Place, settings: EncoderSettings, key: StoreKey, look: Look, init: str, shape: tuple[int, int]) -> Do:
    """Load the encoder. Returns what extracts a shard. Raises UserError if it is another one here."""
    settle_backend(None)  # before Keras is imported
    from captioning.features.digests import encoder_digest
    from captioning.features.encoder import build_encoder
    from captioning.features.folding import FoldedEncoder

    if init:
        from model import Captioner

        encoder = Captioner.load(Path(init)).encoder
    else:
        encoder = build_encoder(settings)
    if encoder_digest(encoder, settings.encoder) != key.weights:
        raise UserError(f"encoder: has other weights on the machine {platform.node()}; copy the same to every machine")
    encode = FoldedEncoder(encoder)

    def extract_shard(paths: Mapping[str, str], output: Path) -> Report:
        places = {f"{number:08}": name for number, name in enumerate(paths)}
        folder = output.with_suffix("")
        with Notes() as notes:
            store = extract(
                folder,
                key,
                places,
                load=lambda place: look.load(Path(paths[places[place]]), places[place], settings.image_size, notes),
                encode=encode,
                shape=shape,
                batch_size=settings.extract_batch_size,
                workers=settings.workers,
                label=look.label,
            )
        with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
            for member in _MEMBERS:
                archive.write(folder / member, member)
        return Report(unreadable=len(store.unreadable), said=list(store.unreadable.values()))

    return extract_shard


def joined(
    shards: Place, manifest: Manifest, numbers: Sequence[int], batch: int, scratch: Path
) -> Generator[tuple[np.ndarray, dict[str, str]], None, None]:
    """The features ``(B, R, D)`` of the batches ``numbers``, rising, and why some images have none, by name.

    ``batch``: images of a batch. ``scratch``: a folder of this machine for one shard at a time.
    """
    wanted, first = set(numbers), 0
    for shard in range(manifest.shards):
        count = -(-manifest.size(shard) // batch)
        mine = [number - first for number in range(first, first + count) if number in wanted]
        first += count
        if not mine:
            continue
        names = list(manifest.paths(shard))
        with reading(FEATURES, shards, shard):
            with closing(shards.open(FEATURES.file(shard))) as file, zipfile.ZipFile(file) as archive:
                archive.extractall(scratch, _MEMBERS)
            unreadable = take(load_json(scratch / "index.json", dict), "unreadable", dict)
            features = np.load(scratch / "features.npy", mmap_mode="r", allow_pickle=False)
        reasons = {names[int(place)]: reason for place, reason in unreadable.items()}
        for number in mine:
            of_batch = names[number * batch : (number + 1) * batch]
            found = {name: reasons[name] for name in of_batch if name in reasons}
            yield features[number * batch : (number + 1) * batch], found
