"""What the benchmarks share: the import path, made-up data with the proportions of Flickr8k, and the report."""

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from captioning.features.store import FeatureStore, StoreKey, extract  # noqa: E402
from captioning.words.vocabulary import Vocabulary  # noqa: E402

if TYPE_CHECKING:
    import keras

VOCABULARY_SIZE = 2541
CAPTIONS_PER_IMAGE = 5


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the JSON file [default: benchmarks/results/NAME.json]")
    parser.add_argument(
        "--quick", action="store_true", help="use tiny sizes, only to see that it runs; the figures mean nothing"
    )
    return parser


def synthetic_vocabulary(size: int = VOCABULARY_SIZE) -> Vocabulary:
    """A vocabulary of ``size``, special tokens included. The words are w4, w5, ..., named after their ids."""
    return Vocabulary([f"w{i}" for i in range(4, size)])


def synthetic_captions(images: int, seed: int = 0, vocabulary_size: int = VOCABULARY_SIZE) -> list[tuple[str, str]]:
    """Pairs of file name and caption, five for each image, as ``CaptionBatches`` takes them.

    Lengths are like those of Flickr8k: 11 words on average, 2 to 36. The frequency of a word is proportional to 1 /
    rank.
    """
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.rint(rng.gamma(8.5, 1.3, images * CAPTIONS_PER_IMAGE)), 2, 36).astype(int)
    lengths[0] = 36  # so that data of every size pads to the same length
    ranks = 1 / np.arange(1, vocabulary_size - 3)
    words = rng.choice(np.arange(4, vocabulary_size), size=lengths.sum(), p=ranks / ranks.sum())
    ends = np.cumsum(lengths)
    captions = [" ".join(f"w{i}" for i in words[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
    return [(image_name(i // CAPTIONS_PER_IMAGE), caption) for i, caption in enumerate(captions)]


def image_name(index: int) -> str:
    return f"{index:07d}.jpg"


def make_store(folder: Path, features, images: int, shape: tuple[int, int]) -> FeatureStore:
    """A float16 store of ``images`` rows. ``features(start, stop)`` gives rows ``(stop - start, R, D)`` of it."""
    rows = iter(range(0, images, 64))

    def encode(pixels):
        start = next(rows)
        return features(start, start + len(pixels))

    key = StoreKey("synthetic", "", "", 1, 0, "float16", str(images))
    names = [image_name(i) for i in range(images)]
    return extract(folder, key, names, lambda name: np.zeros((1, 1, 3), np.uint8), encode, shape, batch_size=64)


def random_features(shape: tuple[int, int], seed: int = 0):
    """A function that gives features to ``make_store``: uniform noise."""
    rng = np.random.default_rng(seed)
    return lambda start, stop: rng.random((stop - start, *shape), dtype=np.float32)


class EpochTimer:
    """Times the epochs of ``fit``. Add ``callback()`` to its callbacks, then read ``seconds``, one number per epoch."""

    def __init__(self):
        self.seconds: list[float] = []

    def callback(self, batches=None) -> "keras.callbacks.Callback":
        """``batches``: a CaptionBatches, which shuffles every epoch anew, as in training."""
        import keras

        def begin(epoch, logs):
            if batches is not None:
                batches.start_epoch(epoch)
            self.began = time.perf_counter()

        return keras.callbacks.LambdaCallback(
            on_epoch_begin=begin, on_epoch_end=lambda epoch, logs: self.seconds.append(time.perf_counter() - self.began)
        )


def peak_memory() -> int:
    """The peak resident memory of this process, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def reset_peak_memory() -> None:
    """Let ``peak_memory`` count from now on. Only Linux can do this; elsewhere nothing happens."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure_apart(script: str, *arguments: Any, quick: bool = False, **environment: str) -> Any:
    """Run ``script --measure ARGUMENTS`` in a process of its own. Returns its last line of output, read as JSON.

    ``environment``: variables of the environment to set for it.
    """
    command = [sys.executable, script, "--measure", *map(str, arguments), *["--quick"] * quick]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_table(header: list[str], rows: list[list[Any]]) -> None:
    """Print aligned columns: the first to the left, all others to the right."""
    cells = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        print(row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)))


def verdict(args: argparse.Namespace, passed: bool) -> str:
    """Whether a figure meets its bar, in words. Runs with --quick are not judged."""
    return "not judged (--quick)" if args.quick else "pass" if passed else "FAIL"


def write_results(args: argparse.Namespace, name: str, results: dict[str, Any]) -> None:
    """Write ``results`` as JSON, with the machine that they come from."""
    output = args.output or ROOT / "benchmarks" / "results" / f"{name}{'-quick' if args.quick else ''}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"benchmark": name, **describe_machine(), **results}, indent=2) + "\n")
    print(f"written: {output}")


def describe_machine() -> dict[str, Any]:
    """The command, date, processor, load and versions."""
    import keras

    from captioning.base.environment import cpu_model, devices, package_versions

    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "devices": devices(),
            "load_average_15_min": round(os.getloadavg()[2], 2),
            "platform": platform.platform(),
        },
        "versions": {"python": platform.python_version(), "backend": keras.backend.backend(), **package_versions()},
    }
