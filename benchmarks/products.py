"""The share of a training step's time that is not spent in matrix products, for each decoder.

    python benchmarks/products.py

Profiles training steps on batches with Flickr8k's proportions, and adds up the time of the kernels over all threads.
Each decoder has the sizes of its flickr8k preset. As in training, five captions share an image where the decoder looks
at regions. With the others each caption has an image of its own.

This works on TensorFlow and PyTorch. On JAX, XLA fuses products with other operations, so they have no time of their
own. There is no bar.
"""

import tempfile
from pathlib import Path

import numpy as np
from backends import REGIONS, TINY
from common import CAPTIONS_PER_IMAGE, VOCABULARY_SIZE, make_parser, print_table, write_results
from throughput import FEATURE_SIZE

from captioning.base.errors import UserError
from captioning.base.script import run_script
from captioning.command_line.resolving import preset

WORDS = 12  # words of a caption, <end> included
STEPS = 5


def tensorflow_kernels(step) -> dict[str, float]:
    """Nanoseconds per kind of kernel while ``step()`` runs."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            step()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    spent: dict[str, float] = {}
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            node, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if "/" in node:  # the event is of a node of the graph
                spent[kind] = spent.get(kind, 0) + event.duration_ps / 1000
    return spent


def torch_kernels(step) -> dict[str, float]:
    """Microseconds per kind of kernel while ``step()`` runs."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    return {event.key: event.self_cpu_time_total for event in profile.key_averages()}


def is_product(kind: str) -> bool:
    return "MatMul" in kind or kind in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def main() -> None:
    args = make_parser(__doc__).parse_args()
    import keras

    from captioning.decoders.build import build_decoder, decoder_class
    from captioning.training.cross_entropy import CaptionTrainer
    from captioning.training.optimizers import make_optimizer

    kernels = {"tensorflow": tensorflow_kernels, "torch": torch_kernels}.get(keras.backend.backend())
    if not kernels:
        raise UserError(
            f"KERAS_BACKEND: {keras.backend.backend()} cannot be measured here; set it to tensorflow or torch"
        )
    rng = np.random.default_rng(0)
    names = ["merge", "attention"] if args.quick else list(REGIONS)
    shares = {}
    for name in names:
        regions = REGIONS[name]
        config = preset(f"flickr8k-{name}").with_overrides(TINY | {"batch_size": 2} if args.quick else {})
        trainer = CaptionTrainer(
            build_decoder(config, VOCABULARY_SIZE, regions, FEATURE_SIZE), config.label_smoothing, config.word_dropout
        )
        trainer.compile(optimizer=make_optimizer(config, 100))
        each = CAPTIONS_PER_IMAGE if decoder_class(name).by_image else 1
        images = -(-config.batch_size // each)
        features = rng.random((images, regions, FEATURE_SIZE), dtype=np.float32).astype("float16")
        tokens = rng.integers(4, VOCABULARY_SIZE, (images, *[each] * (each > 1), WORDS + 1), dtype=np.int32)

        def step(trainer=trainer, features=features, tokens=tokens):
            trainer.train_on_batch((features, tokens[..., :-1]), tokens[..., 1:])

        step()  # compiles
        spent = kernels(lambda step=step: [step() for _ in range(STEPS)])
        shares[name] = 1 - sum(time for kind, time in spent.items() if is_product(kind)) / sum(spent.values())
    print_table(
        ["share outside matrix products", *names],
        [[keras.backend.backend(), *(f"{share:.0%}" for share in shares.values())]],
    )
    write_results(args, f"products-{keras.backend.backend()}", {"share_outside_products": shares})


if __name__ == "__main__":
    run_script(main)
