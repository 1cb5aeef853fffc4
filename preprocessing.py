"""Prepare a data set: read its captions, fit the vocabulary, and extract the image features once.

    python preprocessing.py --download                  # fetch Flickr8k into data/flickr8k, then prepare it
    python preprocessing.py --preset coco-attention --download     # MS-COCO, 20 GB
    python preprocessing.py --preset demo               # generate and prepare the demo scenes

train.py and evaluate.py call the same functions, so running this script first is a choice, not a need. What it prints
names every wart found in the data. It can be interrupted at any moment and run again.
"""

import sys
from typing import TYPE_CHECKING

from captioning.base.errors import UserError
from captioning.base.script import run_script
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve
from captioning.data import datasets
from captioning.data.aside import _return_memory
from captioning.embeddings.bert import read_wordpieces
from captioning.words.tokenizer import tokenize
from captioning.words.vocabulary import Vocabulary
from config import Config

if TYPE_CHECKING:
    import keras

    from captioning.features.prepared import Prepared


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
) -> "Prepared":
    """Open the feature store of ``dataset``, extracting features where they are missing.

    ``encoder`` replaces the one that ``config`` describes: that of a trained captioner. For ``training`` with the settings
    mirror and crops, the training images get stores of their mirrored and cropped versions too. A ``split`` that is wanted
    alone gets a store of its own, unless there is one of all images. ``ways``: in so many of those of ``images.view`` the
    images of the split are looked at.
    """
    # Here: what is wrong with data or settings shows before Keras has loaded.
    from captioning.features.encoder import build_encoder
    from captioning.features.extraction import Look, extract_features, store_location
    from captioning.features.folding import FoldedEncoder
    from captioning.features.prepared import Prepared
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


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--download", action="store_true", help="fetch Flickr8k, MS-COCO or Karpathy's split files first"
    )
    args = parser.parse_args()
    config = resolve(args)
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
    run_script(main)
