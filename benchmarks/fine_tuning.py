"""How much faster fine-tuning is with folded batch norms and half precision: pictures per second.

    python benchmarks/fine_tuning.py

A step trains the soft attention decoder and all layers of a ResNet50. Each picture has five captions. Pixels, weights
and words are random. The ways take turns. The first step compiles and does not count. The median of the others counts.
An encoder that is not folded computes in float32 in any case.
"""

import time
from statistics import median

import numpy as np
from common import CAPTIONS_PER_IMAGE, make_parser, print_table, synthetic_vocabulary, write_results

from captioning.base.script import run_script
from captioning.command_line.resolving import preset


def main() -> None:
    args = make_parser(__doc__).parse_args()
    pictures, rounds, encoder = (2, 1, "efficientnet_lite0") if args.quick else (60, 3, "resnet50")

    import keras

    from captioning.features.encoder import build_encoder, let_learn
    from captioning.training.fine_tuning import PixelTrainer
    from model import Captioner

    config = preset("flickr8k-attention").with_overrides({"encoder": encoder, "encoder_weights": "none"})
    vocabulary = synthetic_vocabulary()

    def make_trainer(precision: str, folded: bool) -> PixelTrainer:
        backbone = build_encoder(config)
        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
        try:
            trainer = PixelTrainer(backbone, Captioner.untrained(config, vocabulary, backbone).decoder)
            trainer.compile(optimizer=keras.optimizers.AdamW(1e-5))
        finally:
            keras.config.set_dtype_policy("float32")
        if not folded:
            trainer.encode = backbone.__call__
        let_learn(backbone, 0)
        return trainer

    rng = np.random.default_rng(0)
    captions = rng.integers(4, len(vocabulary), (CAPTIONS_PER_IMAGE * pictures, 13), dtype="int32")
    pixels = rng.integers(0, 256, (pictures, config.image_size, config.image_size, 3), dtype="uint8")
    rows = np.repeat(np.arange(pictures, dtype="int32"), CAPTIONS_PER_IMAGE)
    trainers = {
        (precision, way): make_trainer(precision, way == "folded")
        for precision in ("float32", "bfloat16")
        for way in ("as Keras has it", "folded")
    }
    rates: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds + 1):
        for (precision, way), trainer in trainers.items():
            began = time.perf_counter()
            trainer.train_on_batch((pixels, captions[:, :-1], rows), captions[:, 1:])
            if turn:  # the first turn compiles
                rates.setdefault(precision, {}).setdefault(way, []).append(pictures / (time.perf_counter() - began))
    medians = {precision: {way: median(of) for way, of in ways.items()} for precision, ways in rates.items()}
    gain = {precision: ways["folded"] / ways["as Keras has it"] for precision, ways in medians.items()}
    print_table(
        ["pictures/s", *medians["float32"], "ratio"],
        [[name, *(f"{rate:.1f}" for rate in ways.values()), f"{gain[name]:.2f}"] for name, ways in medians.items()],
    )
    write_results(args, "fine_tuning", {"pictures_per_second": medians, "gain": gain, "runs": rates})


if __name__ == "__main__":
    run_script(main)
