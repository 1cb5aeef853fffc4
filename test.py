"""Caption pictures with a trained captioner: files, folders and web addresses.

    python test.py photo.jpg                                # with the captioner that comes with this repository
    python test.py photo.jpg --model runs/NAME              # with one of your own
    python test.py holiday/ https://example.org/cat.jpg --beam-size 5 --best 3
    python test.py photo.jpg --json --pictures captioned/
    python test.py photo.jpg --views 4                      # an average of four looks at the picture
    python test.py photo.jpg --model runs/NAME --beam-size 20 --consensus    # of 20 captions the one most like all
    python test.py photo.jpg --attention maps/              # where the decoder looked for each word
    python test.py holiday/ --output captions.jsonl         # a whole collection; the same command goes on with it

A picture that cannot be read is reported and the rest go on; then the exit status is 1.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.albums.captions import caption_album, entry, list_pictures, made_with
from captioning.albums.coco_results import coco_ids, coco_results
from captioning.albums.metadata import write_metadata
from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.command_line.options import add_views, make_parser, typed_settings
from captioning.command_line.resolving import refuse_idle_consensus, resolve_trained, settle_backend
from captioning.pictures.loading import UnreadableImage, load_image, open_source, sources
from captioning.reports.figures import attention_maps, captioned, grid_side, read_picture, save
from captioning.words.tokenizer import tokenize
from config import POCKET, Config

if TYPE_CHECKING:
    from model import Captioner


def main() -> int:
    parser = make_parser(__doc__, trained=True)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or an http(s) address")
    parser.add_argument(
        "--model",
        metavar="RUN",
        action="append",
        help="a run folder or a captioner.zip; several, each after a --model of its own, decode as an ensemble [default: pretrained/pocket.zip]",
    )
    add_views(parser)
    parser.add_argument("--best", type=int, default=1, metavar="K", help="captions per picture, at most beam_size")
    parser.add_argument("--json", action="store_true", help="print one JSON object per picture")
    parser.add_argument("--pictures", metavar="DIR", help="write each picture with its captions into this folder")
    parser.add_argument(
        "--attention",
        metavar="DIR",
        help="draw where the decoder looked for each word of the best caption, one figure per picture, into this folder",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="caption the one folder IMAGE into this file of JSON lines; the same command goes on with what is missing",
    )
    parser.add_argument(
        "--coco-results",
        metavar="FILE",
        help="with --output, of a folder of MS-COCO's images: write the captions as COCO's evaluation server takes them, too",
    )
    parser.add_argument(
        "--write-metadata",
        choices=["sidecar", "embed"],
        help="with --output: write the captions as XMP into files beside the pictures (photo.jpg.xmp), or into JPEG and PNG pictures themselves",
    )
    parser.add_argument(
        "--overwrite-descriptions",
        action="store_true",
        help="with --write-metadata: also where a picture has a description already",
    )
    args = parser.parse_args()
    _refuse_conflicts(args)
    settle_backend(typed_settings(args).get("backend"))
    # Listed now: a folder without pictures stops nothing midway.
    listed = list_pictures(Path(args.images[0])) if args.output else list(sources(args.images))
    if args.coco_results:
        coco_ids(listed)
    paths = list(map(Path, args.model or [POCKET]))
    if args.attention and len(paths) * args.views > 1:
        raise UserError("--attention: shows where one captioner looks; give one --model, and leave out --views")

    from model import load_captioners

    captioner = load_captioners(paths, args.views)
    config = resolve_trained(args, captioner.config)
    refuse_idle_consensus([config])
    if not 1 <= args.best <= config.beam_size:
        raise UserError(f"--best: {args.best} captions need a --beam-size of at least that; it is {config.beam_size}")
    if args.output:
        return _caption_album(args, listed, paths, captioner, config)
    if args.attention:
        if not captioner.decoder.attends:
            raise UserError(f"--attention: the decoder {config.decoder} has no attention; take a run of one that has")
        side = grid_side(captioner.decoder.sizes["regions"])

    def load(source: str):
        try:
            return load_image(open_source(source), config.image_size)
        except UnreadableImage as error:
            return error

    failed, remaining = 0, iter(listed)
    with ThreadPoolExecutor(config.workers) as pool:
        while group := list(islice(remaining, config.extract_batch_size)):
            loaded = list(pool.map(load, group))
            good = [
                (source, pixels)
                for source, pixels in zip(group, loaded, strict=True)
                if not isinstance(pixels, Exception)
            ]
            features = captioner.encode([pixels for _, pixels in good]) if good else []
            found = captioner.caption(features, config)
            looks = iter(
                captioner.attend(features, [best[0].text for best in found]) if args.attention and good else []
            )
            found = iter(found)
            for source, pixels in zip(group, loaded, strict=True):
                if isinstance(pixels, Exception):
                    failed += 1
                    _report_failure(source, pixels, args.json)
                    continue
                captions = next(found)[: args.best]
                _report(source, captions, args.json)
                texts = [caption.text for caption in captions]
                if args.pictures:
                    _draw("--pictures", args.pictures, source, captioned, 1200, texts)
                if args.attention:
                    maps = next(looks)[:-1]  # without that of the end
                    _draw("--attention", args.attention, source, attention_maps, 480, tokenize(texts[0]), maps, side)
    return 1 if failed else 0


def _refuse_conflicts(args: Namespace) -> None:
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
    if args.overwrite_descriptions and not args.write_metadata:
        raise UserError("--overwrite-descriptions: say where to write with --write-metadata")


def _caption_album(
    args: Namespace, names: list[str], models: list[Path], captioner: "Captioner", config: Config
) -> int:
    """Caption a folder into a file and, if asked to, from there into the pictures' metadata. Returns the exit status."""
    folder, output = Path(args.images[0]), Path(args.output)
    settings = made_with(folder, models, config, args.best, args.views)
    unreadable = caption_album(folder, names, output, settings, captioner, config, args.best)
    print(f"{output}: {len(names) - unreadable:,} pictures with captions, {unreadable:,} unreadable")
    if args.coco_results:
        write(Path(args.coco_results), json.dumps(coco_results(names, output)) + "\n")
    if not args.write_metadata:
        return 1 if unreadable else 0
    found = write_metadata(
        folder, names, output, args.write_metadata == "embed", args.overwrite_descriptions, config.workers
    )
    print(
        f"metadata: {found['embedded']:,} captions inside their pictures, {found['sidecar']:,} beside them; "
        f"{found['kept']:,} pictures kept the description they had, {found['failed']:,} failed"
    )
    if args.write_metadata == "embed" and found["sidecar"]:
        print("beside: what is neither JPEG nor PNG, is signed, or would break when it grows")
    return 1 if unreadable or found["failed"] else 0


def _report(source: str, captions: list, as_json: bool) -> None:
    if as_json:
        print(json.dumps(entry(source, captions), ensure_ascii=False), flush=True)
    elif len(captions) == 1:
        print(f"{source}: {captions[0].text}", flush=True)
    else:
        print(f"{source}:")
        for caption in captions:
            print(f"  {caption.score:7.3f}  {caption.text}", flush=True)


def _report_failure(source: str, error: Exception, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": source, "error": str(error)}, ensure_ascii=False), flush=True)
    print(f"error: {error}", file=sys.stderr)


def _draw(option: str, folder: str, source: str, make: Callable, size: int, *arguments: Any) -> None:
    """Save the figure that ``make`` makes of the picture, at most ``size`` pixels wide and high, and ``arguments``."""
    try:
        path = save(make(read_picture(open_source(source), size), *arguments), Path(folder), source)
        print(f"written: {path}", file=sys.stderr)
    except UnreadableImage as error:  # a web address that answers once and not again
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        raise UserError(f"{option}: {folder}: cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    run_script(main)
