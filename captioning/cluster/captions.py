"""A whole collection captioned on a Ray cluster: each shard as an album of its own, in the lines of one album."""

import json
import platform
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from captioning.albums.captions import caption_album, made_with, read_lines
from captioning.base.errors import UserError
from captioning.base.trained import fingerprint
from captioning.cluster.jobs import Kind, begin, begun_with, merge, settings_file, todo, written_alone
from captioning.cluster.manifest import Manifest, shard_size
from captioning.cluster.places import Place
from captioning.cluster.running import Do, Report, Work, alone_on_cluster, do_all, on_a_worker
from captioning.command_line.resolving import resolve_trained
from captioning.exports.graphs import take_cores
from captioning.exports.runtime import load_captioner
from captioning.pictures.finding import Finder
from captioning.search.captions import PictureCaptioner
from captioning.storage.members import settings_of
from config import Config

CAPTIONS = Kind("captions", ".jsonl")


def caption_collection(args: Namespace, finder: Finder) -> int:
    """Caption the place ``args.images[0]`` into the place ``args.output``. Returns the exit status. Raises UserError.

    ``args``: the command line of test.py.
    """
    source, destination = Place(args.images[0], "SOURCE"), Place(args.output, "--output")
    models = [Path(path).absolute() for path in args.model]
    config = resolve_trained(args, settings_of(models[0], "captioner"))
    config = config.with_overrides({"num_captions": config.num_captions or 1})
    shard_size(args.shard_pictures, config.extract_batch_size)
    source.require_pictures(finder)
    with written_alone(destination), ExitStack() as stack:
        if begun := begun_with(destination):  # a job goes on as it was begun
            args.precision = begun.get("precision") if args.precision == "auto" else args.precision
        else:  # machines may differ, so one of them decides for all
            stack.enter_context(alone_on_cluster(args.cluster, destination))
            args.precision = on_a_worker(args.worker_cores, _precision, args, models, config, args.worker_cores)
        settings = made_with(
            source.folder or source.shown, models, config, config.num_captions, args.views, args.precision
        )
        listed = settings | {"exclude": finder.exclude, "follow_links": finder.follow_links}
        pictures, size = partial(source.pictures, finder), config.extract_batch_size
        manifest = begin(CAPTIONS, destination, listed, pictures, args.shard_pictures, size)
        if begun and todo(CAPTIONS, manifest, destination):
            stack.enter_context(alone_on_cluster(args.cluster, destination))
        arguments = (args, models, [fingerprint(model) for model in models], config, settings)
        work = Work(CAPTIONS, source.address, destination.address, load, arguments, args.worker_cores)
        report = do_all(work, manifest, destination)
        if args.merge:
            _merge(destination, manifest, settings)
    print(
        f"{destination.shown}: {report.pictures:,} pictures in {manifest.shards:,} shards are done; in this run "
        f"{report.unreadable:,} were unreadable"
    )
    return 1 if report.unreadable or report.missing else 0


def _precision(args: Namespace, models: Sequence[Path], config: Config, cores: int) -> str:
    """The precision of the captioner on this machine. Raises UserError if it cannot caption as ``args`` ask."""
    take_cores(cores)
    captioner = load_captioner(models, args.views, args, folder=True)
    captioner.check(config)
    return captioner.precision


def load(
    source: Place,
    args: Namespace,
    models: Sequence[Path],
    fingerprints: Sequence[str],
    config: Config,
    settings: dict[str, Any],
) -> Do:
    """Load the captioner. Returns what captions a shard into a file. Raises UserError if it is another one here."""
    for model, wanted in zip(models, fingerprints, strict=True):
        if fingerprint(model) != wanted:
            raise UserError(
                f"{model}: is another captioner on the machine {platform.node()}; copy the same one to every machine"
            )
    captioner = load_captioner(models, args.views, args, folder=True)

    def caption(paths: Mapping[str, str], output: Path) -> Report:
        return caption_shard(source, list(paths), output, settings, captioner, config)

    return caption


def caption_shard(
    source: Place,
    names: Sequence[str],
    output: Path,
    settings: dict[str, Any],
    captioner: PictureCaptioner,
    config: Config,
) -> Report:
    """Caption the pictures ``names`` of ``source`` into the file ``output``, as an album."""
    unreadable = caption_album(
        Path(), names, output, settings, captioner, config, config.num_captions, opened=source.picture
    )
    lines = {line["image"]: line.get("error") for line in read_lines(output)}
    missing = [f"{source.shown}/{name}: cannot be opened" for name in names if name not in lines]
    return Report(unreadable=unreadable, missing=len(missing), said=[*missing, *filter(None, lines.values())])


def _merge(destination: Place, manifest: Manifest, settings: dict[str, Any]) -> None:
    """Join the captions into one album, which ``--output`` without ``--cluster`` can go on with."""
    whole = merge(CAPTIONS, destination, manifest.shards)
    if settings_file(whole) not in destination.names():
        destination.publish(settings_file(whole), [json.dumps(settings, indent=2).encode()])
    print(f"{destination.shown}/{whole}: all captions")
