"""How much faster training is than in another version of this project, or by other code: the two take turns.

    git worktree add ../before f2e07bc~1
    python benchmarks/turns.py ../before xe
    python benchmarks/turns.py ../before scst
    python benchmarks/turns.py ../a-PyTorch-Tutorial-to-Image-Captioning sgrvinod-128

"xe" is the training of the attention decoder with cross-entropy, in the sizes of preset flickr8k-attention. "scst" is
self-critical training of the pocket captioner's decoder. Features, captions and rewards are made up.
"sgrvinod-32" and "sgrvinod-128" compare "xe" with the PyTorch decoder in a checkout of
https://github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, trained by its recipe on the same features, with the
same sizes of words, states and attention. The number is that of its captions per batch. Its own is 32, ours 128.
``--precision`` and ``--precision-before`` set in what ours and the other code compute. PyTorch casts by autocast.

Each version has a process of its own. While one trains some batches, the other waits. So what else the machine does
falls on both. The first turns compile and do not count. The words and seconds of all others are added up, because the
batches of an epoch differ in length. With "xe" our 100 batches are two whole epochs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, make_parser, print_table, write_results

from captioning.base.script import run_script

PRECISIONS = ("float32", "bfloat16")


def start(checkout: Path, way: str, weights: Path, precision: str) -> subprocess.Popen:
    learner = str(ROOT / "benchmarks" / "learner.py")
    command = [sys.executable, learner, str(checkout.resolve()), way, str(weights), precision]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout)


def take_turn(learner: subprocess.Popen, batches: int) -> dict[str, float]:
    """The words, seconds and seconds of CPU time of so many ``batches``."""
    assert learner.stdin
    assert learner.stdout
    learner.stdin.write(f"{batches}\n")
    learner.stdin.flush()
    line = learner.stdout.readline()
    if not line:
        raise SystemExit(f"{learner.args}: it ended; its messages stand above")
    seconds, cpu_seconds, words = json.loads(line)
    return {"words": words, "seconds": seconds, "cpu_seconds": cpu_seconds}


def total(turns: list[dict[str, float]], name: str) -> float:
    return sum(turn[name] for turn in turns)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("before", type=Path, help="a folder with the other code")
    parser.add_argument("way", choices=("xe", "scst", "sgrvinod-32", "sgrvinod-128"), help="what is trained")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of our code [default: float32]")
    parser.add_argument(
        "--precision-before", choices=PRECISIONS, default=PRECISIONS[0], help="of the other code [default: float32]"
    )
    args = parser.parse_args()
    now = "scst" if args.way == "scst" else "xe"
    batches, warm, turns = (1, 1, 1) if args.quick else (10, 12, 10)
    found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        if args.way == "scst":  # only a trained decoder draws captions of the usual lengths
            from model import Captioner

            np.savez(weights, *Captioner.load(ROOT / "pretrained" / "pocket.zip").decoder.get_weights())
        learners = {
            "before": start(args.before, args.way, weights, args.precision_before),
            "now": start(ROOT, now, weights, args.precision),
        }
        for turn in range(turns + 1):
            for name, learner in learners.items():
                speed = take_turn(learner, batches if turn else warm)
                if turn:
                    found[name].append(speed)
        for learner in learners.values():
            learner.communicate()  # it ends with its input, and removes its features
    speeds = {
        name: [total(of, "words") / total(of, unit) for unit in ("seconds", "cpu_seconds")]
        for name, of in found.items()
    }
    ratios = [now / before for before, now in zip(speeds["before"], speeds["now"], strict=True)]
    print_table(
        ["", "words/s", "words per second of CPU time"],
        [[name, *(f"{speed:,.0f}" for speed in of)] for name, of in speeds.items()]
        + [["ratio", *(f"{ratio:.2f}" for ratio in ratios)]],
    )
    git = ["git", "-C", str(args.before), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    precisions = (args.precision_before, args.precision)
    named = () if precisions == ("float32", "float32") else precisions
    write_results(
        args,
        "_".join(["turns", *args.way.split("-"), *named]),
        {"before": commit, "ratios": dict(zip(("seconds", "cpu_seconds"), ratios, strict=True)), "turns": found},
    )


if __name__ == "__main__":
    run_script(main)
