"""Caption pictures with a trained captioner: files, folders and web addresses.

    python test.py photo.jpg                                # with the captioner that comes with this repository
    python test.py photo.jpg --model runs/NAME              # with a captioner of your own
    python test.py holiday/ https://example.org/cat.jpg --beam-size 5 --captions 3
    python test.py photo.jpg --beam-size 10 --beam-groups 5 --captions 5     # captions that differ more
    python test.py photo.jpg --do-sample --top-p 0.9 --captions 5            # captions drawn at random
    python test.py photo.jpg --json --pictures captioned/
    python test.py photo.jpg --views 4                      # an average of four looks at the picture
    python test.py photo.jpg --model runs/NAME --beam-size 20 --consensus    # of 20 captions the one most like the rest
    python test.py photo.jpg --attention maps/              # where the decoder looked for each word
    python test.py holiday/ --output captions.jsonl         # a whole folder; the same command goes on with it
    python test.py holiday/ --output captions.csv           # the same for spreadsheet programs
    python test.py s3://photos/2019 --output s3://captions/2019 --cluster HOST:6379   # a whole collection, on Ray
    python test.py holiday/ --min-confidence 0.5            # only captions that are probably right
    python test.py photo.jpg --prefix "a photo of"          # words that the caption starts with
    python test.py photo.jpg --include cat,orange --exclude-words dog --beam-size 10

ONNX Runtime captions where the captioner has ONNX graphs that do what is asked; the one of this repository has them.
The first caption comes in about a second. Otherwise Keras captions, and a note says why. --runtime decides by hand.
A captioner with a confidence also says how probable it is that a caption is right, such as [82%]. Captions below the
captioner's own threshold are marked (unsure). evaluate.py --fit-confidence gives a captioner its confidence. A picture
that cannot be read is reported, and the others go on. The exit status is then 1.
"""

import json
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from captioning.albums.captions import begun_with, caption_album, entry, list_pictures, made_with
from captioning.albums.coco_results import coco_ids, coco_results
from captioning.albums.forms import SUFFIXES
from captioning.albums.keywords import keywords_of
from captioning.albums.metadata import write_metadata
from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.base.texts import json_line, printable
from captioning.cluster.captions import caption_collection
from captioning.cluster.jobs import add_cluster, settle_cluster
from captioning.cluster.places import is_bucket
from captioning.command_line.options import add_views, make_parser
from captioning.command_line.resolving import refuse_idle_consensus, resolve_trained
from captioning.exports.runtime import OWN_OPTIONS, add_runtime, load_captioner
from captioning.pictures.finding import add_finding, expanded, finder_of, sources
from captioning.pictures.loading import UnreadableImage, load_image, open_source
from captioning.pictures.metadata import write_caption
from captioning.pictures.text_files import TextFiles
from captioning.reports.figures import attention_maps, captioned, grid_side, read_picture, save
from captioning.search.captions import Caption, PictureCaptioner
from config import POCKET, Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def main() -> int:
    args = parse()
    refuse_conflicts(args)
    # The pictures are listed before the model loads, so that a folder without pictures is refused at once.
    finder = finder_of(args)
    if args.cluster:
        status = caption_collection(args, finder)
        finder.tell()
        return status
    names = list_pictures(Path(args.images[0]), finder) if args.output else list(sources(args.images, finder))
    if args.coco_results:
        coco_ids(names)

    if args.output and args.precision == "auto":  # the file goes on as it was begun
        begun = begun_with(Path(args.output), "precision")
        args.precision = begun if begun in ("float32", "int8") else "auto"
    captioner = load_captioner([Path(path) for path in args.model], args.views, args, folder=bool(args.output))
    config = resolve_trained(args, captioner.config)
    config = config.with_overrides({"num_captions": config.num_captions or 1})
    refuse_impossible(args, captioner, config)
    if not captioner.is_judged:
        print(f"note: captions come without a confidence: {no_confidence(args)}", file=sys.stderr)
    status = (caption_folder if args.output else caption_pictures)(args, names, captioner, config)
    finder.tell()
    return status


def parse() -> Namespace:
    """The command line. Raises UserError."""
    parser = make_parser(__doc__, trained=True, several=False, own=OWN_OPTIONS)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, a folder, a pattern such as '*.jpg' in quotes, or an http(s) address",
    )
    parser.add_argument(
        "--model",
        metavar="RUN",
        action="append",
        help="a run folder or a captioner.zip; give --model several times to decode with an ensemble [default: "
        "pretrained/pocket.zip]",
    )
    add_runtime(parser)
    add_finding(parser)
    add_views(parser)
    parser.add_argument(
        "--captions",
        "--best",
        dest="setting:num_captions",
        default=SUPPRESS,
        metavar="N",
        help="captions per picture, the same as --num-captions [default: 1]",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help="leave out captions with a lower confidence than this. With --output the file keeps them, and only "
        "--write-metadata leaves them out",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per picture")
    parser.add_argument("--pictures", metavar="DIR", help="write each picture with its captions into this folder")
    parser.add_argument(
        "--attention",
        metavar="DIR",
        help="draw into this folder where the decoder looked for each word of the best caption, one figure per picture",
    )
    add_album(parser)
    add_cluster(parser)
    parser.add_argument(
        "--merge", action="store_true", help="with --cluster: join the captions of all shards into captions.jsonl"
    )
    args = parser.parse_args()
    settle_cluster(args)
    args.images = args.images if args.cluster else expanded(args.images)
    args.model = args.model or [POCKET]
    return args


def add_album(parser: ArgumentParser) -> None:
    """The options of a whole folder."""
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="caption the folder IMAGE into this file, .jsonl for JSON lines or .csv for spreadsheet programs; the same "
        "command later adds what is missing. With --cluster: the folder or bucket that gets the captions",
    )
    parser.add_argument(
        "--coco-results",
        metavar="FILE",
        help="with --output, for a folder of MS-COCO's images: also write the captions in the format of COCO's "
        "evaluation server",
    )
    parser.add_argument(
        "--write-metadata",
        choices=["sidecar", "embed", "text"],
        help="with --output: write the captions as XMP into files beside the pictures (photo.jpg.xmp), or into the "
        "JPEG and PNG pictures themselves, or into a text beside each picture (photo.txt), as trainers of image "
        "generators want it",
    )
    parser.add_argument(
        "--overwrite-descriptions",
        action="store_true",
        help="with --write-metadata sidecar or embed: also replace descriptions that pictures have already",
    )
    parser.add_argument(
        "--keywords",
        action="store_true",
        help="with --write-metadata sidecar or embed: also write the things and places that the captions name, as "
        "keywords (dc:subject). Keywords of others stay",
    )


def refuse_conflicts(args: Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if args.cluster:
        refuse_beside_cluster(args)
        return
    if args.merge:
        raise UserError("--merge: joins the shards of --cluster; add that, or leave this out")
    if not args.output:
        for option in ("write_metadata", "coco_results"):
            if getattr(args, option):
                raise UserError(
                    f"--{option.replace('_', '-')}: writes what --output has captioned; name an --output too"
                )
    elif len(args.images) > 1:
        raise UserError(f"--output: captions one folder of pictures, and {len(args.images)} places are named")
    elif args.json or args.pictures or args.attention:
        raise UserError("--output: writes captions into a file; leave out --json, --pictures and --attention")
    elif Path(args.output).suffix.lower() not in SUFFIXES and not Path(args.output).exists():  # earlier ones go on
        raise UserError(
            f"--output: {args.output} ends in none of {', '.join(SUFFIXES)}, which say the form; name it so"
        )
    if not any(Path(source).is_dir() for source in args.images):
        for option in ("exclude", "follow_links"):
            if getattr(args, option):
                raise UserError(
                    f"--{option.replace('_', '-')}: is read only with a folder of pictures; name one, or leave this out"
                )
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise UserError(f"--min-confidence: {args.min_confidence} is no probability; give a number from 0 to 1")
    for option in ("overwrite_descriptions", "keywords"):
        if getattr(args, option) and args.write_metadata not in ("sidecar", "embed"):
            reason = "a text of somebody is never overwritten" if option != "keywords" else "a text has no keywords"
            advice = f"{reason}; leave this out" if args.write_metadata else "say where to write with --write-metadata"
            raise UserError(f"--{option.replace('_', '-')}: {advice}")
    if (args.pictures or args.attention) and not find_spec("matplotlib"):
        option = "--pictures" if args.pictures else "--attention"
        raise UserError(f"{option}: draws with Matplotlib, which is not installed; pip install matplotlib")
    for option in ("pictures", "attention"):
        folder = getattr(args, option)
        if folder and Path(folder).exists() and not Path(folder).is_dir():
            raise UserError(f"--{option}: {folder} is a file; name a folder for the figures")
    if args.attention and len(args.model) * args.views > 1:
        raise UserError("--attention: shows where one captioner looks; give one --model, and leave out --views")


def refuse_beside_cluster(args: Namespace) -> None:
    """Raise UserError for options that do not go with ``--cluster``."""
    if not args.output:
        raise UserError("--cluster: needs a place for the captions; name a folder or bucket with --output")
    if len(args.images) > 1:
        raise UserError(
            f"--cluster: captions one folder or bucket of pictures, and {len(args.images)} places are named"
        )
    if args.follow_links and is_bucket(args.images[0]):
        raise UserError("--follow-links: a bucket has no links; leave this out")
    alone = ("json", "pictures", "attention", "coco_results", "write_metadata", "overwrite_descriptions", "keywords")
    for option in (*alone, "min_confidence"):
        if getattr(args, option) not in (None, False):
            raise UserError(
                f"--{option.replace('_', '-')}: is not done on a cluster; leave this out. After --merge the same command "
                "without --cluster, with --output .../captions.jsonl, does what --output can"
            )


def refuse_impossible(args: Namespace, captioner: PictureCaptioner, config: Config) -> None:
    """Raise UserError for options that this captioner cannot follow."""
    refuse_idle_consensus([config])
    captioner.check(config)
    if args.min_confidence is not None and not captioner.is_judged:
        raise UserError(
            f"--min-confidence: needs a confidence, and {no_confidence(args)}; leave this out, or name another --model"
        )
    if args.attention:
        if not captioner.attends:
            raise UserError(f"--attention: the decoder {config.decoder} has no attention; take a run of one that has")
        grid_side(captioner.regions)


def no_confidence(args: Namespace) -> str:
    """Why the captioner that was asked for has no confidence."""
    if len(args.model) * args.views > 1:
        return "an ensemble and --views have none, because a confidence belongs to one captioner and one look"
    return "this captioner has none; evaluate.py --fit-confidence gives it one"


# Single pictures ------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """The captions of one picture, and where the decoder looked."""

    captions: list[Caption]  # best first
    weights: np.ndarray | None  # (T + 1, R): the attention for each word of the best caption, then for the end token


def caption_pictures(args: Namespace, names: Sequence[str], captioner: PictureCaptioner, config: Config) -> int:
    """Print the captions of each picture, and draw the figures that the user wants. Returns the exit status."""
    failed = unsaid = 0
    for source, found in find_captions(names, captioner, config, attend=bool(args.attention)):
        if isinstance(found, UnreadableImage):
            failed += 1
            report_failure(source, found, args.json)
            continue
        captions = [caption for caption in found.captions if is_wanted(caption, args.min_confidence)]
        unsaid += not captions
        report_captions(source, captions, args.json)
        if not captions:
            continue
        texts = [caption.text for caption in captions]
        if args.pictures:
            draw("--pictures", args.pictures, source, captioned, 1200, texts)
        if found.weights is not None:
            side = grid_side(captioner.regions)
            words = captioner.vocabulary.split(texts[0])
            draw("--attention", args.attention, source, attention_maps, 480, words, found.weights[:-1], side)
    if unsaid:
        print(f"note: pictures without a caption of that --min-confidence: {unsaid:,}", file=sys.stderr)
    return 1 if failed else 0


def is_wanted(caption: Caption, least: float | None) -> bool:
    """Whether a caption has the confidence that ``--min-confidence`` asks for."""
    return least is None or (caption.confidence is not None and caption.confidence >= least)


def find_captions(
    names: Sequence[str], captioner: PictureCaptioner, config: Config, attend: bool
) -> Iterator[tuple[str, Found | UnreadableImage]]:
    """Caption pictures in batches. Yields each name with its captions, or with the reason why it cannot be read."""

    def tell(note: str) -> None:
        print(f"note: {note}", file=sys.stderr)

    def load(source: str) -> np.ndarray | UnreadableImage:
        try:
            return load_image(open_source(source), config.image_size, tell)
        except UnreadableImage as error:
            return error

    remaining = iter(names)
    with ThreadPoolExecutor(config.workers) as pool:
        while group := list(islice(remaining, config.extract_batch_size)):
            loaded = list(pool.map(load, group))
            readable = [
                (name, each) for name, each in zip(group, loaded, strict=True) if not isinstance(each, UnreadableImage)
            ]
            named, pixels = [name for name, _ in readable], [each for _, each in readable]
            found = iter(caption_batch(np.stack(pixels), named, captioner, config, attend) if pixels else [])
            for source, each in zip(group, loaded, strict=True):
                yield source, each if isinstance(each, UnreadableImage) else next(found)


def caption_batch(
    pixels: np.ndarray, names: Sequence[str], captioner: PictureCaptioner, config: Config, attend: bool
) -> list[Found]:
    """The captions of RGB pixels uint8 ``(B, S, S, 3)`` and, with ``attend``, where the decoder looked."""
    features = captioner.encode(pixels)
    found = captioner.caption(features, config, names=names)
    if not attend:
        return [Found(captions, None) for captions in found]
    looks = captioner.attend(features, [captions[0].text for captions in found])
    return [Found(captions, weights) for captions, weights in zip(found, looks, strict=True)]


def report_captions(source: str, captions: Sequence[Caption], as_json: bool) -> None:
    """Print the captions of a picture."""
    if as_json:
        print(json_line(entry(source, captions)), flush=True)
    elif len(captions) == 1:
        print(f"{printable(source)}: {printable(captions[0].text)}{sureness(captions[0])}", flush=True)
    elif captions:
        print(f"{printable(source)}:")
        for caption in captions:
            print(f"  {caption.score:7.3f}  {printable(caption.text)}{sureness(caption)}", flush=True)


def sureness(caption: Caption) -> str:
    """The text behind a caption: its confidence, and whether the captioner is unsure. Empty without a confidence."""
    if caption.confidence is None:
        return ""
    return f" [{caption.confidence:.0%}]" + (" (unsure)" if caption.unsure else "")


def report_failure(source: str, error: Exception, as_json: bool) -> None:
    """Say that a picture cannot be read."""
    if as_json:
        print(json_line({"image": source, "error": str(error)}), flush=True)
    print(f"error: {error}", file=sys.stderr)


def draw(option: str, folder: str, source: str, make: Callable[..., "Figure"], size: int, *arguments: Any) -> None:
    """Save the figure that ``make(picture, *arguments)`` gives, the picture at most ``size`` pixels wide and high."""
    try:
        path = save(make(read_picture(open_source(source), size), *arguments), Path(folder), source)
        print(printable(f"written: {path}"), file=sys.stderr)
    except UnreadableImage as error:  # a web address that answers once and not again
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        raise UserError(f"{option}: {folder}: cannot be written: {error.strerror or error}") from None


# A whole folder -------------------------------------------------------------------------------------------------------


def caption_folder(args: Namespace, names: Sequence[str], captioner: PictureCaptioner, config: Config) -> int:
    """Caption a folder into a file, and into the pictures' metadata if the user wants that. Returns the exit status."""
    folder, output = Path(args.images[0]), Path(args.output)
    models = [Path(path) for path in args.model]
    settings = made_with(folder, models, config, config.num_captions, args.views, captioner.precision)
    unreadable = caption_album(folder, names, output, settings, captioner, config, config.num_captions)
    print(f"{printable(str(output))}: {len(names) - unreadable:,} pictures with captions, {unreadable:,} unreadable")
    if args.coco_results:
        write(Path(args.coco_results), json.dumps(coco_results(names, output)) + "\n")
    failed = describe_pictures(args, folder, names, output, config.workers) if args.write_metadata else 0
    return 1 if unreadable or failed else 0


def describe_pictures(args: Namespace, folder: Path, names: Sequence[str], output: Path, workers: int) -> int:
    """Write the captions in ``output`` into the metadata of the pictures. Returns how many pictures failed."""
    embed, texts, named = args.write_metadata == "embed", TextFiles(), set[str]()

    def write(picture: Path, caption: str) -> str:
        if args.write_metadata == "text":
            return texts.write(picture, caption)
        keywords = keywords_of(caption) if args.keywords else None
        named.update(keywords or ())
        return write_caption(picture, caption, embed, args.overwrite_descriptions, keywords)

    found = write_metadata(folder, names, output, write, workers, args.min_confidence or 0.0)
    if args.write_metadata == "text":
        print(
            f"texts: {found['text']:,} captions beside their pictures; {found['kept']:,} pictures kept the text they had, "
            f"{found['failed']:,} failed"
        )
    else:
        print(
            f"metadata: {found['embedded']:,} captions inside their pictures, {found['sidecar']:,} beside them; "
            f"{found['kept']:,} pictures kept the description they had, {found['failed']:,} failed"
        )
    if args.keywords and not named and found["embedded"] + found["sidecar"] + found["kept"]:
        print("note: --keywords: no caption names anything in our lists, which are in English", file=sys.stderr)
    if found["unsure"]:
        print(f"unsure: {found['unsure']:,} captions below --min-confidence were not written")
    if embed and found["sidecar"]:
        print("beside: the captions of pictures that are neither JPEG nor PNG, are signed, or would break if they grew")
    return found["failed"]


if __name__ == "__main__":
    run_script(main)
