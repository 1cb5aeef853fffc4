"""Find images by captions and captions by images, with the two towers that train.py --stage align leaves.

    python retrieve.py --model runs/ALIGN --split test                              # recall in both directions
    python retrieve.py --model runs/ALIGN --split test --rerank runs/CAPTIONER      # and with a captioner as judge
    python retrieve.py --model runs/ALIGN --images photos/ "a dog in the snow"      # search a folder
    python retrieve.py --model runs/ALIGN --split test "two children" --pictures found/
    python retrieve.py --model runs/ALIGN --captions captions.txt photo.jpg         # one caption per line
    python retrieve.py --model runs/ALIGN --captions train photo.jpg                # those of a split

A split without a query is scored, and the scores are written as JSON and as a Markdown table. Images that are searched
are embedded once, into an index that later searches read and bring up to date (see index.py). A picture that cannot be
read is reported and the rest go on; where it was a query, the exit status is 1.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import resolve_trained, settle_backend
from captioning.data.records import SPLIT_NAMES
from captioning.metrics.recall import CUTS, SIDES
from captioning.pictures.loading import SUFFIXES, UnreadableImage, find_images, load_image, open_source, sources
from captioning.reports.figures import captioned, ranked, read_picture, save
from captioning.reports.tables import markdown
from captioning.retrieval.index import ImageIndex, update
from captioning.words.tokenizer import tokenize
from config import Config
from preprocessing import load_dataset, prepare

if TYPE_CHECKING:
    from captioning.retrieval.aligner import Aligner
    from captioning.retrieval.ranking import Reranking

# What a cosine counts beside each kind of likelihood (see reranking.py), in its unit, unless it is said.
COSINE_WEIGHTS = {"likelihood": 20.0, "per-word": 2.0, "gain": 20.0}
# With fewer query photos there is no average that a gain could be taken over.
LEAST_BACKGROUND = 5


def evaluate(aligner: "Aligner", config: Config, args: argparse.Namespace) -> None:
    """Score a split, print the table and write it."""
    from captioning.base.environment import describe
    from captioning.features.batches import FeatureBatches
    from captioning.retrieval.ranking import score, score_reranked

    reranking = load_reranking(args, "gain")
    dataset = load_dataset(config)
    prepared = prepare(config, dataset, aligner.encoder, split=args.split)
    records = prepared.usable(args.split)
    if reranking:
        captioner = reranking.captioner
        theirs = captioner.config.with_overrides(typed_settings(args))
        captioner_store = prepare(theirs, dataset, captioner.encoder, split=args.split).store
        # An image that the captioner's encoder could not read is left out.
        records = [record for record in records if record.file_name in captioner_store.rows]
    names = [record.file_name for record in records]
    texts = [text for record in records for text in record.captions]
    image_of = np.repeat(np.arange(len(records)), [len(record.captions) for record in records])
    began = time.perf_counter()
    features = FeatureBatches(prepared.store, names, config.decode_batch_size, config.workers)
    vectors = aligner.embed_features(features)[: len(names)], aligner.embed_texts(texts)
    rows = [score(*vectors, image_of) | {"seconds": time.perf_counter() - began}]
    if reranking:
        numbers = np.asarray([captioner_store.rows[name] for name in names])
        rows += score_reranked(
            *vectors, image_of, texts, lambda images: captioner_store.read(numbers[images]), reranking, args.choose
        )
        if args.choose:
            best = max(rows[-len(COSINE_WEIGHTS) :], key=lambda row: row["recall"])["reranking"]
            print(f"best: --rerank-by {best['kind']} --cosine-weight {best['cosine_weight']:g}", file=sys.stderr)
    about = {"aligner": _folder(args).resolve().name, "split": args.split}
    more = {"settings": config.model_dump(), "environment": describe(config.seed)}
    rows = [about | row | more for row in rows]
    text = table(rows)
    print(text, end="")
    output = Path(args.output) if args.output else _folder(args) / "evaluation"
    write(output / f"retrieval-{args.split}.json", json.dumps(rows, indent=2) + "\n")
    write(output / f"retrieval-{args.split}.md", text)
    print(f"\nwritten to {output}", file=sys.stderr)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The scores as a Markdown table. The gallery of i2t, image to text, are the captions; that of t2i the images."""
    lines = []
    for row in rows:
        line = {name: row[name] for name in ("aligner", "split", "ranking")}
        line |= {"images": f"{row[SIDES[1]]['gallery']:,}", "captions": f"{row[SIDES[0]]['gallery']:,}"}
        for side, short in zip(SIDES, ("i2t", "t2i"), strict=True):
            found = row[side]
            line |= {f"{short} R@{cut}": f"{found[f'r{cut}']:.1f}" for cut in CUTS}
            line |= {f"{short} median": f"{found['median_rank']:g}", f"{short} MRR": f"{found['mrr']:.1f}"}
        lines.append(line)
    return markdown(lines)


def open_index(aligner: "Aligner", config: Config, args: argparse.Namespace) -> tuple[ImageIndex, dict[str, Path]]:
    """The index of a folder or split, brought up to date, and where its pictures lie. Raises UserError."""
    if args.images:
        paths = _pictures(args.images)
        source, name = str(Path(args.images).resolve()), Path(args.images).resolve().name

        def embed(names):
            return aligner.embed_files(paths, names, config.extract_batch_size, config.workers)
    else:
        dataset = load_dataset(config)
        prepared = prepare(config, dataset, aligner.encoder, split=args.split)
        paths = {record.file_name: record.path for record in prepared.usable(args.split)}
        source = name = f"{dataset.name}-{args.split}"

        def embed(names):
            store = prepared.store
            for start in range(0, len(names), config.decode_batch_size):
                batch = names[start : start + config.decode_batch_size]
                yield batch, aligner.embed_features(store.read(np.asarray([store.rows[name] for name in batch]))), {}

    place = f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    folder = Path(args.index) if args.index else _folder(args) / "index" / place
    index = update(folder, aligner.fingerprint, source, paths, embed, config.joint_size)
    for _, _, reason in list(index.unreadable.values())[:5]:
        print(f"note: left out: {reason}", file=sys.stderr)
    if len(index.unreadable) > 5:
        print(f"note: ... and {len(index.unreadable) - 5} more, listed in {folder}/index.json", file=sys.stderr)
    if not index.images:
        raise UserError(f"{args.images}: not one of its {len(paths)} pictures could be read")
    print(f"index of {len(index.images):,} images: {folder}", file=sys.stderr)
    return index, paths


def retrieval_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, trained=True)
    parser.add_argument(
        "queries",
        nargs="*",
        metavar="QUERY",
        help="words to find images by; with --captions, photos (files, folders, http)",
    )
    parser.add_argument("--model", metavar="RUN", required=True, help="a run folder of stage=align, or an aligner.zip")
    parser.add_argument(
        "--split", help="train, dev or test: the images to search, or, without a query, to be scored [default: dev]"
    )
    parser.add_argument(
        "--images", metavar="DIR", help="search the pictures below this folder; without a query, only index them"
    )
    parser.add_argument(
        "--captions",
        metavar="FILE",
        help="find the best of these captions, one per line; train, dev or test: those of a split",
    )
    parser.add_argument("--index", metavar="DIR", help="where the index lies [default: index/ in the run folder]")
    parser.add_argument("--best", type=int, metavar="K", help="results per query [default: 5]")
    parser.add_argument("--rerank", metavar="RUN", help="a captioner that puts the first candidates into a new order")
    parser.add_argument("--candidates", type=int, metavar="N", help="how many it reads of each query [default: 20]")
    parser.add_argument(
        "--rerank-by",
        choices=COSINE_WEIGHTS,
        help="log p(caption | image): likelihood, per-word, or gain over other images [default: gain; per-word for fewer than 5 photos]",
    )
    parser.add_argument(
        "--cosine-weight",
        type=float,
        metavar="W",
        help="what a cosine of the towers counts beside it, in nats [default: 20; 2 with per-word]",
    )
    parser.add_argument(
        "--choose", action="store_true", help="try all kinds and many weights on dev, and say which are best"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per query")
    parser.add_argument("--pictures", metavar="DIR", help="draw each query and its results into this folder")
    parser.add_argument(
        "--output", metavar="DIR", help="where scores are written [default: evaluation/ in the run folder]"
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before any work. Raises UserError."""

    def refuse(names: tuple[str, ...], advice: str) -> None:
        for name in names:
            if getattr(args, name) is not None and getattr(args, name) is not False:
                raise UserError(f"--{name.replace('_', '-')}: {advice}")

    if not args.rerank:
        refuse(
            ("candidates", "rerank_by", "cosine_weight", "choose"), "is about --rerank CAPTIONER, which is not given"
        )
    if args.images:
        refuse(("captions", "split"), "--images searches a folder of your own; leave out one of the two")
        if not args.queries:
            refuse(("rerank", "best", "json", "pictures"), "is for the results of a query, and there is none")
    if args.captions:
        refuse(("split", "index"), "with --captions, captions are searched; leave it out")
        if not args.queries:
            raise UserError("--captions: name the photos to find captions for")
    if args.queries or args.images:
        refuse(("output", "choose"), "is for the scores of a split; leave out the query, or this")
        if not (args.images or args.captions or args.split):
            raise UserError("what is to be searched? Give --images FOLDER, --split NAME or --captions FILE")
        for query in args.queries:
            if not args.captions and not tokenize(query):
                raise UserError(f"query {query!r}: has no words; say what the picture should show")
    else:
        refuse(("index", "best", "json", "pictures"), "is for the results of a query, and there is none")
    if args.choose and args.split not in (None, "dev"):
        raise UserError("--choose: choose on dev, and score test with what was chosen")
    for name in ("best", "candidates"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name}: must be at least 1")
    if args.images:
        _pictures(args.images)


def read_captions(args: argparse.Namespace, config: Config) -> list[str]:
    """The captions to be searched, each once. Raises UserError."""
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


def note_unknown_words(queries: list[str], aligner: "Aligner") -> None:
    """Name the words of the queries that the model does not know. Raises UserError where it knows none."""
    for query in queries:
        words = tokenize(query)
        unknown = [word for word in words if not aligner.vocabulary.knows(word)]
        if len(unknown) == len(words):
            raise UserError(f"query {query!r}: the model knows none of these words; say it in other words")
        if unknown:
            print(f"note: query {query!r}: unknown words: {', '.join(unknown)}", file=sys.stderr)


def load_photos(arguments: list[str], config: Config, as_json: bool) -> tuple[list[str], np.ndarray, bool]:
    """The photos that can be read, their pixels ``(Q, S, S, 3)``, and whether others cannot, which is reported."""
    photos, pixels, failed = [], [], False
    for source in sources(arguments):
        try:
            pixels.append(load_image(open_source(source), config.image_size))
            photos.append(source)
        except UnreadableImage as error:
            failed = True
            if as_json:
                print(json.dumps({"query": source, "error": str(error)}, ensure_ascii=False))
            print(f"error: {error}", file=sys.stderr)
    return photos, np.asarray(pixels), failed


def show(query: str, results: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print a query's results, and draw them where that is asked for."""
    if args.json:
        print(json.dumps({"query": query, "results": results}, ensure_ascii=False), flush=True)
    else:
        print(query)
        for place, result in enumerate(results, 1):
            log = f" {result['log_prob']:8.2f}" if "log_prob" in result else ""
            print(f"  {place:3} {result['cosine']:6.3f}{log}  {result.get('image') or result['caption']}", flush=True)
    if args.pictures:
        try:
            if args.captions:
                figure = captioned(read_picture(open_source(query), 1200), [result["caption"] for result in results])
            else:
                pictures = [read_picture(result["image"], 360) for result in results]
                labels = [f"{result['cosine']:.3f}  {Path(result['image']).name}" for result in results]
                figure = ranked(query, pictures, labels)
            name = query if args.captions else "-".join(tokenize(query))[:80]
            print(f"written: {save(figure, Path(args.pictures), name)}", file=sys.stderr)
        except UnreadableImage as error:  # gone meanwhile
            print(f"error: {error}", file=sys.stderr)
        except OSError as error:
            raise UserError(f"--pictures: {args.pictures}: cannot be written: {error.strerror or error}") from None


def load_reranking(args: argparse.Namespace, kind: str) -> "Reranking | None":
    """What the command line says of --rerank, with ``kind`` unless it says another. Raises UserError."""
    if not args.rerank:
        return None
    from captioning.retrieval.ranking import Reranking
    from model import Captioner

    kind = args.rerank_by or kind
    weight = COSINE_WEIGHTS[kind] if args.cosine_weight is None else args.cosine_weight
    path = Path(args.rerank)
    name = (path if path.is_dir() else path.parent).resolve().name
    return Reranking(Captioner.load(path), name, args.candidates or 20, kind, weight)


def _folder(args: argparse.Namespace) -> Path:
    """The run folder of the model."""
    path = Path(args.model)
    return path if path.is_dir() else path.parent


def _pictures(folder: str) -> dict[str, Path]:
    """The pictures below ``folder``, by their paths from there. Raises UserError for none."""
    found = find_images(folder)
    if not found:
        raise UserError(f"--images: {folder}: holds no pictures (by suffix: {', '.join(sorted(SUFFIXES))})")
    return {path.relative_to(folder).as_posix(): path for path in found}


def main() -> int:
    args = retrieval_parser().parse_args()
    check(args)
    settle_backend(typed_settings(args).get("backend"))

    from captioning.retrieval.aligner import Aligner
    from captioning.retrieval.ranking import search_captions, search_images

    aligner = Aligner.load(Path(args.model))
    config = resolve_trained(args, aligner.config)
    if not (args.queries or args.images):
        args.split = args.split or "dev"
        evaluate(aligner, config, args)
        return 0
    best = args.best or 5
    if args.captions:
        texts = read_captions(args, config)
        photos, pixels, failed = load_photos(args.queries, config, args.json)
        reranking = load_reranking(args, "gain" if len(photos) >= LEAST_BACKGROUND else "per-word")
        if reranking and reranking.kind == "gain" and len(photos) < LEAST_BACKGROUND:
            raise UserError(
                f"--rerank-by: gain is over the average of the photos, and {len(photos)} are too few; "
                f"name {LEAST_BACKGROUND} or more, or take per-word"
            )
        step = config.extract_batch_size
        queries = photos
        found = search_captions(photos, pixels, aligner, texts, best, step, reranking) if photos else []
    else:
        failed, queries, found = False, args.queries, []
        note_unknown_words(queries, aligner)
        reranking = load_reranking(args, "gain")
        index, paths = open_index(aligner, config, args)
        if queries:
            found = search_images(queries, aligner, index, paths, best, reranking)
    for query, results in zip(queries, found, strict=True):
        show(query, results, args)
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
