"""Prepare a data set: read its captions, fit the vocabulary, and extract the image features once.

    python preprocessing.py --download                  # fetch Flickr8k into data/flickr8k, then prepare it
    python preprocessing.py --preset coco-attention --download     # MS-COCO, 20 GB
    python preprocessing.py --preset demo               # generate and prepare the demo scenes

train.py and evaluate.py call the same functions, so running this script first is a choice, not a need. What it prints
names every wart found in the data. It can be interrupted at any moment and run again.
"""

import contextlib
import ctypes
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import config as settings
from captioning.data import datasets
from captioning.embeddings.arrays import read_wordpieces
from captioning.words.tokenizer import tokenize
from captioning.words.vocabulary import Vocabulary
from config import Config, UserError

if TYPE_CHECKING:
    import keras

    from captioning.features.folding import FoldedEncoder
    from captioning.features.store import FeatureStore, StoreKey, View


@dataclass(frozen=True)
class Look:
    """How the images of a feature store look: whole or a random crop, in one of the ways of ``images.view``."""

    crop: int = 0  # its number, or 0 for whole images
    view: int = 0


@dataclass
class Prepared:
    """All that training and evaluation start from."""

    dataset: datasets.CaptionDataset
    encoder: "keras.Model"
    store: "FeatureStore"
    # The training images mirrored and cropped (settings mirror and crops), or those of a split in further ways.
    views: "Sequence[View]" = ()

    def usable(self, split: str) -> list[datasets.ImageRecord]:
        """The images of a split whose features exist. Raises UserError when there are none."""
        records = [record for record in self.dataset.split(split) if record.file_name in self.store.rows]
        if not records:
            raise UserError(f"{self.store.folder}: not one image of the split {split!r} could be read")
        return records

    def captions(self, split: str) -> Iterator[tuple[str, str]]:
        """File name and text of each caption of the ``usable`` images."""
        return ((record.file_name, text) for record in self.usable(split) for text in record.captions)

    def release(self, split: str) -> None:
        """Let go of the images of a split, their captions and where their features lie: half a million captions take 150 MB."""
        gone = {record.file_name for record in self.dataset.records if record.split == split}
        others = tuple(record for record in self.dataset.records if record.split != split)
        aside = put_aside(replace(self.dataset, records=others))
        del others
        self.dataset = replace(self.dataset, records=())
        self.store = self.store.without(gone)
        self.views = [replace(view, store=view.store.without(gone)) for view in self.views]
        del gone
        self.dataset = aside()
        del aside
        _return_memory()


def put_aside(dataset: datasets.CaptionDataset) -> Callable[[], datasets.CaptionDataset]:
    """Write ``dataset`` down; what is returned makes it anew.

    Python gives memory back by the megabyte, and only where all of it is free. So what is to stay among much that goes is
    made anew once everything has gone, and what is to go behind what comes first: else that settles in its gaps. For the same
    reason all is written into one piece, and read one record after the other.
    """
    written = bytearray()
    for record in dataset.records:
        parts = (record.image_id, record.file_name, str(record.path), record.captions, record.split)
        written += json.dumps(parts).encode() + b"\n"
    bare = replace(dataset, records=())

    def make(image_id: int, name: str, path: str, captions: list[str], split: str) -> datasets.ImageRecord:
        return datasets.ImageRecord(image_id, name, Path(path), tuple(captions), sys.intern(split))

    return lambda: replace(bare, records=tuple(make(*json.loads(line)) for line in io.BytesIO(written)))


def _return_memory() -> None:
    """Have glibc give freed memory back to the system, which it otherwise keeps for itself."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def load_dataset(config: Config) -> datasets.CaptionDataset:
    """The data set that ``config`` names, its warts printed on stderr."""
    dataset = datasets.load(config)
    _return_memory()  # of COCO's captions files, which took 180 MB
    for warning in dataset.warnings:
        print(f"note: {warning}", file=sys.stderr)
    return dataset


def fit_vocabulary(config: Config, dataset: datasets.CaptionDataset) -> Vocabulary:
    """The vocabulary of the training split. Raises UserError, also when there is no BERT to take WordPieces from."""
    wordpieces = read_wordpieces(config.bert) if config.vocabulary == "wordpieces" else ()
    captions = [caption for record in dataset.split("train") for caption in record.captions]
    return Vocabulary.fit(captions, config.vocab_threshold, wordpieces)


def prepare(
    config: Config,
    dataset: datasets.CaptionDataset,
    encoder: "keras.Model | None" = None,
    training: bool = False,
    split: str = "",
    ways: int = 1,
) -> Prepared:
    """Open the feature store of ``dataset``, extracting features where they are missing.

    ``encoder`` replaces the one that ``config`` describes: that of a trained captioner. For ``training`` with the settings
    mirror and crops, the training images get stores of their mirrored and cropped versions too. A ``split`` that is wanted
    alone gets a store of its own, unless there is one of all images. ``ways``: in so many of those of ``images.view`` the
    images of the split are looked at.
    """
    # Here: what is wrong with data or settings shows before Keras has loaded.
    from captioning.features.encoder import build_encoder
    from captioning.features.folding import FoldedEncoder
    from captioning.features.store import FeatureStore, View
    from captioning.pictures.loading import MIRRORED

    encoder = encoder or build_encoder(config)
    encode = FoldedEncoder(encoder)
    store = None
    if split:
        whole, key = store_location(config, dataset.name, dataset.records, encoder)
        if (whole / "index.json").exists():
            store = FeatureStore(whole, key)
    if store is None:
        records = dataset.split(split) if split else dataset.records
        [store] = extract_features(config, dataset.name, records, encoder, encode)
    for name, reason in list(store.unreadable.items())[:5]:
        print(f"note: left out: {name}: {reason}", file=sys.stderr)
    if len(store.unreadable) > 5:
        print(f"note: ... and {len(store.unreadable) - 5} more, listed in {store.folder}/index.json", file=sys.stderr)
    looks = [Look(view=way) for way in range(1, ways)]
    if training and config.stage != "finetune":
        looks += [Look(view=MIRRORED)] * config.mirror
        looks += [Look(n, MIRRORED if config.mirror and n % 2 == 0 else 0) for n in range(1, config.crops + 1)]
    views = []
    if looks:
        records = dataset.split(split or "train")
        readable = {record.file_name for record in records if record.file_name in store.rows}
        stores = extract_features(config, dataset.name, records, encoder, encode, looks)
        for look, found in zip(looks, stores, strict=True):
            if found.rows.keys() != readable:
                raise UserError(
                    f"{found.folder}: when it was made, other images could be read than for {store.folder}; "
                    "delete both and run the same command"
                )
            views.append(View(found, look.view == MIRRORED))
    return Prepared(dataset, encoder, store, views)


def store_location(
    config: Config, name: str, records: Sequence[datasets.ImageRecord], encoder: "keras.Model"
) -> "tuple[Path, StoreKey]":
    """Where the features of ``records``' images lie, once they are extracted, and what decides them."""
    from captioning.features.encoder import encoder_digest
    from captioning.features.store import StoreKey, digest_images
    from captioning.pictures.loading import PREPROCESSING

    key = StoreKey(
        encoder=Path(config.encoder).name,
        weights=encoder_digest(encoder, config),
        preprocessing=PREPROCESSING,
        image_size=config.image_size,
        feature_grid=config.feature_grid,
        dtype=config.feature_dtype,
        images=digest_images({record.file_name: record.path for record in records}),
    )
    return _folder(config, name, key), key


def _folder(config: Config, name: str, key: "StoreKey") -> Path:
    return Path(config.feature_dir) / f"{name}-{key.encoder}-{key.fingerprint}"


def extract_features(
    config: Config,
    name: str,
    records: Sequence[datasets.ImageRecord],
    encoder: "keras.Model",
    encode: "FoldedEncoder",
    looks: Sequence[Look] = (Look(),),
) -> "list[FeatureStore]":
    """The stores of the features of ``records``' images, one for each of ``looks``, made where they are missing.

    They lie in feature_dir; ``name`` is the data set's. ``encode`` is ``encoder`` folded, which computes them.
    """
    from captioning.features.store import extract
    from captioning.pictures.loading import VIEWS, load_image, load_varied, view

    _, plain = store_location(config, name, records, encoder)
    paths = {record.file_name: record.path for record in records}

    def load(file_name: str, look: Look) -> np.ndarray:
        if look.crop:
            # By name, so that the store is the same whatever other images there are and in whatever order they come.
            rng = np.random.default_rng((look.crop, *file_name.encode()))
            pixels = load_varied(paths[file_name], config.image_size, config.crop, config.colour_jitter, rng)
        else:
            pixels = load_image(paths[file_name], config.image_size)
        return view(pixels, look.view)

    stores = []
    for look in looks:
        crop = f"-crop-{look.crop}-keeps-{config.crop:g}-colour-{config.colour_jitter:g}" if look.crop else ""
        seen = f"-{VIEWS[look.view]}" if look.view else ""
        key = replace(plain, preprocessing=plain.preprocessing + crop + seen)
        store = extract(
            _folder(config, name, key),
            key,
            list(paths),
            load=partial(load, look=look),
            encode=encode,
            shape=tuple(encoder.output_shape[1:]),
            batch_size=config.extract_batch_size,
            workers=config.workers,
            label="features" + f" of crop {look.crop}" * (look.crop > 0) + f" ({VIEWS[look.view]})" * (look.view > 0),
        )
        stores.append(store)
    return stores


def main() -> None:
    parser = settings.make_parser(__doc__)
    parser.add_argument(
        "--download", action="store_true", help="fetch Flickr8k, MS-COCO or Karpathy's split files first"
    )
    args = parser.parse_args()
    config = settings.resolve(args)
    if args.download:
        from captioning.data import download

        if config.dataset in datasets.SOURCES:
            raise UserError(f"--download: {config.dataset} cannot be downloaded. {datasets.SOURCES[config.dataset]}")
        download.fetch_archives(config)
    dataset = load_dataset(config)
    vocabulary = fit_vocabulary(config, dataset)
    store = prepare(config, dataset, training=True).store
    for split in datasets.SPLITS:
        images = [record for record in dataset.records if record.split == split]
        print(f"{split:6}{len(images):7} images {sum(len(record.captions) for record in images):8} captions")
    words = [
        word
        for record in dataset.records
        if record.split == "dev"
        for caption in record.captions
        for word in tokenize(caption)
    ]
    unknown = sum(not vocabulary.knows(word) for word in words) / max(1, len(words))
    print(
        f"vocabulary: {len(vocabulary)} {config.vocabulary} and special tokens (seen {config.vocab_threshold}+ times in "
        f"training); of dev's words {unknown:.1%} are unknown"
    )
    print(
        f"features: {len(store.rows)} images x {store.regions} x {store.feature_size} {store.dtype} in {store.folder}"
        + (f"; {len(store.unreadable)} unreadable" if store.unreadable else "")
    )


if __name__ == "__main__":
    settings.run_script(main)
