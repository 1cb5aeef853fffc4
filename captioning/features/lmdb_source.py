"""Region features in an LMDB, as ruotianluo's ImageCaptioning.pytorch has them. No Keras.

A key is the id of an image in ASCII. Its value is the content of a .npz or .npy file. Keys in double underscores, such
as __keys__, are those of lmdbdict and are not read. An LMDB is a folder with data.mdb, or a single file.
"""

from functools import cache, cached_property
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.features.region_sources import Arrays, ArraySource, Unusable


class LmdbSource(ArraySource):
    """An LMDB. ``boxes``: the source of boxes, if there is one."""

    layout = "lmdb"

    def __init__(self, path: Path, boxes: ArraySource | None = None):
        """Raises UserError if it is no LMDB, or if the package lmdb is not installed."""
        self.place, self.boxes, file = path, boxes, path / "data.mdb" if path.is_dir() else path
        self.paths = [file, *(boxes.paths if boxes else ())]
        self._environment = _opened(path.resolve())

    @cached_property
    def keys(self) -> frozenset[str]:
        with self._environment.begin() as transaction:
            names = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
        return frozenset(name.decode("ascii", "replace") for name in names if not name.startswith(b"__"))

    def arrays(self, key: str) -> Arrays:
        with self._environment.begin() as transaction:
            value = transaction.get(key.encode("ascii", "replace"))
        if value is None:
            raise Unusable("is not there any more")
        return Arrays(bytes(value))


@cache
def _opened(path: Path) -> Any:
    """The LMDB at ``path``, open for reading. A process may open it only once. Raises UserError."""
    try:
        import lmdb  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UserError(
            f'features: {path}: is read with the package lmdb, which is not installed; pip install -e ".[features]"'
        ) from None
    try:
        return lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, max_readers=256)
    except lmdb.Error as error:
        raise UserError(f"features: {path}: is damaged, or no LMDB ({error})") from None
