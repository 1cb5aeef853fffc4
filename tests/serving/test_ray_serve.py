"""deploy/serve.py: the app on Ray Serve, with a real cluster on this machine."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import ROOT, jpegs, until

from captioning.base.errors import UserError
from config import POCKET
from tools.servers import free_ports

# What `serve run` does, on a cluster without a dashboard, which would take more time than all else.
SERVE = "import ray, sys; from ray.serve.scripts import cli; ray.init(num_cpus=2, include_dashboard=False); cli()"


@pytest.mark.weekly
def test_two_replicas_answer_as_the_app_does(tmp_path):
    pytest.importorskip("ray.serve")
    import requests

    (port,) = free_ports(1)
    text = (ROOT / "deploy" / "serve.yaml").read_text()
    text = text.replace("port: 8000", f"port: {port}").replace("cores: 1 ", "beam-size: 1\n      cores: 1 ")
    (tmp_path / "serve.yaml").write_text(text)
    log, address = tmp_path / "log", f"http://127.0.0.1:{port}"

    def caption(data: bytes) -> str:
        answer = requests.post(f"{address}/api/captions", files={"image": data}, timeout=100)
        assert answer.status_code == 200, answer.text
        return answer.json()["captions"][0]["caption"]

    def ready() -> bool:
        assert serving.poll() is None, log.read_text()
        try:
            return requests.get(f"{address}/api/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    with tempfile.TemporaryDirectory(prefix="ray") as short:  # paths of sockets have at most 107 characters
        # Ray's own processes would give way to all others.
        own = {"RAY_TMPDIR": short, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
        with log.open("w") as output:
            serving = subprocess.Popen(
                [sys.executable, "-c", SERVE, "run", tmp_path / "serve.yaml"],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env={**os.environ, **own},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            until(ready)
            sent = jpegs(4)
            with ThreadPoolExecutor(len(sent)) as clients:
                first = list(clients.map(caption, sent))

                def both_answered() -> bool:
                    assert list(clients.map(caption, sent)) == first
                    return len(set(re.findall(r"ServeReplica:captions:captions pid=(\d+).*POST", log.read_text()))) == 2

                until(both_answered)
            assert len(set(first)) > 1
            stranger = requests.get(address, headers={"host": "evil.example"}, timeout=30)
            large = requests.post(f"{address}/api/captions", files={"image": bytes(21 << 20)}, timeout=100)
        finally:
            serving.send_signal(signal.SIGINT)
            serving.wait(100)
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (403, "wrong_host")
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.weekly
def test_wrong_settings_are_named_before_a_replica_starts():
    pytest.importorskip("ray.serve")
    from deploy.serve import captions

    for settings, mentions in (
        ({"replicas": "0"}, r"^replicas: a number from 1 on is wanted, got '0'"),
        ({"cores": "two"}, r"^cores: a number from 1 on is wanted, got 'two'"),
        ({"photos": "photos/"}, r"^photos: an option of app\.py that Ray Serve has no use for"),
        ({"aligner": "runs/A"}, r"^--aligner: is read only with --photos"),
        ({"beem-size": "5"}, r"unrecognized arguments: --beem-size=5; settings are replicas, cores and options"),
        ({"beam-size": "many"}, r"beam_size: .*got 'many'"),
        ({"model": ["nowhere"]}, r"nowhere"),
    ):
        with pytest.raises(UserError, match=mentions):
            captions(settings)
    made = captions({"model": [str(POCKET), str(POCKET)], "replicas": 3, "beam_size": 2, "cores": 2})
    deployment = made._bound_deployment
    assert (deployment.num_replicas, deployment.ray_actor_options["num_cpus"]) == (3, 2)
