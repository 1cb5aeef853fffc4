"""The cost of starting a run on data of MS-COCO's size: seconds and peak memory of each step before the first batch.

    python benchmarks/coco_scale.py

Writes made-up data in COCO's layout: two captions files with 617,000 captions in all, 123,287 empty image files (the
readers open none), and a feature store with 25 GB of zeros. The store is a sparse file, which takes no space. Then the
steps of train.py are timed. The extraction of features is not measured. Nor is the disk, which decides how fast real
features come: a batch from a sparse file shows only the cost of the reading itself.

Peak memory is that of the process during the step. On other systems than Linux it is that since the start of the
process.

The same steps run with a sixteenth of the data, and a decoder of as many words. They show how the memory of training
grows with the data. TensorFlow's own memory differs by a fifth from run to run. So both sizes run in turn, several
times, and their medians are compared.
The bar: at most a minute of CPU time and 2 GB before the first batch, and 5% more memory in training than with the
sixteenth.
"""

import argparse
import collections
import importlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    make_parser,
    measure_apart,
    peak_memory,
    print_table,
    reset_peak_memory,
    synthetic_captions,
    verdict,
    write_results,
)

from captioning.base.script import run_script
from captioning.command_line.resolving import preset
from captioning.features.store import FeatureStore, StoreKey, digest_images
from config import Config
from preprocessing import fit_vocabulary, load_dataset

TRAIN, VAL = 118_287, 5_000  # images of COCO 2017
WORDS = 12_000  # different words; about 10,000 of COCO's occur five times
DECODER_WORDS = WORDS + 2  # the vocabulary of the whole data: these words, "a" and "'s"
SHAPE = (49, 2048)
SMALL = 16  # memory is compared with that for a sixteenth of the data, which is Flickr8k's size
BATCHES = 50  # batches to read with their features
TRAINED = 20  # batches to train for
REPEATS = 9
BAR_SECONDS, BAR_BYTES, BAR_GROWTH = 60, 2e9, 0.05


def write_coco(folder: Path, part: str, first_id: int, images: int) -> list[str]:
    """Write the captions file and the empty image files of ``part``. Returns the names of the images."""
    ids = [first_id + 4 * i for i in range(images)]  # COCO's ids have gaps
    (folder / part).mkdir(parents=True)
    for image_id in ids:
        (folder / part / f"{image_id:012d}.jpg").touch()
    listed = [
        {
            "license": 4,
            "file_name": f"{image_id:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/{part}/{image_id:012d}.jpg",
            "height": 427,
            "width": 640,
            "date_captured": "2013-11-20 22:56:00",
            "flickr_url": "http://farm9.staticflickr.com/8292/0000000000_0000000000_z.jpg",
            "id": image_id,
        }
        for image_id in ids
    ]
    captions = [caption for _, caption in synthetic_captions(images, seed=first_id, vocabulary_size=WORDS)]
    captions[::9] = [
        f"{caption}'s" for caption in captions[::9]
    ]  # in COCO about as many captions need more than splitting at spaces
    annotations = [{"image_id": ids[i // 5], "id": i, "caption": f"A {caption}."} for i, caption in enumerate(captions)]
    path = folder / "annotations" / f"captions_{part}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"info": {}, "licenses": [], "images": listed, "annotations": annotations}))
    return [image["file_name"] for image in listed]


def sparse_store(folder: Path, names: list[str]) -> None:
    """Write a finished store of zeros for the images ``names``."""
    folder.mkdir()
    shape = (len(names), *SHAPE)
    with open(folder / "features.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 2 * int(np.prod(shape)))
    key = StoreKey("synthetic", "", "", 1, 0, "float16", str(len(names)))
    (folder / "key.json").write_text(json.dumps(asdict(key)))
    rows = {name: row for row, name in enumerate(sorted(names))}
    (folder / "index.json").write_text(json.dumps({"rows": rows, "unreadable": {}}, indent=0))


class Steps:
    """Runs steps, and keeps the seconds, the CPU seconds and the peak memory of each in ``found``."""

    def __init__(self):
        self.found: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        reset_peak_memory()
        began, worked = time.perf_counter(), time.process_time()
        result = step()
        self.found[name] = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - worked,
            "peak": peak_memory(),
        }
        return result


def train(batches, steps: int) -> None:
    """Train the decoder of the preset coco-attention for a few batches."""
    from captioning.decoders.build import build_decoder
    from captioning.training.cross_entropy import CaptionTrainer
    from captioning.training.optimizers import make_optimizer

    config = preset("coco-attention")
    trainer = CaptionTrainer(build_decoder(config, DECODER_WORDS, *SHAPE), attention_penalty=config.attention_penalty)
    trainer.compile(optimizer=make_optimizer(config, len(batches)))
    trainer.fit(batches, steps_per_epoch=steps, verbose=0)


def write_data(folder: Path, scale: int) -> None:
    """Write data of 1 / ``scale`` of COCO's size, with its features, into ``folder``."""
    names = []
    for part, first_id, images in (("train2017", 9, TRAIN), ("val2017", 139, VAL)):
        names += write_coco(folder, part, first_id, images // scale)
    sparse_store(folder / "store", names)


def lay_out(folder: Path, steps: Steps) -> tuple[Any, Any, int]:
    """Time everything before the first batch.

    Returns the batches, the data that training keeps, and the number of words.
    """
    config = Config(dataset="coco", data_dir=str(folder))
    dataset = steps("read the captions files, list the images", lambda: load_dataset(config))
    vocabulary = steps("fit the vocabulary", lambda: fit_vocabulary(config, dataset))
    steps("import Keras", lambda: importlib.import_module("captioning.training.batches"))
    from captioning.features.prepared import Prepared
    from captioning.training.batches import CaptionBatches

    images = ((record.file_name, record.path) for record in dataset.records)
    steps("digest of names and sizes of the images", lambda: digest_images(images))
    store = steps("open the feature store", lambda: FeatureStore(folder / "store"))
    prepared = Prepared(dataset, None, store)
    batches = steps(
        "encode the training captions",
        lambda: CaptionBatches(store, prepared.captions("train"), vocabulary, config),
    )
    return batches, prepared, len(vocabulary)


def run_steps(folder: Path, trained: int) -> dict[str, Any]:
    """Time everything that training does with the data in ``folder``, up to ``trained`` batches.

    Runs in its own process.
    """
    steps = Steps()
    batches, prepared, words = lay_out(folder, steps)
    before = {name: sum(step[name] for step in steps.found.values()) for name in ("seconds", "cpu_seconds")}
    before["peak"] = max(step["peak"] for step in steps.found.values())
    steps("lay out the batches of another epoch", lambda: batches.start_epoch(1))
    some = range(0, len(batches), -(-len(batches) // BATCHES))
    steps(
        f"read {len(some)} of its {len(batches):,} batches",
        lambda: collections.deque(map(batches.__getitem__, some), 0),
    )
    steps(f"train for {trained} batches", lambda: train(batches, trained))
    files = [*folder.glob("annotations/*.json"), folder / "store" / "features.npy", folder / "store" / "index.json"]
    records = prepared.dataset.records
    return {
        "images": len(records),
        "captions": sum(len(record.captions) for record in records),
        "words": words,
        "before_the_first_batch": before,
        "steps": steps.found,
        "file_bytes": {path.name: path.stat().st_size for path in files},
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(run_steps(args.measure, 1 if args.quick else TRAINED)))
        return

    scale, repeats = (60, 1) if args.quick else (1, REPEATS)
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, size) for size in ("whole", "part")]
        for folder, factor in zip(folders, (1, SMALL), strict=True):
            write_data(folder, scale * factor)
        runs = [[measure_apart(__file__, folder, quick=args.quick) for folder in folders] for _ in range(repeats)]
    whole, small = runs[0]
    before = whole["before_the_first_batch"]
    print_table(
        ["", "seconds", "CPU seconds", "peak MB"],
        [
            [name, f"{step['seconds']:.2f}", f"{step['cpu_seconds']:.2f}", f"{step['peak'] / 1e6:,.0f}"]
            for name, step in (whole["steps"] | {"all before the first batch": before}).items()
        ],
    )
    print(", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in whole["file_bytes"].items()))
    fast = before["cpu_seconds"] <= BAR_SECONDS and before["peak"] <= BAR_BYTES
    print(
        f"at most {BAR_SECONDS} CPU seconds and {BAR_BYTES / 1e6:,.0f} MB before the first batch: {verdict(args, fast)}"
    )
    peaks = [[list(found["steps"].values())[-1]["peak"] for found in of_size] for of_size in zip(*runs, strict=True)]
    middle, middle_small = map(statistics.median, peaks)
    growth = middle / middle_small - 1
    bounded = growth <= BAR_GROWTH
    print(
        f"in training {middle / 1e6:,.0f} MB, with 1/{SMALL} of the data {middle_small / 1e6:,.0f} MB: {growth:+.1%}, "
        f"at most {BAR_GROWTH:+.0%} wanted: {verdict(args, bounded)}"
    )
    write_results(
        args,
        "coco_scale",
        {
            "bar": {"cpu_seconds": BAR_SECONDS, "bytes": BAR_BYTES, "growth_in_training": BAR_GROWTH},
            "pass": fast and bounded,
            "growth_in_training": growth,
            "peaks_in_training": {"whole": peaks[0], f"1/{SMALL}": peaks[1]},
            **whole,
            f"with 1/{SMALL} of the data": small,
        },
    )


if __name__ == "__main__":
    run_script(main)
