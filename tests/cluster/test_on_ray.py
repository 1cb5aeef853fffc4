"""A job on a Ray cluster of two nodes on this machine, one of which dies; a driver that dies; a bucket."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT, until
from small_albums import FakeCaptioner, make_pictures

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")

from cluster_work import CONFIG, SETTINGS, drive, job, work  # noqa: E402

from captioning.albums.captions import caption_album, list_pictures  # noqa: E402
from captioning.base.errors import UserError  # noqa: E402
from captioning.cluster.captions import CAPTIONS  # noqa: E402
from captioning.cluster.jobs import merge  # noqa: E402
from captioning.cluster.places import Place  # noqa: E402
from captioning.cluster.running import alone_on_cluster, run_shards  # noqa: E402

pytestmark = [pytest.mark.weekly, pytest.mark.filterwarnings("default")]  # Ray's own warnings


@pytest.fixture(scope="module")
def cluster():
    """A head without cores, and a node with one. ``add_node`` adds another one."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT / "tests"))
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        found.add_node(num_cpus=1)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def pictures(tmp_path):
    return Place(str(make_pictures(tmp_path / "pictures", 50)), "SOURCE")


@pytest.fixture
def place(tmp_path):
    return Place(str(tmp_path / "out"), "--output")


def assert_as_of_one_process(place, pictures, tmp_path) -> None:
    """The shards of ``place``, joined, are the album of one process to the byte."""
    merge(CAPTIONS, place, job(pictures, place).shards)
    one = tmp_path / "one.jsonl"
    caption_album(pictures.folder, list_pictures(pictures.folder), one, SETTINGS, FakeCaptioner(), CONFIG)
    assert (place.folder / "captions.jsonl").read_bytes() == one.read_bytes()


def test_a_node_dies_and_its_shard_is_done_elsewhere(cluster, pictures, place, tmp_path):
    other = cluster.add_node(num_cpus=1)
    manifest = job(pictures, place)
    with alone_on_cluster(cluster.address, place):
        reports = run_shards(work(pictures, place, pause=0.3), range(manifest.shards))
        found = [next(reports)]
        cluster.remove_node(other, allow_graceful=False)
        found += reports
    assert sorted(report.shard for report in found) == list(range(manifest.shards))
    assert sum(report.pictures for report in found) == 50
    assert_as_of_one_process(place, pictures, tmp_path)


def test_a_killed_driver_loses_only_shards_in_flight(cluster, pictures, place, tmp_path):
    command = [sys.executable, ROOT / "tests/cluster_work.py", pictures.address, place.address, cluster.address, "0.5"]
    driver = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE)
    first = until(lambda: [*place.folder.glob("captions-*.jsonl")])[0]
    driver.kill()
    driver.communicate()
    begun = first.stat().st_mtime_ns
    assert drive(pictures, place, cluster.address, 0).pictures == 50
    assert first.stat().st_mtime_ns == begun, "what was published is not done again"
    assert_as_of_one_process(place, pictures, tmp_path)


def test_two_jobs_of_a_cluster_on_one_destination_are_refused(cluster, place, monkeypatch):
    monkeypatch.setattr("captioning.cluster.running._LEAVING", 0)
    code = "import sys, cluster_work as c; from captioning.cluster.places import Place\n"
    code += "with c.alone_on_cluster(sys.argv[1], Place(sys.argv[2], '--output')): print('here', flush=True), input()"
    command = [sys.executable, "-c", code, cluster.address, place.address]
    with subprocess.Popen(
        command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"here\n", other.stderr.read()
        with pytest.raises(UserError, match="another job is writing here"), alone_on_cluster(cluster.address, place):
            pass
        other.communicate(b"\n")


def test_an_error_of_a_worker_is_one_message(cluster, pictures, place):
    job(pictures, place)
    pictures.folder.rename(pictures.folder.parent / "away")
    with (
        pytest.raises(UserError, match=r"^none of the 8 pictures of shard [01] can be opened"),
        alone_on_cluster(cluster.address, place),
    ):
        list(run_shards(work(pictures, place), range(2)))
