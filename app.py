"""Caption pictures and search photos in the browser: a page, and an HTTP API for programs.

    pip install -e ".[app]"
    python app.py                              # the captioners that come with this repository, and all runs
    python app.py --model runs/A --model runs/B
    python app.py --photos photos/             # with a search box over this folder
    python app.py --in-browser                 # pictures stay on the device of whoever opens the page
    python app.py --host 0.0.0.0 --port 8080   # for others on the network too, without password or encryption
    python app.py --allowed-host pictures.example.org      # behind a proxy of this name
    python app.py --host 0.0.0.0 --proxy 10.0.0.5          # the proxy is another machine
    python app.py --allow-origin https://example.org       # pages of that site may use the API
    curl -F image=@photo.jpg 'http://127.0.0.1:8000/api/captions?beam_size=5'

With --photos, the pictures of the folder and its subfolders can be searched and seen on the page. Their index is made
in the background, and later starts go on with it. The server needs no internet. Ctrl-C stops it. The page /api.html
explains the API.
"""

import asyncio
import logging
import os
import socket
import sys
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from captioning.base.errors import UserError
from captioning.base.script import hide_progress, run_script
from captioning.base.texts import printable, printable_lines
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import (
    refuse_idle_consensus,
    refuse_variety,
    resolve_trained,
    settle_backend,
)
from captioning.exports.runtime import (
    OWN_OPTIONS,
    add_runtime,
    graphs_for_browsers,
    load_captioner,
    refuse_without_graphs,
)
from captioning.pictures.finding import add_finding, finder_of, require_pictures
from captioning.retrieval.index import default_folder, shipped_towers
from captioning.retrieval.index_types import add_index_type, require_faiss
from captioning.serving.engine import Engine, Model
from captioning.serving.photos import Photos
from captioning.storage.members import name_of, settings_of
from config import POCKET, PRETRAINED, SEARCH, Config, RegionDecoders


def main() -> int:
    args = app_parser().parse_args()
    typed = typed_settings(args)
    if typed.get("backend") or args.photos:
        settle_backend(typed.get("backend"))
    logging.getLogger("tensorflow").setLevel("ERROR")  # it warns that each size of batch is compiled
    try:
        from captioning.serving.api import create_app
        from captioning.serving.browser import prepare_runtime
        from captioning.serving.guard import Hosts, Origins, Proxies
        from captioning.serving.server import Server
    except ImportError as error:
        raise UserError(f'app.py: {error.name} is not installed; pip install -e ".[app]"') from None
    if args.grace < 0:
        raise UserError(f"--grace: at least 0 seconds, got {args.grace}")
    proxies = Proxies(args.proxy or ())
    origins = Origins(args.allow_origin) if args.allow_origin else None
    if origins and origins.is_open:
        shown = "use it, and search and see its photos" if args.photos else "use it"
        print(
            f"warning: --allow-origin '*': any page in a browser that reaches this server can {shown}", file=sys.stderr
        )
    paths = list(map(Path, args.model or bundles_found(typed.get("run_dir", Config().run_dir))))
    photos = photos_of(args)
    models = models_of(paths, args, bool(args.model))
    runtime = prepare_runtime() if args.in_browser else None
    with bind(args.host, args.port) as bound, Engine(models) as engine:
        if runtime is None:  # otherwise only other programs and --photos ask this server for captions
            warm_up(engine, bool(args.model))
        listen(bound)
        page = address(args.host, bound.getsockname()[1])
        print(f"captions at {page}  (Ctrl-C stops)", flush=True)
        if not (args.no_browser or hide_progress()):
            webbrowser.open(page)
        stopping, hosts = asyncio.Event(), Hosts(args.host, args.allowed_host or ())
        server = Server(create_app(engine, photos, hosts, stopping, origins, runtime), stopping, proxies, args.grace)
        try:
            with photos or nullcontext():
                server.run(sockets=[bound])
        except KeyboardInterrupt:  # uvicorn raises it again after it has stopped
            print("\nstopped")
    return 0


def app_parser() -> ArgumentParser:
    parser = make_parser(__doc__, trained=True, own=OWN_OPTIONS)
    parser.add_argument(
        "--model",
        metavar="RUN",
        action="append",
        help="a run folder or a captioner.zip. Give --model several times to offer several captioners [default: all in "
        "pretrained/ and run_dir]",
    )
    add_runtime(parser)
    add_network(parser)
    parser.add_argument(
        "--in-browser",
        action="store_true",
        help="the page captions in the browser of whoever opens it, by the ONNX graphs of the captioner, and sends no "
        "picture to this server. The first start fetches ONNX Runtime for browsers (33 MB) [default: this server captions]",
    )
    parser.add_argument(
        "--photos", metavar="DIR", help="let the page search the pictures below this folder, and show them"
    )
    add_finding(parser)
    parser.add_argument(
        "--aligner",
        metavar="RUN",
        help="the towers that search --photos: a run folder of stage=align, or an aligner.zip [default: "
        "pretrained/search.zip]",
    )
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="folder of the index of --photos [default: the one of retrieve.py, which shares it]",
    )
    add_index_type(parser)
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    return parser


def add_network(parser: ArgumentParser) -> None:
    """Add the options that say who may ask the server, where, and how it stops."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address at which the server listens; 0.0.0.0: all addresses of this machine [default: %(default)s]",
    )
    parser.add_argument(
        "--allowed-host",
        metavar="NAME",
        action="append",
        help="a further name by which browsers may ask this server, such as that of a proxy before it. For several, give it "
        "several times [default: this machine's own names, and with --host 0.0.0.0 its numbers]",
    )
    parser.add_argument(
        "--proxy",
        metavar="ADDRESS",
        action="append",
        help="the address of a proxy before this server, such as 10.0.0.5, or its network, such as 10.0.0.0/24. Its "
        "X-Forwarded-For is believed, and it may have many connections. For several, give it several times [default: "
        "this machine]",
    )
    parser.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        help="let pages of another site use the HTTP API (CORS), such as https://example.org or http://localhost:3000. For "
        "several, give it several times. '*': all pages [default: only the page of this server]",
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free port [default: %(default)s]")
    parser.add_argument(
        "--grace",
        type=int,
        default=5,
        metavar="SECONDS",
        help="when the server is told to stop, it may go on so long with what it has. Behind a proxy 30 seconds suit, so "
        "that each picture in work gets its answer [default: %(default)s]",
    )


def bundles_found(run_dir: str) -> list[Path]:
    """The captioners that come with this repository, the pocket one first; then those of ``run_dir``, newest first."""
    runs = sorted((path for path in Path(run_dir).glob("*/captioner.zip") if path.is_file()), key=_age)
    shipped = [path for path in PRETRAINED.glob("*.zip") if path.name != SEARCH.name]
    shipped.sort(key=lambda path: (path.name != POCKET.name, path.name))
    return [*shipped, *(path.parent for path in runs)]


def _age(path: Path) -> float:
    """A number that is smaller for newer files."""
    try:
        return -path.stat().st_mtime
    except OSError:  # it was removed just now
        return 0


def models_of(paths: Sequence[Path], args: Namespace, named: bool) -> list[Model]:
    """The captioners to choose from, with the typed settings. Raises UserError if none can be used.

    ``named``: whether the user named the ``paths``. Then each must be usable. Otherwise captioners that cannot be used
    are reported and left out.
    """
    models: dict[str, Model] = {}
    for path in paths:
        try:
            model = _model(path, args)
        except UserError as error:
            if named:
                raise
            print(printable_lines(f"left out: {error}"), file=sys.stderr)
            continue
        same = sum(name.split(" (")[0] == model.name for name in models)
        model = replace(model, name=f"{model.name} ({same + 1})" if same else model.name)
        models[model.name] = model
    if not models:
        raise UserError("--model: none of the captioners found can be used; name another")
    return list(models.values())


def warm_up(engine: Engine, named: bool) -> None:
    """Load the default captioner, and compile its search. Raises UserError.

    ``named``: whether the user named the captioners. Otherwise one that cannot be loaded is reported and left out, and
    the next one becomes the default.
    """
    while True:
        print(printable(f"loading {engine.default.name}"), flush=True)
        try:
            return engine.warm_up()
        except UserError as error:
            if named or len(engine.models) == 1:
                raise
            print(printable_lines(f"left out: {error}"), file=sys.stderr)
            engine.leave_out(engine.default)


def _model(path: Path, args: Namespace) -> Model:
    config = resolve_trained(args, settings_of(path, "captioner"))
    refuse_idle_consensus([config])
    refuse_variety(
        config, "the page shows greedy and plain beam search only", "do_sample", "beam_groups", "num_captions"
    )
    refuse_without_graphs(path, args)
    attends = config.decoder in get_args(RegionDecoders)
    graphs = graphs_for_browsers(path, args) if args.in_browser else None
    return Model(name_of(path), config, attends, partial(load_captioner, [path], 1, args), graphs)


def photos_of(args: Namespace) -> Photos | None:
    """The photos of --photos, not yet started, or None without that option. Raises UserError before any work."""
    if not args.photos:
        for name in ("aligner", "index", "index_type", "exclude", "follow_links"):
            if getattr(args, name):
                raise UserError(
                    f"--{name.replace('_', '-')}: is read only with --photos DIR; add that, or leave this out"
                )
        return None
    from captioning.retrieval.aligner import Aligner

    require_faiss(args.index_type)
    folder, towers = Path(args.photos), Path(args.aligner or shipped_towers("--aligner"))
    settings_of(towers, "aligner")
    finder = finder_of(args)
    require_pictures(folder, "--photos", finder)

    def place(model: str) -> Path:
        return Path(args.index or default_folder(towers, model, folder.resolve().name, str(folder.resolve())))

    return Photos(folder, partial(Aligner.load, towers), place, finder=finder, index_type=args.index_type)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has this address and does not listen yet. Raises UserError.

    So a port that is taken is found before any work. While captioners are loaded, connections are refused, and a proxy
    asks another server.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # a port is free again as soon as its server ends; elsewhere this option shares ports
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:  # the latter for a number that is no port
        bound.close()
        raise _not_listening(host, port, error) from None
    return bound


def listen(bound: socket.socket) -> None:
    """Let a socket of ``bind`` listen. Raises UserError."""
    try:
        bound.listen(128)
    except OSError as error:  # another program was quicker
        raise _not_listening(*bound.getsockname()[:2], error) from None


def _not_listening(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error).removeprefix("bind(): ")
    return UserError(f"--port: cannot listen at {host}, port {port}: {reason}; choose another")


def address(host: str, port: int) -> str:
    """The web address of the page, for a browser on this machine."""
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"http://{local.get(host, f'[{host}]' if ':' in host else host)}:{port}"


if __name__ == "__main__":
    run_script(main)
