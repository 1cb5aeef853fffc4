"""The cost of wider beams, consensus, rules and variety: the pocket captioner's search over a batch of 100 features.

    python benchmarks/beams.py
    python benchmarks/beams.py --rules      # the cost of n-gram, prefix, excluded and required words
    python benchmarks/beams.py --variety    # the cost of ten captions by diverse beam search, and drawn

Encodes made-up photographs once. Then each way of searching captions the features, in turns. The first turn compiles
and does not count. The median of the others counts.

With --rules and --variety every caption has exactly 12 words, so every search takes equally many steps. The bar is for
the time of rules against the search without rules. CPU seconds are those of all cores, and hardly depend on other work
on the machine.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from common import make_parser, print_table, verdict, write_results
from folder import make_photographs

from captioning.base.script import run_script
from config import POCKET, Config, search_name

if TYPE_CHECKING:
    from model import Captioner

SEARCHES = [
    {"beam_size": 1},
    {"beam_size": 3},
    {"beam_size": 5},
    {"beam_size": 20},
    {"beam_size": 20, "consensus": True},
]
WORDS = 12
BARE = {"min_length": WORDS, "max_caption_length": WORDS, "no_repeat_ngram": 0}
RULES = {
    "no rules": {},
    "no bigram twice": {"no_repeat_ngram": 2},
    "a prefix": {"prefix": "a photo of"},
    "excluded words": {"exclude_words": ["dog", "red shirt"]},
    "required words": {"include": ["dog", "grass"]},
    "all of these": {
        "no_repeat_ngram": 2,
        "prefix": "a photo of",
        "exclude_words": ["cat", "red shirt"],
        "include": ["dog", "grass"],
    },
}
BAR = 1.3  # times the search without rules
DRAWN = {"do_sample": True, "num_captions": 10}
VARIETY = {
    "beam 10": {"beam_size": 10},
    "5 groups": {"beam_size": 10, "beam_groups": 5},
    "10 groups": {"beam_size": 10, "beam_groups": 10},
    "drawn": DRAWN,
    "drawn, top-k 50": {**DRAWN, "top_k": 50},
    "drawn, top-p 0.9": {**DRAWN, "top_p": 0.9},
    "drawn, typical-p 0.9": {**DRAWN, "typical_p": 0.9},
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rules", action="store_true", help="time the rules in place of the beams")
    parser.add_argument("--variety", action="store_true", help="time ten captions that differ in place of the beams")
    parser.add_argument("--rounds", type=int, default=7, help="turns that count [default: 7]")
    args = parser.parse_args()
    count, rounds = (4, 1) if args.quick else (100, args.rounds)

    from captioning.pictures.loading import load_image
    from model import Captioner

    captioner = Captioner.load(POCKET)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photographs")
        make_photographs(folder, count)
        pixels = [load_image(path, captioner.config.image_size) for path in sorted(folder.iterdir())]
    features = captioner.encode(np.stack(pixels).astype("float32"))

    measure = time_rules if args.rules else time_variety if args.variety else time_beams
    measure(args, captioner, features, rounds)


def time_beams(args: argparse.Namespace, captioner: "Captioner", features: np.ndarray, rounds: int) -> None:
    configs = [captioner.config.with_overrides(search) for search in SEARCHES]
    seconds, _ = take_turns(captioner, features, {search_name(config): config for config in configs}, rounds)
    medians = {name: median(found) for name, found in seconds.items()}
    ratios = {name: taken / medians["beam 3"] for name, taken in medians.items()}
    count = len(features)
    print_table(
        ["", "pictures", "seconds", "pictures/s", "times beam 3"],
        [
            [name, count, f"{taken:.2f}", f"{count / taken:,.0f}", f"{ratios[name]:.2f}"]
            for name, taken in medians.items()
        ],
    )
    write_results(args, "beams", {"pictures": count, "seconds": seconds, "times_beam_3": ratios})


def time_rules(args: argparse.Namespace, captioner: "Captioner", features: np.ndarray, rounds: int) -> None:
    results, rows = {}, []
    for beam_size in (3,) if args.quick else (3, 10):
        bare = captioner.config.with_overrides({**BARE, "beam_size": beam_size})
        configs = {name: bare.with_overrides(rules) for name, rules in RULES.items()}
        seconds, cpu_seconds = take_turns(captioner, features, configs, rounds)
        ratios = {}
        for name in configs:
            ratio, cpu_ratio = (median(each[name]) / median(each["no rules"]) for each in (seconds, cpu_seconds))
            ratios[name] = {"seconds": ratio, "cpu_seconds": cpu_ratio}
            rows.append(
                [
                    f"beam {beam_size}, {name}",
                    *(
                        f"{figure:.2f}"
                        for figure in (median(seconds[name]), ratio, median(cpu_seconds[name]), cpu_ratio)
                    ),
                    verdict(args, cpu_ratio <= BAR),
                ]
            )
        results[f"beam {beam_size}"] = {"seconds": seconds, "cpu_seconds": cpu_seconds, "times_no_rules": ratios}
    print_table(["", "seconds", "times no rules", "CPU seconds", "times no rules", f"at most {BAR}"], rows)
    write_results(args, "beams_rules", {"pictures": len(features), "words": WORDS, **results})


def time_variety(args: argparse.Namespace, captioner: "Captioner", features: np.ndarray, rounds: int) -> None:
    bare = captioner.config.with_overrides(BARE)
    configs = {name: bare.with_overrides(search) for name, search in VARIETY.items()}
    seconds, cpu_seconds = take_turns(captioner, features, configs, rounds)
    ratios, rows = {}, []
    for name in configs:
        ratio, cpu_ratio = (median(each[name]) / median(each["beam 10"]) for each in (seconds, cpu_seconds))
        ratios[name] = {"seconds": ratio, "cpu_seconds": cpu_ratio}
        figures = (median(seconds[name]), ratio, median(cpu_seconds[name]), cpu_ratio)
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])
    print_table(["", "seconds", "times beam 10", "CPU seconds", "times beam 10"], rows)
    results = {"seconds": seconds, "cpu_seconds": cpu_seconds, "times_beam_10": ratios}
    write_results(args, "beams_variety", {"pictures": len(features), "words": WORDS, **results})


def take_turns(
    captioner: "Captioner", features: np.ndarray, configs: Mapping[str, Config], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The seconds and the CPU seconds that each search took in each round, by its name."""
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in configs}
    for turn in range(1 + rounds):
        for name, config in configs.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            captioner.caption(features, config)
            if turn:
                seconds[name].append(time.perf_counter() - began)
                cpu_seconds[name].append(time.process_time() - cpu_began)
    return seconds, cpu_seconds


if __name__ == "__main__":
    run_script(main)
