"""The speed of captioning from stored features: 1,000 images at once, against the classic ``predict`` for every word.

    python benchmarks/captioning.py

Trains a merge decoder of default size for a moment on made-up captions of about ten words, so that its captions have a
natural length. Then captions the images of a store with Captioner.caption, by beam search of 3 and by greedy search.
The first call includes compilation. A later call does not.

The classic loop (benchmarks/classic.py) has the same weights. It captions one image and one beam at a time with
``predict``. It is timed on the first images and scaled up.
The bar: with a beam of 3, compilation included, at least 100 times as fast.
"""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import image_name, make_parser, make_store, print_table, synthetic_vocabulary, verdict, write_results

from captioning.base.script import run_script
from captioning.features.store import FeatureStore
from config import Config

if TYPE_CHECKING:
    from model import Captioner

FEATURE_SIZE = 2048
SENTENCES = 40
LONGEST_PREFIX = 37  # words of the longest prefix of Flickr8k, to which the classic code pads
BAR = 100


def sentences() -> list[str]:
    """Made-up sentences of 7 to 14 words (mean 10.5). They share no word, so a decoder learns them fast."""
    lengths = 7 + np.arange(SENTENCES) % 8
    starts = 4 + np.cumsum(lengths) - lengths
    return [" ".join(f"w{start + i}" for i in range(n)) for start, n in zip(starts, lengths, strict=True)]


def make_data(folder: Path, images: int) -> tuple[FeatureStore, list[tuple[str, str]]]:
    """A store of features, and pairs of file name and caption, five for each image.

    Each image shows one of the sentences: its features are the pattern of the sentence, and noise.
    """
    rng = np.random.default_rng(0)
    patterns = rng.random((SENTENCES, FEATURE_SIZE))

    def features(start, stop):
        shown = np.arange(start, stop) % SENTENCES
        return (patterns[shown] + 0.3 * rng.random((stop - start, FEATURE_SIZE)))[:, None, :]

    store = make_store(folder, features, images, (1, FEATURE_SIZE))
    return store, [(image_name(i), sentences()[i % SENTENCES]) for i in range(images)] * 5


def train(config: Config, store: FeatureStore, captions: list[tuple[str, str]]) -> "Captioner":
    """A captioner whose decoder has trained for a moment. It has no encoder."""
    from captioning.decoders.build import build_decoder
    from captioning.training.batches import CaptionBatches
    from captioning.training.cross_entropy import CaptionTrainer
    from captioning.training.optimizers import make_optimizer
    from model import Captioner

    vocabulary = synthetic_vocabulary()
    batches = CaptionBatches(store, captions, vocabulary, config)
    decoder = build_decoder(config, len(vocabulary), 1, FEATURE_SIZE)
    trainer = CaptionTrainer(decoder)
    trainer.compile(optimizer=make_optimizer(config, len(batches)))
    trainer.fit(batches, epochs=config.epochs, verbose=0)
    return Captioner(config, vocabulary, None, decoder)


def time_ours(captioner: "Captioner", store: FeatureStore, beam_size: int) -> tuple[float, float]:
    """Caption all images of the store. Returns seconds, and words per caption."""
    from captioning.features.batches import FeatureBatches

    names = [image_name(i) for i in range(len(store.rows))]
    rows = FeatureBatches(store, names, captioner.config.decode_batch_size)
    began = time.perf_counter()
    found = captioner.caption(rows, captioner.config.with_overrides({"beam_size": beam_size}))
    seconds = time.perf_counter() - began
    return seconds, float(np.mean([len(hypotheses[0].text.split()) for hypotheses in found[: len(names)]]))


def time_classic(captioner: "Captioner", store: FeatureStore, images: int) -> tuple[float, float]:
    """Caption the first images of the store the classic way, with a beam of 3.

    Returns seconds, and words per caption.
    """
    import classic

    model = classic.build_model(captioner.config, len(captioner.vocabulary), FEATURE_SIZE, LONGEST_PREFIX)
    classic.copy_weights(captioner.decoder, model)
    inputs = store.read(np.arange(images))[:, 0].astype("float32")
    classic.beam_search(model, inputs[0], LONGEST_PREFIX, 3)  # compiles
    began = time.perf_counter()
    found = [classic.beam_search(model, image, LONGEST_PREFIX, 3) for image in inputs]
    return time.perf_counter() - began, float(np.mean([len(tokens) for tokens in found]))


def main() -> None:
    args = make_parser(__doc__).parse_args()
    images, timed, epochs = (100, 1, 2) if args.quick else (1000, 20, 8)
    import keras

    keras.utils.set_random_seed(0)
    config = Config(decoder="merge", learning_rate=3e-3, epochs=epochs)
    rates, table = {}, []

    def record(name: str, count: int, seconds: float, words: float) -> None:
        rates[name] = {"images_per_second": count / seconds, "images_timed": count, "mean_words": words}
        table.append([name, count, f"{seconds:.2f}", f"{count / seconds:,.1f}", f"{words:.1f}"])

    with tempfile.TemporaryDirectory() as folder:
        store, captions = make_data(Path(folder), images)
        captioner = train(config, store, captions)
        for name, beam_size in (("beam 3", 3), ("greedy", 1)):
            for call in ("first call", "after"):
                record(f"ours, {name}, {call}", images, *time_ours(captioner, store, beam_size))
        record("classic, beam 3", timed, *time_classic(captioner, store, timed))

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
