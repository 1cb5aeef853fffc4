"""The manifest says which pictures a job has, and in which shard each of them is. Pictures are listed once. No Keras.

``manifest.parquet`` has one row for each picture, in the order of the result, and one row group for each shard:

    picture     binary: its path in the source, as bytes of UTF-8. File names of a disk may hold other bytes
    size        int64: bytes, when it was listed
    shard       int32: from 0
    path        binary: where it is, if that does not follow from its name; else null

A shard holds whole batches. So a picture is in the same batch as where one process captions all pictures, and gets the
same numbers to the last bit. The last shard is never smaller than a batch, unless all pictures are fewer.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from captioning.base.errors import UserError
from captioning.base.progress import Progress
from captioning.cluster.places import Place, parts_of

MANIFEST = "manifest.parquet"


def shard_size(most: int, batch: int) -> int:
    """The pictures of every shard but the last. No shard has more than ``most``. Raises UserError.

    The last one has those that are left, and those of another batch that is not full.
    """
    if most < 2 * batch:
        raise UserError(
            f"--shard-pictures: {most} are fewer than two batches of {batch}; give {2 * batch} or more, or a smaller "
            "--extract-batch-size"
        )
    return most // batch * batch - batch


# A picture: its name, its size in bytes, and where it is, or None if that follows from its name.
Listed = tuple[str, int, str | None]


def write_manifest(pictures: Iterable[Listed], destination: Place, scratch: Path, most: int, batch: int) -> None:
    """Write ``pictures`` into the manifest in ``destination``.

    ``scratch``: a folder of this machine, where it is written first. ``most``: pictures of a shard. ``batch``: those of
    a batch. Memory holds one shard of pictures.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size, number = shard_size(most, batch), 0
    kinds = {"picture": pa.binary(), "size": pa.int64(), "shard": pa.int32(), "path": pa.binary()}
    schema = pa.schema(list(kinds.items()))
    waiting: list[tuple[bytes, int, bytes | None]] = []

    def write(count: int) -> None:
        nonlocal number
        names, sizes, paths = zip(*waiting[:count], strict=True)
        table = pa.table([names, sizes, [number] * len(names), paths], schema=schema)
        file.write_table(table, row_group_size=len(names))
        del waiting[:count]
        number += 1

    with (
        pq.ParquetWriter(scratch / MANIFEST, schema, compression="zstd", write_statistics=False) as file,
        Progress("listing", None) as progress,
    ):
        for name, bytes_of, path in pictures:
            waiting.append((os.fsencode(name), bytes_of, None if path is None else os.fsencode(path)))
            if len(waiting) >= size + batch:
                write(size)
                progress.update(size)
        if waiting:
            write(len(waiting))
    destination.publish(MANIFEST, parts_of(scratch / MANIFEST))


class Manifest:
    """Read access to the manifest in a place. Only what is asked for is read."""

    def __init__(self, place: Place):
        """Raises UserError if it is missing or damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(place.open(MANIFEST))
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{place.option}: {place.shown}/{MANIFEST}: damaged ({error}); name another destination"
            ) from None
        self.shards, self.pictures = self._file.metadata.num_row_groups, self._file.metadata.num_rows

    def size(self, shard: int) -> int:
        """How many pictures a shard has."""
        return self._file.metadata.row_group(shard).num_rows

    def paths(self, shard: int) -> dict[str, str]:
        """The pictures of a shard in order: their names, and where they are."""
        found = self._file.read_row_group(shard, columns=["picture", "path"])
        rows = zip(*(column.to_pylist() for column in found.columns), strict=True)
        return {os.fsdecode(name): os.fsdecode(name if path is None else path) for name, path in rows}

    def __iter__(self) -> Iterator[str]:
        """All pictures, in order."""
        for shard in range(self.shards):
            yield from self.paths(shard)
