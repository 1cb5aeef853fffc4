"""Prepare a data set: read its captions, fit the vocabulary, and extract the image features once.

    python preprocessing.py --download                  # fetch Flickr8k into data/flickr8k, then prepare it
    python preprocessing.py --preset coco-attention --download     # MS-COCO, 20 GB
    python preprocessing.py --preset demo               # generate and prepare the demo scenes
    python preprocessing.py --verify                    # compare the stored features with their checksums
    python preprocessing.py --cluster HOST:6379         # extract the features on a Ray cluster

train.py and evaluate.py call the same functions, so nobody needs to run this script first. It prints a line for each
kind of fault in the data. It can be interrupted at any moment and run again.
"""

import math
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.base.devices import use_devices
from captioning.base.errors import UserError
from captioning.base.script import run_script
from captioning.base.texts import printable, printable_lines
from captioning.base.trained import read_trained
from captioning.cluster.jobs import add_cluster, add_shards, settle_cluster
from captioning.cluster.places import Place
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve
from captioning.concepts.class_words import new_words
from captioning.data import datasets
from captioning.data.mixture import MixedDataset, captions_of
from captioning.data.records import SPLITS, CaptionDataset
from captioning.embeddings.bert import read_wordpieces
from captioning.features.looks import Look
from captioning.words.splitting import SPLITTINGS, TREEBANK, Splitting, share_in_one_piece
from captioning.words.vocabulary import Coverage, Vocabulary
from config import PRESETS, Config, DecoderSettings, EncoderSettings, MixtureSettings

if TYPE_CHECKING:
    import keras

    from captioning.features.folding import FoldedEncoder
    from captioning.features.prepared import Prepared
    from captioning.features.store import FeatureStore


def load_dataset(settings: MixtureSettings) -> CaptionDataset | MixedDataset:
    """The data set that ``settings`` name, or several as one. Prints warnings on stderr.

    Raises UserError for data that cannot be used.
    """
    data_sets, names = settings.data_sets(), settings.data_names()
    parts = {name: datasets.load(each) for name, each in zip(names, data_sets, strict=True)}
    for name, dataset in parts.items():
        for warning in dataset.warnings:
            print(
                printable_lines(f"note: {warning}" if len(parts) == 1 else f"note: {name}: {warning}"), file=sys.stderr
            )
    return MixedDataset(parts) if len(parts) > 1 else parts[names[0]]


def fit_vocabulary(settings: DecoderSettings, dataset: CaptionDataset | MixedDataset) -> Vocabulary:
    """The vocabulary of the training captions. With vocabulary=wordpieces it holds WordPieces of the setting bert.

    Raises UserError if there are no training captions, if no word is frequent enough, or if there is no such BERT.
    """
    training, splitting = dataset.split("train"), SPLITTINGS[settings.words]
    report_unspaced((caption for _, caption in training.captions()), splitting)
    return Vocabulary.fit(
        (caption for _, caption in training.captions()), settings.vocab_threshold, _wordpieces(settings), splitting
    )


def report_unspaced(captions: Iterable[str], splitting: Splitting) -> None:
    """Say on stderr if many of ``captions`` are sentences without spaces that would count as one word each."""
    if splitting is TREEBANK and (share := share_in_one_piece(captions)) > 0.1:
        print(
            f"note: words: {share:.0%} of the captions have sentences without spaces, and treebank takes each for one "
            "word; --words unicode splits them",
            file=sys.stderr,
        )


def _wordpieces(settings: DecoderSettings) -> Sequence[str]:
    """All WordPieces of the setting bert, if the vocabulary holds WordPieces. Raises UserError: no such BERT."""
    return read_wordpieces(settings.bert) if settings.vocabulary == "wordpieces" else ()


def find_vocabulary(config: Config, dataset: CaptionDataset | MixedDataset) -> Vocabulary:
    """The vocabulary of a new training: that of the training captions, or with ``init`` that of a trained captioner.

    Prints which share of the words of the captions it lacks. Raises UserError as ``fit_vocabulary`` does, and when the
    captioner lacks more than ``unknown_limit`` of the words of the training captions.
    """
    if not config.init:
        vocabulary = fit_vocabulary(config, dataset)
    else:
        vocabulary = Vocabulary.from_json(*read_trained(Path(config.init), "vocabulary.json"))
        if config.extend_vocabulary:
            known = len(vocabulary)
            captions = captions_of(dataset, "train")
            vocabulary = vocabulary.extended(captions, config.vocab_threshold, _wordpieces(config))
            print(f"vocabulary: {len(vocabulary) - known} new words beside the {known} of {config.init}")
        if config.imagenet_classes:
            vocabulary = vocabulary.with_words(new := sorted(new_words(vocabulary)))
            print(f"vocabulary: {len(new)} new words for classes of ImageNet")
    lacks = vocabulary.coverage(captions_of(dataset, "train"))
    dev = vocabulary.coverage(captions_of(dataset, "dev"))
    print(
        f"unknown words: {lacks.unknown_share:.1%} of those of the training captions, {dev.unknown_share:.1%} of those of dev"
    )
    if (cut := lacks.longer_share(config.max_caption_length)) > 0.1:
        enough = next(length for length in sorted(lacks.lengths) if lacks.longer_share(length) <= 0.01)
        print(
            f"note: max_caption_length: {cut:.0%} of the training captions are longer than {config.max_caption_length} and "
            f"are cut; --max-caption-length {enough} cuts hardly any",
            file=sys.stderr,
        )
    if lacks.unknown_share > config.unknown_limit:
        _report_unknown(config, lacks)
    return vocabulary


def _report_unknown(config: Config, lacks: Coverage) -> None:
    """Say that too many words are unknown. Raises UserError if the words are those of another captioner."""
    seen = f"{lacks.unknown_share:.1%} of the words of the training captions are unknown"
    examples = ", ".join(f"{word!r}" for word, _ in lacks.unknown.most_common(3))
    if config.init and not config.extend_vocabulary:
        raise UserError(
            f"init: {seen} to {config.init}, such as {examples}, and it would learn <unk> in their place. Add "
            "--extend-vocabulary to give them rows beside the known words, leave out --init to start anew, or allow it with "
            f"--unknown-limit {math.ceil(100 * lacks.unknown_share) / 100:g}"
        )
    print(
        f"note: vocab_threshold: {seen}, such as {examples}, because they occur fewer than {config.vocab_threshold} times; "
        "a lower --vocab-threshold takes them in",
        file=sys.stderr,
    )


def check_encoder(config: Config) -> None:
    """Raise UserError if an encoder is to be built and there is none of that name. This is for before the long work.

    Looking a name up imports Keras, which takes seconds. The encoders of the presets are there, so a mistake in another
    setting is told at once.
    """
    of_presets = {Config().encoder, *(preset.settings.get("encoder") for preset in PRESETS.values())}
    if not (config.init or config.features or config.encoder in of_presets):
        from captioning.features.encoder import check_name

        check_name(config.encoder)


def prepare(
    settings: EncoderSettings,
    dataset: CaptionDataset | MixedDataset,
    encoder: "keras.Model | None" = None,
    split: str = "",
    looks: Sequence[Look] = (),
    verify: bool = False,
) -> "Prepared":
    """Open the feature store of ``dataset``. Missing features are extracted first.

    dataset: each of several data sets has its own store, the same store as alone. The stores are read as one.
    encoder: the encoder of a trained captioner, if there is one. Otherwise it is built from ``settings``.
    split: the only split whose features are needed. It gets its own store, unless there is a store of all images.
    looks: further looks of the images of ``split``, or of the training images if ``split`` is empty. Each gets a store,
        which becomes one of the ``views``.
    verify: stores that are there are compared with their checksums. What is damaged is extracted again.

    With the setting features nothing is extracted. The features are copied from there (``features/region_store.py``).

    Raises UserError if the encoder cannot be built or a store cannot be made.
    """
    if settings.features:
        return _prepare_stored(settings, dataset, encoder, split, looks, verify)
    # Keras is imported here and not above, so that errors in data or settings show before Keras loads.
    from captioning.features.encoder import build_encoder
    from captioning.features.folding import FoldedEncoder
    from captioning.features.prepared import Prepared

    encoder = encoder or build_encoder(settings)
    encode = FoldedEncoder(encoder)
    if isinstance(dataset, CaptionDataset):
        return _prepare_one(settings, dataset, encoder, encode, split, looks, verify)
    parts: dict[str, Prepared] = {}
    for name, part in dataset.parts.items():
        if split and not dataset.has(name, split):
            continue
        found = _prepare_one(settings, part, encoder, encode, split, looks, verify)
        shared = [dataset.parts[other] for other in parts if parts[other].store.folder == found.store.folder]
        if any(_other_files(part, other) for other in shared):
            # Stores know files by their names and sizes, so two different files could be taken for one.
            apart = replace(part, name=f"{part.name}-{name}")
            found = _prepare_one(settings, apart, encoder, encode, split, looks, verify)
        parts[name] = found
    return Prepared.joined(dataset, parts)


def _prepare_stored(
    settings: EncoderSettings,
    dataset: CaptionDataset | MixedDataset,
    encoder: "keras.Model | None",
    split: str,
    looks: Sequence[Look],
    verify: bool,
) -> "Prepared":
    """``prepare`` with features from elsewhere. ``encoder``: that of a trained captioner, if there is one."""
    from captioning.features.region_sources import open_source

    if looks:
        raise UserError("--views: needs an encoder that sees the pictures, and this captioner reads stored features")
    source = open_source(settings.features)
    from captioning.features.precomputed import StoredFeatures, region_store
    from captioning.features.prepared import Prepared

    width = int(encoder.output_shape[-1]) if encoder else None
    parts: dict[str, Prepared] = {}
    for name, part in dataset.parts.items() if isinstance(dataset, MixedDataset) else [("", dataset)]:
        if isinstance(dataset, MixedDataset) and split and not dataset.has(name, split):
            continue
        store = region_store(settings, part, source, split, width, verify)
        width = store.feature_size
        parts[name] = Prepared(part, StoredFeatures(store.regions, width), store)
    if isinstance(dataset, CaptionDataset):
        return parts[""]
    joined = Prepared.joined(dataset, parts)
    return replace(joined, encoder=StoredFeatures(joined.store.regions, joined.store.feature_size))


def _other_files(one: CaptionDataset, other: CaptionDataset) -> bool:
    """Whether two data sets use a file name for different files."""
    places = {record.file_name: record.path for record in other.records}
    return any(places.get(record.file_name, record.path) != record.path for record in one.records)


def _prepare_one(
    settings: EncoderSettings,
    dataset: CaptionDataset,
    encoder: "keras.Model",
    encode: "FoldedEncoder",
    split: str,
    looks: Sequence[Look],
    verify: bool,
) -> "Prepared":
    """``prepare`` for one data set. ``encode`` is the folded ``encoder``."""
    from captioning.features.extraction import extract_features, store_location
    from captioning.features.prepared import Prepared
    from captioning.features.store import FeatureStore, View

    store = None
    if split:
        whole, key = store_location(settings, dataset.name, dataset.records, encoder)
        if (whole / "index.json").exists():
            store = FeatureStore(whole, key)
    if store is None:
        records = dataset.split(split) if split else dataset.records
        [store] = extract_features(settings, dataset.name, records, encoder, encode, verify=verify)
    _report_unreadable(store)
    views = []
    if looks:
        seen = dataset.split(split or "train")
        readable = list(seen.named(store.rows).file_names)
        for look, found in zip(
            looks, extract_features(settings, dataset.name, seen, encoder, encode, looks, verify), strict=True
        ):
            if sorted(readable) != list(found.rows):
                raise UserError(
                    f"{found.folder}: holds other images than {store.folder}, because some could be read only once; "
                    "delete both and run the same command"
                )
            views.append(View(found, look.mirrored))
    return Prepared(dataset, encoder, store, views)


def _extract_on_cluster(
    args: Namespace,
    config: Config,
    dataset: CaptionDataset | MixedDataset,
    encoder: "keras.Model | None",
    looks: Sequence[Look],
) -> "keras.Model":
    """Make the feature stores that ``prepare`` opens. Returns the encoder. Raises UserError."""
    from captioning.cluster.features import extract_on_cluster
    from captioning.features.encoder import build_encoder
    from captioning.features.extraction import store_location

    encoder = encoder or build_encoder(config)
    for part in dataset.parts.values() if isinstance(dataset, MixedDataset) else [dataset]:
        for look, records in [(Look(), part.records), *((look, part.split("train")) for look in looks)]:
            folder, key = store_location(config, part.name, records, encoder, look)
            paths = {record.file_name: record.path.absolute() for record in records}
            pictures = [(name, paths[name].stat().st_size, str(paths[name])) for name in sorted(paths)]
            shards = Place(args.shards or str(folder / "shards"), "--shards")
            shape = tuple(encoder.output_shape[1:])
            most, cores = args.shard_pictures, args.worker_cores
            extract_on_cluster(
                args.cluster, shards, folder, key, pictures, config, look, config.init, shape, most, cores
            )
    return encoder


def _report_unreadable(store: "FeatureStore") -> None:
    """Name the first five unreadable images on stderr, and say how many more there are."""
    for name, reason in list(store.unreadable.items())[:5]:
        print(printable(f"note: left out: {name}: {reason}"), file=sys.stderr)
    if len(store.unreadable) > 5:
        print(f"note: ... and {len(store.unreadable) - 5} more, listed in {store.folder}/index.json", file=sys.stderr)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--download", action="store_true", help="fetch Flickr8k, MS-COCO or Karpathy's split files first"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare stored features with the checksums from their extraction, and extract damaged ones again",
    )
    add_cluster(parser)
    add_shards(parser)
    args = parser.parse_args()
    settle_cluster(args)
    config = resolve(args)
    if args.cluster and config.features:
        raise UserError(
            "--cluster: extracts features, and those of --features are there already; leave out one of them"
        )
    use_devices(config.devices)
    check_encoder(config)
    if args.download:
        from captioning.data import download

        for each in download.fetchable(config.data_sets()):
            download.fetch_archives(each)
    dataset = load_dataset(config)
    vocabulary = find_vocabulary(config, dataset) if config.init else fit_vocabulary(config, dataset)
    # Imported here, because these import Keras.
    from captioning.training.stages.base import stage_named
    from model import Captioner

    encoder = Captioner.load(Path(config.init)).encoder if config.init else None
    looks = stage_named(config.stage).looks(config)
    if args.cluster:
        encoder = _extract_on_cluster(args, config, dataset, encoder, looks)
    prepared = prepare(config, dataset, encoder, looks=looks, verify=args.verify)
    sets = dataset.parts if isinstance(dataset, MixedDataset) else {"": dataset}
    for name, part in sets.items():
        print(f"{name}:\n" * bool(name), end="")
        _print_sizes(part)
        if not part.records.of_split("dev"):
            print(
                f"note: {name or part.name}: has no split dev; training needs one, of one of its data sets at least",
                file=sys.stderr,
            )
    _print_vocabulary(config, dataset, vocabulary)
    for ready in prepared.parts.values() or [prepared]:
        _print_features(ready.store)


def _print_sizes(dataset: CaptionDataset) -> None:
    """Print the sizes of the splits of one data set."""
    for split in SPLITS:
        images = dataset.records.of_split(split)
        print(f"{split:6}{len(images):7} images {sum(len(record.captions) for record in images):8} captions")


def _print_vocabulary(config: Config, dataset: CaptionDataset | MixedDataset, vocabulary: Vocabulary) -> None:
    """Print how large the vocabulary is, and which share of the words of dev it lacks."""
    dev = [*captions_of(dataset, "dev")]
    lacks = f"of dev's words {vocabulary.coverage(dev).unknown_share:.1%} are unknown" if dev else "there is no dev"
    print(
        f"vocabulary: {len(vocabulary)} {config.vocabulary} and special tokens (seen {config.vocab_threshold}+ times "
        f"in training); {lacks}"
    )


def _print_features(store: "FeatureStore") -> None:
    """Print the sizes of the features of one data set, and where they lie."""
    print(
        f"features: {len(store.rows)} images x {'up to ' * store.padded}{store.regions} x {store.feature_size} {store.dtype} in {store.folder}"
        + (f"; {len(store.unreadable)} unreadable" if store.unreadable else "")
    )


if __name__ == "__main__":
    run_script(main)
