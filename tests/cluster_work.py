"""A job with a captioner that says how bright pictures are, for the workers of a cluster. They import this module.

python tests/cluster_work.py PICTURES DESTINATION CLUSTER PAUSE     # one driver of this job
"""

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from small_albums import CONFIG as ALBUM  # noqa: E402
from small_albums import FakeCaptioner  # noqa: E402

from captioning.cluster import running  # noqa: E402
from captioning.cluster.captions import CAPTIONS, caption_shard  # noqa: E402
from captioning.cluster.jobs import begin  # noqa: E402
from captioning.cluster.manifest import Manifest  # noqa: E402
from captioning.cluster.places import Place  # noqa: E402
from captioning.cluster.running import Do, Report, Work, Worker, alone_on_cluster, do_all  # noqa: E402
from captioning.pictures.finding import Finder  # noqa: E402

CONFIG = ALBUM.with_overrides({"num_captions": 1})
SETTINGS = {"models": ["0" * 20], "beam_size": 3}
BATCH, MOST = CONFIG.extract_batch_size, 12


def job(pictures: Place, place: Place, settings=SETTINGS, most=MOST, **options) -> Manifest:
    return begin(CAPTIONS, place, settings | options, lambda: pictures.pictures(Finder(**options)), most, BATCH)


def load(pictures: Place, pause: float = 0.0) -> Do:
    """What does shards, in place of ``captions.load``. ``pause``: seconds that each takes besides."""

    def caption(paths, output) -> Report:
        time.sleep(pause)
        return caption_shard(pictures, list(paths), output, SETTINGS, FakeCaptioner(), CONFIG)

    return caption


def work(pictures: Place, place: Place, pause: float = 0.0) -> Work:
    return Work(CAPTIONS, pictures.address, place.address, load, (pause,), 1)


def drive(pictures: Place, place: Place, cluster: str, pause: float) -> Report:
    """The whole job."""
    with alone_on_cluster(cluster, place):
        return do_all(work(pictures, place, pause), job(pictures, place), place)


def run_here(monkeypatch, named=lambda work, shard: shard) -> list:
    """Let a worker run in this process. Gives the shards that it did, as they are ``named``."""
    done = []

    def run_shards(work, todo):
        worker = Worker(work)
        for shard in todo:
            done.append(named(work, shard))
            yield worker.publish(shard)

    monkeypatch.setattr(running, "run_shards", run_shards)
    return done


if __name__ == "__main__":
    drive(Place(sys.argv[1], "SOURCE"), Place(sys.argv[2], "--output"), sys.argv[3], float(sys.argv[4]))
