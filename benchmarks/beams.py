"""The cost of wider beams and of consensus: the pocket captioner's search over one batch of 100 features.

    python benchmarks/beams.py

Encodes made-up photographs once. Then each way of searching captions the features, in turns. The first turn compiles and
does not count. The median of the others counts.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from common import make_parser, print_table, write_results
from folder import make_photographs

from captioning.base.script import run_script
from config import POCKET, search_name

SEARCHES = [
    {"beam_size": 1},
    {"beam_size": 3},
    {"beam_size": 5},
    {"beam_size": 20},
    {"beam_size": 20, "consensus": True},
]


def main() -> None:
    args = make_parser(__doc__).parse_args()
    count, rounds = (4, 1) if args.quick else (100, 7)

    from captioning.pictures.loading import load_image
    from model import Captioner

    captioner = Captioner.load(POCKET)
    searches = [captioner.config.with_overrides(search) for search in SEARCHES]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photographs")
        make_photographs(folder, count)
        pixels = [load_image(path, captioner.config.image_size) for path in sorted(folder.iterdir())]
    features = captioner.encode(np.stack(pixels).astype("float32"))

    seconds: dict[str, list[float]] = {search_name(search): [] for search in searches}
    for turn in range(1 + rounds):
        for search in searches:
            began = time.perf_counter()
            captioner.caption(features, search)
            if turn:
                seconds[search_name(search)].append(time.perf_counter() - began)
    medians = {name: median(found) for name, found in seconds.items()}
    ratios = {name: taken / medians["beam 3"] for name, taken in medians.items()}
    print_table(
        ["", "pictures", "seconds", "pictures/s", "times beam 3"],
        [
            [name, count, f"{taken:.2f}", f"{count / taken:,.0f}", f"{ratios[name]:.2f}"]
            for name, taken in medians.items()
        ],
    )
    write_results(args, "beams", {"pictures": count, "seconds": seconds, "times_beam_3": ratios})


if __name__ == "__main__":
    run_script(main)
