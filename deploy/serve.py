"""app.py on Ray Serve: replicas on any number of machines, each with its own captioner and its own engine.

    pip install -e ".[app,serve]"
    serve run deploy.serve:captions                         # the pocket captioner, two replicas of one core
    serve run deploy.serve:captions model=runs/A replicas=8 cores=4 beam-size=5
    serve run deploy/serve.yaml                             # the same from a file, with address and port

``replicas`` and ``cores`` are settings of this file. All others are options of app.py. docs/scale.md says what Ray
Serve does and what it does not.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from ray import serve

from app import app_parser, models_of, photos_of
from captioning.base.errors import UserError
from captioning.exports.graphs import take_cores
from captioning.serving.api import create_app
from captioning.serving.engine import PLACES, Engine
from captioning.serving.guard import Hosts, Origins
from config import POCKET

OWN = {"replicas": 2, "cores": 1}
ELSEWHERE = ("host", "port", "proxy", "grace", "photos", "in_browser", "no_browser")


def captions(settings: dict[str, Any]) -> serve.Application:
    """The application that ``serve run`` starts. Raises UserError before Ray starts a replica."""
    replicas, cores = (_number(name, settings.get(name, OWN[name])) for name in OWN)
    args = _options({name.replace("-", "_"): value for name, value in settings.items() if name not in OWN})
    models = models_of([Path(model).resolve() for model in args.model or [POCKET]], args, named=True)
    hosts = Hosts("127.0.0.1", args.allowed_host or ())
    origins = Origins(args.allow_origin) if args.allow_origin else None

    def replica():
        """The ASGI application of a replica. Ray calls this in the replica's process; both end together."""
        take_cores(cores)
        engine = Engine(models).__enter__()
        engine.warm_up()
        return create_app(engine, hosts=hosts, origins=origins)

    deployment = serve.deployment(
        serve.ingress(replica)(),
        name="captions",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cores},
        max_ongoing_requests=2 * PLACES,  # more than there are places, so that the app says itself when they are taken
        max_queued_requests=PLACES,  # more are refused by Ray, so that memory does not grow
    )
    return deployment.bind()


def _options(settings: dict[str, Any]) -> Namespace:
    """Options of app.py. A value may be a list. Raises UserError."""
    typed = []
    for name, value in settings.items():
        if name in ELSEWHERE:
            raise UserError(f"{name}: an option of app.py that Ray Serve has no use for; leave it out")
        typed += [f"--{name.replace('_', '-')}={one}" for one in (value if isinstance(value, list) else [value])]

    def refuse(message: str):
        raise UserError(f"{message}; settings are replicas, cores and options of app.py")

    parser = app_parser()
    parser.error = refuse  # it would end a process of Ray
    args = parser.parse_args(typed)
    photos_of(args)  # refuses what only --photos reads
    return args


def _number(name: str, value: Any) -> int:
    if not (str(value).isascii() and str(value).isdecimal() and int(value)):
        raise UserError(f"{name}: a number from 1 on is wanted, got {value!r}")
    return int(value)
