"""Each benchmark runs from anywhere, prints its table and writes JSON that says where the figures come from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.servers import nginx_found

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


# A light one runs in CI, all of them once a week. Each starts processes of its own, so together they take minutes.
LIGHT = ("search",)
HEAVY = (
    "captioning",
    "folding",
    "encoders",
    "throughput",
    "beams",
    "products",
    "memory",
    "backends",
    "word_embeddings",
    "coco_scale",
    "folder",
    "app",
    "callers",
    "bombs",
    "onednn",
    "turns",
    "fine_tuning",
    "first_caption",
    "huge_pictures",
    "in_browser",
    "vectors",
    "cluster",
)


def test_every_benchmark_is_tried():
    assert {*LIGHT, *HEAVY, "classic", "clients", "common", "learner"} == {
        path.stem for path in BENCHMARKS.glob("*.py")
    }


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in LIGHT),
        *(pytest.param(name, marks=pytest.mark.weekly) for name in HEAVY),
    ],
)
def test_a_quick_run_prints_a_table_and_writes_json(name, tmp_path, request):
    output = tmp_path / "results.json"
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--output", output]
    if name in ("app", "callers", "bombs", "in_browser"):
        pytest.importorskip("fastapi")
        pytest.importorskip("uvicorn")
    if name == "callers" and not nginx_found():
        pytest.skip("needs nginx (Debian: apt-get install nginx)")
    if name == "cluster":
        pytest.importorskip("pyarrow")
        pytest.importorskip("ray")
    if name == "in_browser":
        pytest.importorskip("selenium")
        from captioning.serving.browser import has_runtime

        if not (shutil.which("chromium") and shutil.which("chromedriver") and has_runtime()):
            pytest.skip("needs chromium, chromedriver and onnxruntime-web; python app.py --in-browser fetches the last")
    if name == "vectors":
        pytest.importorskip("faiss")
    if name == "backends":  # the others go the same way, and compiling for them takes minutes
        command += ["--only", "tensorflow"]
    if name == "turns":  # with itself
        command += [BENCHMARKS.parent, "scst"]
    if name == "word_embeddings":
        command += ["--bert", request.getfixturevalue("bert_folder")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())
    assert results["benchmark"].startswith(name)
    assert results["machine"]["cores"] >= 1
    assert {"python", "keras", "numpy", "backend"} <= set(results["versions"])
    # The command can be pasted, and the figures in the table are there.
    assert results["command"].startswith(f"python benchmarks/{name}.py --quick")
    assert len(done.stdout.splitlines()) >= 3
