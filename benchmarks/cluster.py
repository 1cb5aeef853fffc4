"""Whole collections on a Ray cluster: what kills cost, how fast two workers are, and the memory of the driver.

    python benchmarks/cluster.py                        # all three
    python benchmarks/cluster.py --only kills           # kills, speed or memory
    python benchmarks/cluster.py --only kills --beside benchmarks/results/cluster.json      # keeps the other figures

Needs the extra ``cluster``. The cluster is ``ray.cluster_utils.Cluster``: a head without cores and two nodes with one
core each, all of them processes of this machine. ``test.py`` captions JPEGs of the size of Flickr8k's (see folder.py)
with the pocket captioner and ONNX Runtime, in shards of 96 pictures.

* kills: a node is killed when half of the shards are done. In another job the driver is killed then, and started again.
  The bar: each picture is captioned once, and the captions are to the byte those of one process. A further run does
  nothing.
* speed: pictures per second of the two workers, against one process that has both cores. What counts is the time after
  the first 192 pictures, when everything is loaded. The median of all rounds counts. The bar: 0.85 of one process.
* memory: the highest memory of a driver that lists 1,000,000 names in a made-up bucket, writes the manifest and does
  all shards, in which workers only copy the names. The same for 2 and 3 million, 1,000 in each folder, and for a
  million in a single folder. The bar: 500 MB for 1,000,000, however they lie.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from common import ROOT, make_parser, measure_apart, peak_memory, print_table, verdict, write_results
from folder import make_photographs

from captioning.base.script import run_script

SHARD = 96
SPEED_BAR, MEMORY_BAR = 0.85, 500  # a share, and MB
PARTS = ("kills", "speed", "memory")


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A cluster of a head without cores and two nodes with one core each. Gives it, and its last node."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as nice as the one process
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster, [cluster.add_node(num_cpus=1) for _ in range(2)][-1]
    finally:
        cluster.shutdown()


def start(folder: Path, output: Path, *options: str) -> subprocess.Popen:
    """Start ``test.py`` on the photographs in ``folder``."""
    command = [sys.executable, str(ROOT / "test.py"), str(folder), "--output", str(output), "--quiet"]
    # A shard has one batch less than its bound.
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)


def on_cluster(cluster: Any) -> tuple[str, ...]:
    return ("--cluster", cluster.address, "--shard-pictures", str(SHARD + 32), "--merge")


def finish(process: subprocess.Popen) -> None:
    if process.wait():
        raise RuntimeError(f"test.py ended with status {process.returncode}")


def shards_in(output: Path) -> list[Path]:
    return sorted(output.glob("captions-*.jsonl"))


def wait_for(shards: int, output: Path, process: subprocess.Popen) -> None:
    """Wait until so many shards are published. The process must not end before."""
    while len(shards_in(output)) < shards:
        if process.poll() is not None:
            raise RuntimeError("test.py ended before it could be killed; take more pictures")
        time.sleep(0.02)


def measure_kills(folder: Path, place: Path, pictures: int) -> dict[str, Any]:
    """What a killed node and a killed driver leave."""
    one, half = place / "one.jsonl", pictures // SHARD // 2
    finish(start(folder, one))
    wanted, results = one.read_bytes(), {}
    for victim in ("node", "driver"):
        output = place / victim
        with two_nodes() as (cluster, node):
            process = start(folder, output, *on_cluster(cluster))
            wait_for(half, output, process)
            killed_at = len(shards_in(output))
            if victim == "node":
                cluster.remove_node(node, allow_graceful=False)
            else:
                process.kill()
                process.wait()
                stamps = {path: path.stat().st_mtime_ns for path in shards_in(output)}
                process = start(folder, output, *on_cluster(cluster))
            finish(process)
            if victim == "node":
                stamps = {path: path.stat().st_mtime_ns for path in shards_in(output)}
            finish(start(folder, output, *on_cluster(cluster)))
        merged = (output / "captions.jsonl").read_bytes()
        names = [json.loads(line)["image"] for line in merged.splitlines()]
        results[victim] = {
            "shards": len(shards_in(output)),
            "published_when_killed": killed_at,
            "pictures": len(names),
            "each_once": len(set(names)) == len(names) == pictures,
            "equal_to_one_process": merged == wanted,
            "published_shards_untouched": all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()),
        }
    return results


def speed_of(process: subprocess.Popen, done: Callable[[], int]) -> float:
    """Pictures per second of ``test.py``, after the first two shards of pictures. ``done``: how many there are."""
    samples: list[tuple[float, int]] = [(time.perf_counter(), 0)]
    while process.poll() is None:
        if (count := done()) > samples[-1][1]:
            samples.append((time.perf_counter(), count))
        time.sleep(0.05)
    finish(process)
    begun = next(sample for sample in samples if sample[1] >= 2 * SHARD)
    return (samples[-1][1] - begun[1]) / (samples[-1][0] - begun[0])


def measure_speed(folder: Path, place: Path, rounds: int) -> dict[str, Any]:
    """Pictures per second of one process and of two workers, in turn."""
    found: dict[str, list[float]] = {"one process, 2 cores": [], "2 workers, 1 core each": []}
    one, two = found.values()
    with two_nodes() as (cluster, _):
        for number in range(rounds):
            output = place / f"{number}.jsonl"
            one.append(speed_of(start(folder, output), lambda at=output: at.exists() and at.read_bytes().count(b"\n")))
            output = place / f"{number}"
            process = start(folder, output, *on_cluster(cluster))
            two.append(speed_of(process, lambda at=output: SHARD * len(shards_in(at))))
    return {"pictures_per_second": found, "share": median(two) / median(one)}


def copy_names(source: Any) -> Callable[..., Any]:
    """What workers do when only the driver is measured: the names of a shard into a file."""
    from captioning.cluster.running import Report

    def copy(names: Mapping[str, str], output: Path) -> Report:
        output.write_text("".join(f"{json.dumps({'image': name})}\n" for name in names))
        return Report()

    return copy


def made_up_bucket(count: int, below: int) -> Any:
    """A file system of ``count`` names, ``below`` in each folder."""
    from pyarrow import fs

    class Handler(fs.FSSpecHandler):
        def __init__(self) -> None:
            super().__init__(None)

        def get_type_name(self) -> str:
            return "made-up"

        def get_file_info(self, paths: list[str]) -> list[Any]:
            return [fs.FileInfo(path, fs.FileType.Directory) for path in paths]

        def get_file_info_selector(self, selector: Any) -> list[Any]:
            here = selector.base_dir
            if here.count("/"):
                return [fs.FileInfo(f"{here}/{i:06d}.jpg", fs.FileType.File, size=130_000) for i in range(below)]
            return [fs.FileInfo(f"{here}/photos {i:06d}", fs.FileType.Directory) for i in range(count // below)]

    return fs.PyFileSystem(Handler())


def measure_memory(count: int, below: int) -> dict[str, Any]:
    """The highest memory of this process as the driver of a job on ``count`` names, in MB.

    ``below``: names in each folder.
    """
    from captioning.cluster.captions import CAPTIONS
    from captioning.cluster.jobs import LOCAL, begin
    from captioning.cluster.places import Place
    from captioning.cluster.running import Work, alone_on_cluster, do_all
    from captioning.pictures.finding import Finder

    with tempfile.TemporaryDirectory() as temporary:
        source, place = Place(temporary, "SOURCE"), Place(temporary, "--output")
        source.folder, source.files, source.path = None, made_up_bucket(count, below), "bucket"
        with alone_on_cluster(LOCAL, place):
            connected = peak_memory()
            began = time.perf_counter()
            manifest = begin(CAPTIONS, place, {}, partial(source.pictures, Finder()), 10_000, 32)
            listed, seconds = peak_memory(), time.perf_counter() - began
            report = do_all(Work(CAPTIONS, temporary, temporary, copy_names, (), 1), manifest, place)
    megabytes = {"connected": connected, "listed": listed, "done": peak_memory()}
    return {
        "names": report.pictures,
        "in_each_folder": below,
        "shards": manifest.shards,
        "seconds_listing": round(seconds, 1),
        "megabytes": {name: round(value / 1e6, 1) for name, value in megabytes.items()},
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="what to measure [default: all]")
    parser.add_argument("--beside", metavar="FILE", type=Path, help="keep the figures of this file for other parts")
    parser.add_argument("--rounds", type=int, default=3, help="how often speed is measured [default: %(default)s]")
    parser.add_argument(
        "--measure", type=int, nargs=2, metavar="N", help="used by this script: names, and names in each folder"
    )
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_memory(*args.measure)))
        return
    only = args.only or PARTS
    pictures, rounds = (SHARD * 6, 1) if args.quick else (2000, args.rounds)
    results = json.loads(args.beside.read_text())["parts"] if args.beside else {}
    with tempfile.TemporaryDirectory() as temporary:
        place, folder = Path(temporary), Path(temporary, "photographs")
        if {"kills", "speed"} & set(only):
            make_photographs(folder, pictures)
        if "kills" in only:
            results["kills"] = measure_kills(folder, place, pictures)
        if "speed" in only:
            results["speed"] = measure_speed(folder, place, rounds)
    if "memory" in only:
        million = 100_000 if args.quick else 1_000_000
        sizes = [(million, 1000), (2 * million, 1000), (3 * million, 1000), (million, million)]
        results["memory"] = [measure_apart(__file__, *size) for size in sizes]
    report(args, results)


def report(args: Namespace, results: dict[str, Any]) -> None:
    """Print the figures and whether they meet their bars, and write them."""
    rows: list[list[Any]] = []
    passes = {}
    for victim, found in results.get("kills", {}).items():
        signs = ("each_once", "equal_to_one_process", "published_shards_untouched")
        passes[f"{victim} killed"] = all(found[sign] for sign in signs)
        rows.append([f"{victim} killed", f"{found['pictures']} pictures", ", ".join(s for s in signs if found[s])])
    if speed := results.get("speed"):
        passes["speed"] = speed["share"] >= SPEED_BAR
        rows += [[name, f"{median(each):.1f} pictures/s", ""] for name, each in speed["pictures_per_second"].items()]
        rows.append(["share", f"{speed['share']:.3f}", f"at least {SPEED_BAR} wanted"])
    if memory := results.get("memory"):
        passes["memory"] = all(memory[row]["megabytes"]["done"] <= MEMORY_BAR for row in (0, -1))
        for each in memory:
            name = f"driver, {each['names']:,} names, {each['in_each_folder']:,} in each folder"
            rows.append([name, f"{each['megabytes']['done']} MB", ""])
    print_table(["", "measured", ""], rows)
    for name, passed in passes.items():
        print(f"{name}: {verdict(args, passed)}")
    bars = {"speed": SPEED_BAR, "megabytes": MEMORY_BAR}
    write_results(args, "cluster", {"bars": bars, "parts": results, "pass": passes})


if __name__ == "__main__":
    run_script(main)
