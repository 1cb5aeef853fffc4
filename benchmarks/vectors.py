"""Search among a million vectors: exact, and with candidates from faiss, by retrieve.py's own index and searchers.

    pip install -e ".[faiss]"
    python benchmarks/vectors.py                # hnsw and ivfpq
    python benchmarks/vectors.py --only hnsw
    python benchmarks/vectors.py --folder DIR   # keeps vectors and indexes there, and goes on where a run has stopped

The vectors are made up. They are 512 numbers long, as those of pretrained/search.zip, and made to be like them:

* Each is a common mean, plus the centre of its cluster, plus a part of its own. Then it is scaled to length 1.
* There are 20,000 clusters. The share of cluster i is proportional to i ** -0.7.
* Centres and own parts are normal, with 60% and 40% of the variance. The variance of number i is proportional to
  (1 + i / 10) ** -2.2.

With 896 photos of Flickr8k, pretrained/search.zip has pairs whose cosine is 0.144 on average, with a standard deviation
of 0.181, and a mean vector of length 0.38. Here these are 0.155, 0.174 and about 0.4. The variances of the photos along
their principal axes fall as the formula does.

Half of the queries are drawn as the vectors are ("photos"). The others are like sentences ("words"): another mean and
noise are added, so that the best cosine is about 0.5. None of the queries is in the index.

The index is written as retrieve.py writes it, then opened by another process, which searches one query at a time. Exact
search and faiss take turns. Memory: what the process holds for itself, so without the vectors, which are mapped.
The bars, for hnsw: recall@10 of 0.98 for both halves, and a tenth of the time of exact search, in seconds and CPU time.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import make_parser, measure_apart, peak_memory, print_table, verdict, write_results

from captioning.base.script import run_script
from captioning.retrieval.index import ImageIndex, create
from captioning.retrieval.index_types import KINDS, attach, require_faiss
from captioning.retrieval.ranking import neighbours

SIZE = 512
RECALL, SPEED = 0.98, 10
QUERIES = 200  # of each sort
TIMED = 30  # of each sort
BEST = 10

Draw = Callable[[int], np.ndarray]


def mixture(clusters: int) -> tuple[Draw, Draw]:
    """Two functions that draw so many unit vectors float32 ``(n, 512)``: photos, and sentences."""
    rng = np.random.default_rng(0)
    scale = ((1 + np.arange(SIZE) / 10) ** -1.1).astype(np.float32)
    scale /= np.linalg.norm(scale)
    mean, gap = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, SIZE), dtype=np.float32))
    centres = rng.standard_normal((clusters, SIZE), dtype=np.float32) * scale * np.float32(0.6**0.5)
    shares = np.arange(1, clusters + 1) ** -0.7
    shares /= shares.sum()

    def noise(count: int) -> np.ndarray:
        return rng.standard_normal((count, SIZE), dtype=np.float32)

    def raw(count: int) -> np.ndarray:
        which = rng.choice(clusters, count, p=shares)
        return centres[which] + noise(count) * scale * np.float32(0.4**0.5) + np.float32(0.41) * mean

    def photos(count: int) -> np.ndarray:
        found = raw(count)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def sentences(count: int) -> np.ndarray:
        found = np.float32(0.6) * (raw(count) + gap) + noise(count) * np.float32(0.5 * SIZE**-0.5)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return photos, sentences


def make(folder: Path, count: int) -> dict[str, Any]:
    """Write the index, and the queries beside it, unless they are there."""
    if (folder / "index" / "index.json").exists():
        return {}
    photos, sentences = mixture(max(20, count // 50))
    np.save(folder / "queries.npy", np.stack([photos(QUERIES), sentences(QUERIES)]))
    images = [(f"{number:07d}.jpg", (0, 0)) for number in range(count)]
    blocks = (photos(min(1024, count - start)) for start in range(0, count, 1024))
    began = time.perf_counter()
    create(folder / "index", "synthetic", "synthetic", images, {}, blocks, SIZE)
    return {"seconds": time.perf_counter() - began}


def build(folder: Path, kind: str) -> dict[str, Any]:
    """Build what faiss needs, as the first search of retrieve.py does. The time of stopped runs counts too."""
    index, spent = ImageIndex(folder / "index"), folder / f"{kind}-spent.json"
    before, began, cpu = own_memory(), time.perf_counter(), time.process_time()
    earlier = json.loads(spent.read_text()) if spent.exists() else [0, 0]

    def so_far() -> list[float]:
        return [earlier[0] + time.perf_counter() - began, earlier[1] + time.process_time() - cpu]

    def words() -> dict[str, np.ndarray]:
        return {"words": np.load(folder / "queries.npy", allow_pickle=False)[1]}

    attach(index, kind, words, lambda: spent.write_text(json.dumps(so_far())))
    seconds, cpu_seconds = so_far()
    sizes = {path.name: path.stat().st_size for path in (folder / "index").glob(f"{kind}*")}
    return {
        "stopped_before": bool(earlier[0]),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": peak_memory(),
        "own_bytes": own_memory() - before,
        "disk_bytes": sum(sizes.values()),
    }


def search(folder: Path, kind: str) -> dict[str, Any]:
    """Search one query at a time, exactly and with faiss in turns."""
    (index, opening), before = timed(lambda: ImageIndex(folder / "index"))[:2], own_memory()
    found, attaching, _ = timed(lambda: attach(index, kind))
    own = own_memory() - before
    vectors = index.vectors
    results: dict[str, Any] = {"opening_index_seconds": opening, "opening_seconds": attaching, "own_bytes": own}
    results |= {"effort": found.effort, "recall_when_built": found.recall}
    for sort, queries in zip(("photos", "words"), np.load(folder / "queries.npy", allow_pickle=False), strict=True):
        bounds = neighbours(queries, vectors, BEST)[1][:, -1:]
        hits = index.search(queries, BEST)[1] >= bounds - 1e-6
        ways = {"exact": lambda query: neighbours(query, vectors, BEST), kind: lambda query: index.search(query, BEST)}
        spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for query in queries[:TIMED]:
            for way, run in ways.items():
                spent[way].append(timed(lambda run=run, query=query: run(query[None]))[1:])
        medians = {way: [median(part) for part in zip(*pairs, strict=True)] for way, pairs in spent.items()}
        results[sort] = {"recall": float(hits.mean())}
        for number, name in enumerate(("seconds", "cpu_seconds")):
            exact, approximate = medians["exact"][number], medians[kind][number]
            results[sort] |= {f"exact_{name}": exact, name: approximate, f"ratio_of_{name}": exact / approximate}
    return results


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of ``function``, the seconds it takes, and those of all processors for it."""
    began, cpu = time.perf_counter(), time.process_time()
    found = function()
    return found, time.perf_counter() - began, time.process_time() - cpu


def own_memory() -> int:
    """The resident memory of this process without mapped files, in bytes; 0 elsewhere than on Linux."""
    try:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, help="keep vectors and indexes here, and go on with them [default: none]"
    )
    parser.add_argument("--only", choices=tuple(KINDS), help="measure this kind alone")
    parser.add_argument("--measure", nargs="+", help="one step, whose figures are printed as JSON")
    args = parser.parse_args()
    if args.measure:
        step, folder, *rest = args.measure
        steps = {"make": lambda: make(Path(folder), int(rest[0]))}
        steps |= {"build": lambda: build(Path(folder), rest[0]), "search": lambda: search(Path(folder), rest[0])}
        print(json.dumps(steps[step]()))
        return
    kinds = [args.only] if args.only else list(KINDS)
    require_faiss(kinds[0])
    import faiss

    count = 5_000 if args.quick else 1_000_000
    results: dict[str, Any] = {"vectors": count, "size": SIZE, "bars": {"recall": RECALL, "ratio": SPEED}}
    results |= {"faiss": faiss.__version__, "threads": faiss.omp_get_max_threads()}
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as temporary:
        results["index"] = measure_apart(__file__, "make", temporary, count)
        for kind in kinds:
            built = measure_apart(__file__, "build", temporary, kind)
            results[kind] = {"settings": KINDS[kind].settings, "build": built}
            results[kind]["search"] = measure_apart(__file__, "search", temporary, kind)
            report(kind, results[kind])
            if kind == "hnsw":
                results["pass"] = meets(results[kind]["search"])
                print(f"recall@10 of {RECALL} and {SPEED} times as fast wanted: {verdict(args, results['pass'])}")
            write_results(args, "vectors", results)  # ivfpq takes minutes more


def meets(found: dict[str, Any]) -> bool:
    """Whether the figures of a search meet the bars."""
    sorts = [found[sort] for sort in ("photos", "words")]
    return all(
        sort["recall"] >= RECALL and min(sort["ratio_of_seconds"], sort["ratio_of_cpu_seconds"]) >= SPEED
        for sort in sorts
    )


def report(kind: str, found: dict[str, Any]) -> None:
    """Print the figures of a kind."""
    built, searched = found["build"], found["search"]
    print(f"{kind}: built in {built['seconds']:.0f} s ({built['cpu_seconds']:.0f} s of CPU)", end=", ")
    print(f"{searched['own_bytes'] / 1e6:.0f} MB of memory, {built['disk_bytes'] / 1e6:.0f} MB on disk")
    print(
        f"opened in {searched['opening_seconds']:.1f} s after {searched['opening_index_seconds']:.1f} s for the vectors"
    )
    rows = [
        [sort, f"{part['recall']:.4f}", f"{1000 * part['exact_seconds']:.1f}", f"{1000 * part['seconds']:.2f}"]
        + [f"{part[name]:.0f}" for name in ("ratio_of_seconds", "ratio_of_cpu_seconds")]
        for sort, part in ((sort, searched[sort]) for sort in ("photos", "words"))
    ]
    print_table(["queries", "recall@10", "exact, ms", "faiss, ms", "times as fast", "in CPU time"], rows)
    sys.stdout.flush()


if __name__ == "__main__":
    run_script(main)
