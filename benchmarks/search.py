"""The time of a search over an index of 100,000 images: from the words of a query to its ten best images.

    python benchmarks/search.py

Builds an index as retrieve.py does, in a temporary folder. The vectors are random unit vectors of the default size, and
empty files stand for the photos. Measures opening the index, embedding a query, and searching. The text tower has the
default size. It is untrained, which costs as much.

The first query includes compilation, and reading the vectors from the disk unless the system has kept them in memory.
The median of the 20 queries after it counts. The time to add 100 images is measured too.
The bar: a query after the first takes at most half a second.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import make_parser, print_table, synthetic_vocabulary, verdict, write_results

from captioning.base.script import run_script
from captioning.retrieval.index import ImageIndex, update
from config import PRESETS, Config

BAR = 0.5
REPEATS = 20


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result of ``function``, and the seconds it takes."""
    began = time.perf_counter()
    found = function()
    return found, time.perf_counter() - began


def embed(names):
    """Random unit vectors, a thousand at a time."""
    rng = np.random.default_rng(len(names))
    for start in range(0, len(names), 1000):
        batch = names[start : start + 1000]
        vectors = rng.standard_normal((len(batch), SIZE), dtype=np.float32)
        yield batch, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), {}


SETTINGS = {"stage": "align", **{name: PRESETS["flickr8k-align"].settings[name] for name in ("monitor", "hidden_size")}}
SIZE = Config(**SETTINGS).joint_size


def main() -> None:
    args = make_parser(__doc__).parse_args()
    images = 1000 if args.quick else 100_000
    from captioning.retrieval.aligner import Aligner
    from captioning.retrieval.towers import build_towers

    config, vocabulary = Config(**SETTINGS), synthetic_vocabulary()
    aligner = Aligner(config, vocabulary, None, build_towers(config, len(vocabulary), 2048))
    query = "w10 w11 w200 w12 w30 w400 w8"
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = {f"{i:07d}.jpg": folder / f"{i:07d}.jpg" for i in range(images + 100)}
        for path in paths.values():
            path.touch()
        first = dict(list(paths.items())[:images])
        _, seconds["building (vectors given)"] = timed(lambda: update(folder / "index", "m", "s", first, embed, SIZE))
        index, seconds["opening"] = timed(lambda: ImageIndex(folder / "index"))
        vector, seconds["embedding the query, first"] = timed(lambda: aligner.embed_texts([query]))
        _, seconds["searching, first"] = timed(lambda: index.search(vector, 10))
        embedding = [timed(lambda: aligner.embed_texts([query]))[1] for _ in range(REPEATS)]
        searching = [timed(lambda: index.search(vector, 10))[1] for _ in range(REPEATS)]
        seconds |= {"embedding the query, after": median(embedding), "searching, after": median(searching)}
        _, seconds["finding that nothing is new"] = timed(
            lambda: update(folder / "index", "m", "s", first, embed, SIZE)
        )
        _, seconds["adding 100 images (vectors given)"] = timed(
            lambda: update(folder / "index", "m", "s", paths, embed, SIZE)
        )
        size = sum(path.stat().st_size for path in (folder / "index").iterdir())
    print_table(["", "seconds"], [[name, f"{value:.3f}"] for name, value in seconds.items()])
    query_seconds = seconds["embedding the query, after"] + seconds["searching, after"]
    passed = query_seconds <= BAR
    print(f"{images:,} images, {size / 1e6:,.0f} MB on disk")
    print(f"a query: {query_seconds:.3f} s, at most {BAR} s wanted: {verdict(args, passed)}")
    results = {"bar": BAR, "pass": passed, "images": images, "bytes": size, "query_seconds": query_seconds}
    write_results(args, "search", results | {"seconds": seconds})


if __name__ == "__main__":
    run_script(main)
