"""Captioning speed from stored features: 1,000 images at once, against the classic predict for every word.

    python benchmarks/captioning.py

Trains a merge decoder of default size for a moment on synthetic captions of about ten words, so that captions end where
captions end, then captions the images of a store with Captioner.caption: beam search of 3 and greedy search, first call
(with compilation) and after. The classic loop (benchmarks/classic.py, the same weights) captions one image at a time and
one beam at a time with ``predict``; it is timed on the first images and scaled up.
The bar: with a beam of 3, compilation included, at least 100 times faster.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from common import image_name, make_parser, make_store, print_table, synthetic_vocabulary, verdict, write_results

from captioning.base.script import run_script
from config import Config

FEATURE_SIZE = 2048
SENTENCES = 40
BAR = 100


def sentences() -> list[str]:
    """Made-up sentences of 7 to 14 words (mean 10.5) that share no word, so that a decoder learns them fast."""
    lengths = 7 + np.arange(SENTENCES) % 8
    starts = 4 + np.cumsum(lengths) - lengths
    return [" ".join(f"w{start + i}" for i in range(n)) for start, n in zip(starts, lengths, strict=True)]


def main() -> None:
    args = make_parser(__doc__).parse_args()
    images, timed, epochs = (100, 1, 2) if args.quick else (1000, 20, 8)
    import classic
    import keras

    from captioning.decoders.build import build_decoder
    from captioning.features.batches import FeatureBatches
    from captioning.training.batches import CaptionBatches
    from captioning.training.cross_entropy import CaptionTrainer
    from captioning.training.optimizers import make_optimizer
    from model import Captioner

    keras.utils.set_random_seed(0)
    config = Config(decoder="merge", learning_rate=3e-3, epochs=epochs)
    vocabulary = synthetic_vocabulary()
    rng = np.random.default_rng(0)
    # Each image shows one of the sentences: a pattern of its own, and noise.
    patterns = rng.random((SENTENCES, FEATURE_SIZE))

    def features(start, stop):
        shown = np.arange(start, stop) % SENTENCES
        return (patterns[shown] + 0.3 * rng.random((stop - start, FEATURE_SIZE)))[:, None, :]

    names = [image_name(i) for i in range(images)]
    captions = [(name, sentences()[i % SENTENCES]) for i, name in enumerate(names)] * 5
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), features, images, (1, FEATURE_SIZE))
        batches = CaptionBatches(store, captions, vocabulary, config)
        decoder = build_decoder(config, len(vocabulary), 1, FEATURE_SIZE)
        trainer = CaptionTrainer(decoder)
        trainer.compile(optimizer=make_optimizer(config, len(batches)))
        trainer.fit(batches, epochs=epochs, verbose=0)

        captioner = Captioner(config, vocabulary, None, decoder)
        rows = FeatureBatches(store, names, config.decode_batch_size)
        rates, table = {}, []

        def record(name, seconds, count, words):
            rates[name] = {"images_per_second": count / seconds, "images_timed": count, "mean_words": words}
            table.append([name, count, f"{seconds:.2f}", f"{count / seconds:,.1f}", f"{words:.1f}"])

        for name, beam_size in (("beam 3", 3), ("greedy", 1)):
            for call in ("first call", "after"):
                began = time.perf_counter()
                found = captioner.caption(rows, config.with_overrides({"beam_size": beam_size}))
                seconds = time.perf_counter() - began
                words = np.mean([len(hypotheses[0].text.split()) for hypotheses in found[:images]])
                record(f"ours, {name}, {call}", seconds, images, float(words))

        # As long as the longest prefix of Flickr8k, to which the classic code pads.
        max_length = 37
        model = classic.build_model(config, len(vocabulary), FEATURE_SIZE, max_length)
        classic.copy_weights(decoder, model)
        inputs = store.read(np.arange(timed))[:, 0].astype("float32")
        classic.beam_search(model, inputs[0], max_length, 3)  # compiles
        began = time.perf_counter()
        found = [classic.beam_search(model, image, max_length, 3) for image in inputs]
        seconds = time.perf_counter() - began
        record("classic, beam 3", seconds, timed, float(np.mean([len(tokens) for tokens in found])))

    print_table(["", "images", "seconds", "images/s", "words/caption"], table)
    slow = rates["classic, beam 3"]["images_per_second"]
    ratios = {call: rates[f"ours, beam 3, {call}"]["images_per_second"] / slow for call in ("first call", "after")}
    passed = ratios["first call"] >= BAR
    print(f"classic, {images:,} images: {images / slow:,.0f} s when scaled up from {timed}")
    print(
        f"ours with beam 3: {ratios['first call']:,.0f} x the classic speed with compilation, {ratios['after']:,.0f} x "
        f"after; {verdict(args, passed)}"
    )
    write_results(args, "captioning", {"bar": BAR, "rates": rates, "ratio": ratios, "pass": passed})


if __name__ == "__main__":
    run_script(main)
