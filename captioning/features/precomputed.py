"""Region features from elsewhere in the place of an encoder: what a captioner of such features has, and its store."""

import hashlib
import sys
from collections.abc import Container, Sequence
from pathlib import Path

import keras

from captioning.base.errors import UserError
from captioning.base.texts import printable
from captioning.data.records import SPLITS, CaptionDataset
from captioning.features.region_sources import Source, match_images
from captioning.features.region_store import RegionKey, RegionStore, import_regions, refuse_width
from config import EncoderSettings

_NAMED = 5  # so many images are named in an error


class StoredFeatures(keras.Model):
    """What a captioner of stored features has in the place of an encoder. It knows their sizes and encodes nothing.

    regions: those of the image with most of them. feature_size: numbers per region.
    """

    def __init__(self, regions: int, feature_size: int):
        super().__init__(name="encoder")
        self.regions, self.feature_size = regions, feature_size
        self.built = True

    @property
    def output_shape(self) -> tuple[None, int, int]:
        """That of features ``(B, R, D)``."""
        return None, self.regions, self.feature_size

    def call(self, pixels):
        raise UserError("features: this captioner reads stored features and has no encoder for pictures")


def region_store(
    settings: EncoderSettings,
    dataset: CaptionDataset,
    source: Source,
    split: str = "",
    width: int | None = None,
    verify: bool = False,
) -> RegionStore:
    """The store of the features that ``source`` has of the images of ``dataset``. A missing store is made.

    ``split``: the only split whose features are needed. It gets its own store, unless there is a store of all images.
    ``width``: the numbers per region that a captioner was trained with. ``verify``: a finished store is compared with
    its checksums. Raises UserError for features that are missing or cannot be used.
    """
    stamp = source.stamp()

    def place(names: Sequence[str]) -> tuple[Path, RegionKey]:
        images = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
        key = RegionKey(source.layout, stamp, settings.feature_dtype, images)
        return Path(settings.feature_dir) / f"{dataset.name}-{key.layout}-{key.fingerprint}", key

    names = sorted(dataset.records.file_names)
    folder, key = place(names)
    if split and not (folder / "index.json").exists():
        names = sorted(dataset.split(split).file_names)
        folder, key = place(names)
    if not (folder / "index.json").exists() or verify:
        matched = match_images(names, source)
        _refuse_missing(dataset, matched, source, split)
        pictures = {record.file_name: record.path for record in dataset.records}
        options = settings.extract_batch_size, settings.workers, width, verify, pictures
        import_regions(folder, key, source, matched, names, *options)
    store = RegionStore(folder, key)
    refuse_width(source.place, store.feature_size, width)
    _refuse_missing(dataset, store.rows, source, split)
    if not split:
        _report_missing(dataset, store.rows, source)
    return store


def _refuse_missing(dataset: CaptionDataset, there: Container[str], source: Source, split: str) -> None:
    """Raise UserError if an image of ``split`` has no features, or if none of the images that are needed has some.

    ``there``: the images with features.
    """
    for name in [split] if split else [name for name in ("train", "dev") if dataset.records.of_split(name)]:
        wanted = [*dataset.split(name).file_names]
        missing = [file_name for file_name in wanted if file_name not in there]
        if missing and (split or len(missing) == len(wanted)):
            named = printable(", ".join(missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
            first = Path(missing[0]).stem
            raise UserError(
                f"features: {source.place}: {len(missing):,} of the {len(wanted):,} images of split {name} have no "
                f"features there: {named} (looked for under {first!r}; of COCO's images also under their id); add their "
                "features, or name another source"
            )


def _report_missing(dataset: CaptionDataset, there: Container[str], source: Source) -> None:
    """Say on stderr which images have no features."""
    missing = [name for name in dataset.records.file_names if name not in there]
    if missing:
        of = {split: [*dataset.records.of_split(split).file_names] for split in SPLITS}
        counts = ", ".join(f"{split} {n}" for split, all_ in of.items() if (n := sum(x not in there for x in all_)))
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        print(
            printable(
                f"note: features: {source.place}: {len(missing):,} of {len(dataset.records):,} images have no "
                f"features and are left out ({counts or 'in no split'}): {named}"
            ),
            file=sys.stderr,
        )
