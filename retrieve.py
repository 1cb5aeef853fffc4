"""Find images by captions or by images, and captions by images, with the two towers of train.py --stage align.

    python retrieve.py --images photos/ "two dogs in the snow"                    # with pretrained/search.zip
    python retrieve.py --model runs/ALIGN --split test                            # score a split in both directions
    python retrieve.py --model runs/ALIGN --split test --rerank runs/CAPTIONER    # the same with a captioner as judge
    python retrieve.py --split dev --predictions FILE                             # is an image found by its caption?
    python retrieve.py --model runs/ALIGN --images photos/ "a dog in the snow"    # search a folder
    python retrieve.py --model runs/ALIGN --images photos/ photo.jpg              # photos like this one
    python retrieve.py --images s3://photos/ --index here/ --cluster HOST:6379    # index a whole collection, on Ray
    python retrieve.py --model runs/ALIGN --split test "two children" --pictures found/
    python retrieve.py --model runs/ALIGN --captions captions.txt photo.jpg       # one caption per line
    python retrieve.py --model runs/ALIGN --captions train photo.jpg              # the captions of a split
    python retrieve.py --index folder/ "two dogs"                                 # an index, as it is
    python retrieve.py --images photos/ --index-type hnsw "two dogs"              # faster in a large folder
    python retrieve.py --merge-indexes a/ b/ --output both/                       # one index of two

A query that is a web address or the name of a file is a picture. Any other is words. --picture says that it is a
picture.

Without a query, a split is scored. The scores are written as JSON and as a Markdown table. Images are embedded once,
into an index (see captioning/retrieval/index.py). Later searches read the index and bring it up to date, unless the
index alone is named.

A picture that cannot be read, or that vanishes during a search, is reported and left out. If a query picture cannot be
read, the exit status is 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.base.texts import json_line, printable
from captioning.cluster.jobs import add_cluster, add_shards, settle_cluster
from captioning.cluster.places import Place, is_bucket
from captioning.cluster.vectors import Stored, index_on_cluster
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import refuse_stored_features, resolve_trained, settle_backend, without_data
from captioning.data.predictions import read_predictions
from captioning.data.records import SPLIT_NAMES, ImageRecord, Warts
from captioning.pictures.finding import (
    SUFFIXES,
    Finder,
    add_finding,
    finder_of,
    is_address,
    no_pictures,
    require_pictures,
    sources,
    unlisted,
)
from captioning.pictures.loading import UnreadableImage, load_image, open_source
from captioning.reports.figures import captioned, ranked, read_picture, save
from captioning.retrieval.index import Embed, ImageIndex, default_folder, refuse_other, shipped_towers, stamp, update
from captioning.retrieval.index_types import add_index_type, attach, random_sentences, require_faiss
from captioning.retrieval.ranking import DEFAULT_COSINE_WEIGHTS, KINDS, Reranking
from captioning.words.tokenizer import tokenize
from config import Config
from preprocessing import load_dataset, prepare

if TYPE_CHECKING:
    from PIL.Image import Image

    from captioning.retrieval.aligner import Aligner
    from captioning.retrieval.searching import Match

# The gain compares a photo with the average of the query photos, and needs at least this many.
LEAST_PHOTOS = 5


def main() -> int:
    args = retrieval_parser().parse_args()
    args.picture = args.picture or []
    if args.merge_indexes:
        return merge_indexes(args)
    refuse_conflicts(args)
    settle_backend(typed_settings(args).get("backend"))

    from captioning.retrieval.aligner import Aligner

    if args.model is None:
        args.model = shipped_towers("--model")
    aligner = Aligner.load(Path(args.model))
    config = resolve_trained(args, aligner.config)
    if args.captions:
        return find_captions(aligner, config, args)
    if args.queries or args.picture or args.images:
        return find_pictures(aligner, config, args)
    return score_split(aligner, config, args)


def retrieval_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, trained=True, several=False)
    parser.add_argument(
        "queries",
        nargs="*",
        metavar="QUERY",
        help="a sentence that describes the images to find, or a photo (a file or web address) that they should be like; "
        "with --captions: a photo (a file, folder or web address)",
    )
    parser.add_argument(
        "--picture",
        metavar="FILE",
        action="append",
        help="a photo as query, whatever its name: a file, folder, pattern in quotes or web address. May be given several "
        "times",
    )
    parser.add_argument(
        "--model",
        metavar="RUN",
        help="a run folder of stage=align, or an aligner.zip [default: pretrained/search.zip]",
    )
    parser.add_argument(
        "--split",
        help="train, dev or test: the split to search; without a query: the split to score [default: dev]",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="search the pictures below this folder; without a query, only index them"
    )
    add_finding(parser)
    add_cluster(parser)
    add_shards(parser)
    parser.add_argument(
        "--captions",
        metavar="FILE",
        help="search the captions of this file, one per line; train, dev or test: the captions of a split",
    )
    add_indexes(parser)
    parser.add_argument(
        "--best", type=int, metavar="K", help="results per query, beside near-duplicates of a photo [default: 5]"
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="score these captions of the split in place of people's, such as predictions-dev-beam3.json of evaluate.py",
    )
    add_reranking(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per query")
    parser.add_argument("--pictures", metavar="DIR", help="draw each query and its results into this folder")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the scores [default: evaluation/ in the run folder]; with --merge-indexes: for the new index",
    )
    return parser


def add_indexes(parser: argparse.ArgumentParser) -> None:
    """Offer the options that say where the index is, how it is searched, and that several are merged."""
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="folder of the index [default: in index/ of the run folder; without --model: in the user's cache]. Without "
        "--images and --split the index is searched as it is, and no folder is looked through",
    )
    add_index_type(parser)
    parser.add_argument(
        "--merge-indexes",
        metavar="DIR",
        nargs="+",
        help="make one index of these, whose pictures differ, in the folder --output. It is the index of the folder above "
        "all of theirs",
    )


def add_reranking(parser: argparse.ArgumentParser) -> None:
    """Offer the options of a captioner as judge."""
    parser.add_argument("--rerank", metavar="RUN", help="a captioner that puts the candidates into a new order")
    parser.add_argument("--candidates", type=int, metavar="N", help="candidates per query for --rerank [default: 20]")
    parser.add_argument(
        "--rerank-by",
        choices=KINDS,
        help="the captioner's opinion. likelihood: log p(caption | image); per-word: the likelihood divided by the "
        "number of words; gain: the likelihood minus its average over other images [default: gain; per-word for fewer "
        "than 5 photos]",
    )
    parser.add_argument(
        "--cosine-weight",
        type=float,
        metavar="W",
        help="weight of the towers' cosine, which is added to the captioner's opinion [default: 20; 2 with per-word]",
    )
    parser.add_argument(
        "--choose", action="store_true", help="try all kinds and many weights on dev, and say which are best"
    )


def refuse_conflicts(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, before any work. Raises UserError."""

    def refuse(names: tuple[str, ...], advice: str) -> None:
        for name in names:
            if getattr(args, name) is not None and getattr(args, name) is not False:
                raise UserError(f"--{name.replace('_', '-')}: {advice}")

    no_query = "is for the results of a query, and there is no query; leave it out, or add a query"
    queries = [*args.queries, *args.picture]
    if not args.rerank:
        refuse(
            ("candidates", "rerank_by", "cosine_weight", "choose"),
            "is read only with --rerank CAPTIONER; add that, or leave this out",
        )
    elif not args.captions:
        for query in (*filter(is_picture, args.queries), *args.picture):
            raise UserError(
                f"--rerank: a captioner judges words, and {printable(query)} is a picture; leave out one of the two"
            )
    refuse_beside_cluster(args, has_queries=bool(queries))
    if args.images:
        refuse(("captions", "split"), "--images searches a folder of your own; leave out one of the two")
        if not queries:
            refuse(("rerank", "best", "json", "pictures"), no_query)
    if not (args.images or args.captions or args.picture):
        refuse(("exclude", "follow_links"), "is read only with a folder of pictures; add --images, or leave this out")
    if args.captions:
        refuse(("split", "index", "index_type"), "with --captions, captions are searched; leave this out")
        if not queries:
            raise UserError("--captions: name the photos to find captions for")
    if queries or args.images:
        refuse(
            ("output", "choose", "predictions"),
            "is for the scores of a split; leave this out, or leave out query and --images",
        )
        if not (args.images or args.captions or args.split or args.index):
            raise UserError(
                "query: it is not clear what to search; give --images FOLDER, --index FOLDER, --split NAME or --captions FILE"
            )
        for query in args.queries:
            if not (args.captions or is_picture(query) or tokenize(query)):
                raise UserError(f"query {query!r}: has no words; say what the picture should show")
    else:
        refuse(("index", "index_type", "best", "json", "pictures"), no_query)
    require_faiss(args.index_type)
    if args.choose and args.split not in (None, "dev"):
        raise UserError("--choose: works on dev only; leave out --split, and then score test with what was chosen")
    for name in ("best", "candidates"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name}: must be at least 1")
    if args.images and args.cluster:
        Place(args.images, "--images").require_pictures(finder_of(args))
    elif args.images:
        require_pictures(args.images, "--images", finder_of(args))


def refuse_beside_cluster(args: argparse.Namespace, has_queries: bool) -> None:
    """Refuse what does not go with ``--cluster``, and buckets without it. Raises UserError."""
    settle_cluster(args)
    if args.cluster and not args.images:
        raise UserError("--cluster: indexes the pictures of --images; name a folder or bucket, or leave this out")
    if args.images and is_bucket(args.images):
        if not args.cluster:
            raise UserError(f"--images: {args.images}: a bucket is indexed on a cluster; add --cluster")
        if has_queries:
            raise UserError(
                f"--images: {args.images}: a bucket is only indexed; for searches copy its pictures into a folder, or "
                "leave out the query"
            )


def is_picture(query: str) -> bool:
    """Whether a query is a picture. Otherwise it is words."""
    return is_address(query) or os.path.isfile(query)


# A split, scored


def score_split(aligner: "Aligner", config: Config, args: argparse.Namespace) -> int:
    """Score a split, print the table and write it. Returns the exit status."""
    from captioning.base.environment import describe
    from captioning.retrieval.scoring import best_order, score_records, table
    from captioning.storage.members import name_of

    split = args.split or "dev"
    reranking = load_reranking(args, "gain")
    dataset = load_dataset(config)
    prepared = prepare(config, dataset, aligner.encoder, split=split)
    records: Sequence[ImageRecord] = prepared.usable(split)
    if args.predictions:
        records = predicted(Path(args.predictions), dataset.split(split), prepared.store.rows)
    captioner_store = None
    if reranking:
        captioner = reranking.captioner
        settings = captioner.config.with_overrides(without_data(typed_settings(args)))
        captioner_store = prepare(settings, dataset, captioner.encoder, split=split).store
        # Images that the captioner's encoder could not read are left out.
        records = [record for record in records if record.file_name in captioner_store.rows]
    rows = score_records(
        aligner,
        prepared.store,
        records,
        config.decode_batch_size,
        config.workers,
        reranking,
        captioner_store,
        args.choose,
    )
    if args.choose:
        best = best_order(rows)
        print(f"best: --rerank-by {best.kind} --cosine-weight {best.cosine_weight:g}", file=sys.stderr)
    name, stem = name_of(args.model), f"retrieval-{split}"
    if args.predictions:
        stem += f"-{Path(args.predictions).stem}"
    text = table(name, split, rows)
    print(text, end="")
    output = Path(args.output) if args.output else run_folder(args) / "evaluation"
    context = {"settings": config.model_dump(), "environment": describe(config.seed)}
    about = {"aligner": name, "split": split} | ({"predictions": args.predictions} if args.predictions else {})
    entries = [about | row.to_json() | context for row in rows]
    write(output / f"{stem}.json", json.dumps(entries, indent=2) + "\n")
    write(output / f"{stem}.md", text)
    print(f"\nwritten to {output}", file=sys.stderr)
    return 0


def predicted(path: Path, records: Sequence[ImageRecord], readable: Container[str]) -> list[ImageRecord]:
    """The ``readable`` ones of ``records``, each with its caption in the file ``path``. Raises UserError."""
    warts = Warts()
    captions = read_predictions(path, records, warts)
    for line in warts.lines():
        print(printable(f"note: {line}"), file=sys.stderr)
    given = [replace(record, captions=(caption,)) for record, caption in zip(records, captions, strict=True)]
    return [record for record in given if record.file_name in readable]


# Pictures, found by words or by pictures


def find_pictures(aligner: "Aligner", config: Config, args: argparse.Namespace) -> int:
    """Search the pictures of a folder or a split by words and by photos, or only index them.

    Returns the exit status, which is 1 if a photo cannot be read.
    """
    from captioning.retrieval.searching import search_by_images, search_images, unknown_words

    words = [query for query in args.queries if not is_picture(query)]
    for query in words:
        try:
            unknown = unknown_words(query, aligner.vocabulary)
        except UserError:
            if os.path.splitext(query)[1].lower() not in SUFFIXES:
                raise
            raise UserError(
                f"query {query!r}: there is no such file, and the model knows none of these words; mend the name"
            ) from None
        if unknown:
            print(f"note: query {query!r}: unknown words: {', '.join(unknown)}", file=sys.stderr)
    asked = [query for query in args.queries if is_picture(query)] + args.picture
    photos, pixels, failed = load_photos(asked, args, config.image_size)
    if failed and not (words or photos):
        return 1
    reranking = load_reranking(args, "gain")
    index, paths = open_index(aligner, config, args)
    best, found = args.best or 5, {}
    if words:
        found = dict(
            zip(words, search_images(words, aligner, index, paths, best, reranking, report_missing), strict=True)
        )
    if photos:
        size = config.extract_batch_size
        alike = search_by_images(photos, pixels, aligner, index, paths, best, size, report_missing)
        found |= dict(zip(photos, alike, strict=True))
    for query in (*args.queries, *(photo for photo in photos if photo not in args.queries)):
        if query in found:
            show(query, found[query], args, is_photo=query in photos)
    return 1 if failed else 0


def open_index(aligner: "Aligner", config: Config, args: argparse.Namespace) -> tuple[ImageIndex, dict[str, Path]]:
    """The index to search, and the paths of its pictures by name. Raises UserError.

    That of a folder or split is brought up to date. One that is named alone is taken as it is.
    """
    if args.images or args.split:
        index, paths = updated_index(aligner, config, args)
    else:
        index, paths = index_as_it_is(aligner, args)
    attach(index, args.index_type, lambda: {"words": aligner.embed_texts(random_sentences(aligner.vocabulary))})
    print(printable(f"index of {len(index.images):,} images: {index.folder}"), file=sys.stderr)
    return index, paths


def updated_index(aligner: "Aligner", config: Config, args: argparse.Namespace) -> tuple[ImageIndex, dict[str, Path]]:
    """The index of a folder or split, brought up to date, and the paths of its pictures by name. Raises UserError."""
    embed: Embed
    if args.images and is_bucket(args.images):
        place = Place(args.images, "--images")
        finder = finder_of(args)
        paths = {name: cast(Path, Stored(place, name, size)) for name, size, _ in place.pictures(finder)}
        finder.tell()
        source, name = place.shown, place.shown.rpartition("/")[2]
    elif args.images:
        paths = pictures_below(args.images, finder_of(args))
        place = Path(args.images).resolve()
        source, name = str(place), place.name
        embed = partial(aligner.embed_files, paths=paths, batch_size=config.extract_batch_size, workers=config.workers)
    else:
        dataset = load_dataset(config)
        prepared = prepare(config, dataset, aligner.encoder, split=args.split)
        paths = {record.file_name: record.path for record in prepared.usable(args.split)}
        source = name = f"{dataset.name}-{args.split}"
        embed = partial(aligner.embed_stored, store=prepared.store, batch_size=config.decode_batch_size)
    folder = Path(args.index or default_folder(Path(args.model), aligner.fingerprint, name, source))
    bring = partial(update, folder, aligner.fingerprint, source, paths, dimension=config.joint_size)
    if args.cluster:
        index = index_on_cluster(
            lambda embed: bring(embed=embed),
            cluster=args.cluster,
            source=Place(args.images, "--images"),
            shards=Place(args.shards or str(folder / "shards"), "--shards"),
            model=Path(args.model),
            fingerprint=aligner.fingerprint,
            stamp_of=lambda name: stamp(paths[name]),
            config=config,
            most=args.shard_pictures,
            cores=args.worker_cores,
        )
    else:
        index = bring(embed=embed)
    for _, _, reason in list(index.unreadable.values())[:5]:
        print(printable(f"note: left out: {reason}"), file=sys.stderr)
    if len(index.unreadable) > 5:
        print(f"note: ... and {len(index.unreadable) - 5} more, listed in {folder}/index.json", file=sys.stderr)
    if not index.images:
        raise UserError(f"{args.images}: not one of its {len(paths)} pictures could be read")
    return index, paths


def index_as_it_is(aligner: "Aligner", args: argparse.Namespace) -> tuple[ImageIndex, dict[str, Path]]:
    """The index of --index, and the paths of its pictures by name. Raises UserError if it cannot be searched alone."""
    index = ImageIndex(Path(args.index))
    refuse_other(index, aligner.fingerprint, index.source)
    if not os.path.isabs(index.source):
        raise UserError(f"--index: {args.index} is that of a split ({index.source}); add --split")
    if not index.images:
        raise UserError(f"--index: {args.index} holds no pictures; search the folder with --images {index.source}")
    return index, {name: Path(index.source, name) for name in index.images}


def merge_indexes(args: argparse.Namespace) -> int:
    """Make one index of those of --merge-indexes. Returns the exit status. Raises UserError."""
    from captioning.retrieval.merging import merge

    others = ("queries", "picture", "model", "split", "images", "exclude", "follow_links", "captions", "index")
    others += ("index_type", "best", "predictions", "rerank", "candidates", "rerank_by", "cosine_weight", "choose")
    others += ("json", "pictures", "cluster", "shards", "shard_pictures", "worker_cores")
    for name in others:
        if (given := getattr(args, name)) is not None and given is not False and given != []:
            what = "a query" if name == "queries" else f"--{name.replace('_', '-')}"
            raise UserError(f"{what}: --merge-indexes searches nothing; leave out one of the two")
    if len(args.merge_indexes) < 2:
        raise UserError("--merge-indexes: one index is not enough; name two or more")
    if not args.output:
        raise UserError("--output: is missing; name the folder of the new index")
    index = merge([Path(folder) for folder in args.merge_indexes], Path(args.output))
    search = f"--index {args.output}"
    if os.path.isabs(index.source):
        search = f"--images {index.source} {search}, or {search} alone"
    print(printable(f"index of {len(index.images):,} images: {index.folder}; search it with {search}"), file=sys.stderr)
    return 0


# Captions, found by photos


def find_captions(aligner: "Aligner", config: Config, args: argparse.Namespace) -> int:
    """Search captions by photos. Returns the exit status, which is 1 if a photo cannot be read."""
    from captioning.retrieval.searching import search_captions

    texts = read_captions(args, config)
    photos, pixels, failed = load_photos([*args.queries, *args.picture], args, config.image_size)
    reranking = load_reranking(args, "gain" if len(photos) >= LEAST_PHOTOS else "per-word")
    if reranking and reranking.kind == "gain" and len(photos) < LEAST_PHOTOS:
        raise UserError(
            f"--rerank-by: gain compares with the average of the photos, and {len(photos)} are too few; "
            f"name {LEAST_PHOTOS} or more, or take per-word"
        )
    if photos:
        found = search_captions(photos, pixels, aligner, texts, args.best or 5, config.extract_batch_size, reranking)
        for photo, matches in zip(photos, found, strict=True):
            show(photo, matches, args, is_photo=True)
    return 1 if failed else 0


def read_captions(args: argparse.Namespace, config: Config) -> list[str]:
    """The captions to search, each once. Raises UserError."""
    if args.captions in SPLIT_NAMES:
        lines = [text for record in load_dataset(config).split(args.captions) for text in record.captions]
    else:
        try:
            lines = Path(args.captions).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{args.captions}: cannot be read as captions, one per line: {error}") from None
    texts = list(dict.fromkeys(line.strip() for line in lines if tokenize(line)))
    if not texts:
        raise UserError(f"{args.captions}: holds no captions; write one per line")
    return texts


# Shared by all of these


def load_photos(asked: Iterable[str], args: argparse.Namespace, size: int) -> tuple[list[str], np.ndarray, bool]:
    """The readable query photos, their RGB pixels uint8 ``(Q, S, S, 3)``, and whether there are unreadable ones.

    ``asked``: files, folders, patterns and addresses. Unreadable photos are reported.
    """
    photos, pixels, failed = [], [], False
    finder = finder_of(args)
    for source in sources(list(asked), finder):
        try:
            pixels.append(load_image(open_source(source), size, report_note))
            photos.append(source)
        except UnreadableImage as error:
            failed = True
            if args.json:
                print(json_line({"query": source, "error": str(error)}))
            print(f"error: {error}", file=sys.stderr)
            if source in args.queries and not args.captions and os.path.splitext(source)[1].lower() not in SUFFIXES:
                print(
                    "note: a query that is the name of a file is a picture; say words in other words", file=sys.stderr
                )
    finder.tell()
    return photos, np.asarray(pixels), failed


def show(query: str, matches: "list[Match]", args: argparse.Namespace, is_photo: bool) -> None:
    """Print the results of a query, words or a photo, and draw them if the user wants pictures."""
    if args.json:
        results = [match.to_json() for match in matches]
        print(json_line({"query": query, "results": results}), flush=True)
    else:
        print(printable(query))
        for place, match in enumerate(matches, 1):
            log_prob = "" if match.log_prob is None else f" {match.log_prob:8.2f}"
            copy = "  (near-duplicate)" if match.is_near_duplicate else ""
            print(f"  {place:3} {match.cosine:6.3f}{log_prob}  {printable(match.found)}{copy}", flush=True)
    if args.pictures:
        try:
            if args.captions:
                figure = captioned(read_picture(open_source(query), 1200), [match.found for match in matches])
            else:
                pictures, labels = read_found(matches)
                if not pictures:
                    return
                if is_photo:
                    pictures.insert(0, read_picture(open_source(query), 360))
                    labels.insert(0, "the query")
                figure = ranked(printable(query), pictures, labels)
            name = query if is_photo else "-".join(tokenize(query))[:80]
            print(printable(f"written: {save(figure, Path(args.pictures), name)}"), file=sys.stderr)
        except UnreadableImage as error:  # the query photo was deleted or damaged after it was read
            print(f"error: {error}", file=sys.stderr)
        except OSError as error:
            raise UserError(f"--pictures: {args.pictures}: cannot be written: {error.strerror or error}") from None


def read_found(matches: "list[Match]") -> "tuple[list[Image], list[str]]":
    """The found pictures, small, and a label for each. Pictures that can no longer be read are reported."""
    pictures, labels = [], []
    for match in matches:
        try:
            pictures.append(read_picture(match.found, 360))
            mark = "= " if match.is_near_duplicate else ""
            labels.append(printable(f"{mark}{match.cosine:.3f}  {Path(match.found).name}"))
        except UnreadableImage as error:  # deleted or damaged after the search
            report_missing(error)
    return pictures, labels


def report_note(note: str) -> None:
    """Print what there is to know of a damaged photo that was read all the same."""
    print(f"note: {note}", file=sys.stderr)


def report_missing(error: UnreadableImage) -> None:
    """Say that a picture of the index is left out of the results."""
    print(f"note: left out: {error}", file=sys.stderr)


def load_reranking(args: argparse.Namespace, kind: str) -> Reranking | None:
    """The captioner of --rerank and its options. ``kind`` counts if --rerank-by names none. Raises UserError."""
    if not args.rerank:
        return None
    from captioning.storage.members import settings_of
    from model import Captioner

    refuse_stored_features(settings_of(Path(args.rerank), "captioner"), f"--rerank: {args.rerank}")
    kind = args.rerank_by or kind
    weight = DEFAULT_COSINE_WEIGHTS[kind] if args.cosine_weight is None else args.cosine_weight
    path = Path(args.rerank)
    name = (path if path.is_dir() else path.parent).resolve().name
    return Reranking(Captioner.load(path), name, args.candidates or 20, kind, weight)


def run_folder(args: argparse.Namespace) -> Path:
    """The run folder of the aligner."""
    path = Path(args.model)
    return path if path.is_dir() else path.parent


def pictures_below(folder: str, finder: Finder) -> dict[str, Path]:
    """The paths of the pictures below ``folder``, by their names relative to it. Raises UserError if there are none.

    What was left out is printed on stderr.
    """
    names = sorted(finder.names(folder, report_folder))
    if not names:
        raise no_pictures(f"--images: {folder}", finder)
    finder.tell()
    return {name: Path(folder, name) for name in names}


def report_folder(error: OSError) -> None:
    """Say that the pictures below a subfolder are left out of the index."""
    print(f"note: left out: {unlisted(error)}", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
