"""The speed of training in target words per second: whole captions, against the classic way of one row per prefix.

    python benchmarks/throughput.py

Trains our merge and inject decoders at their default sizes, with CaptionBatches and CaptionTrainer. Trains the same
decoders the classic way (benchmarks/classic.py) at several batch sizes. The fastest of these counts. A target word is a
word or an <end> that the loss has scored once. The first epoch compiles and does not count. The median of the others
counts.
The bar: at least 20 times the classic words per second.
"""

import tempfile
from pathlib import Path
from statistics import median

from common import (
    EpochTimer,
    make_parser,
    make_store,
    print_table,
    random_features,
    synthetic_captions,
    synthetic_vocabulary,
    verdict,
    write_results,
)

from captioning.base.script import run_script
from captioning.features.store import FeatureStore
from config import Config

FEATURE_SIZE = 2048
BAR = 20


def ours(
    config: Config,
    store: FeatureStore,
    captions: list[tuple[str, str]],
    epochs: int,
    pretrained: dict | None = None,
    batches_type: type | None = None,
) -> float:
    """Target words per second of our training on ``captions``. The first of the ``epochs`` does not count.

    ``pretrained``: the arrays of a word embedding that is not learned. ``batches_type``: a class of batches to use
    instead of the one that training takes.
    """
    from captioning.decoders.build import build_decoder
    from captioning.training.cross_entropy import CaptionTrainer
    from captioning.training.image_batches import batches_for
    from captioning.training.optimizers import make_optimizer

    vocabulary = synthetic_vocabulary()
    decoder = build_decoder(config, len(vocabulary), store.regions, store.feature_size, pretrained)
    batches = (batches_type or batches_for(decoder))(store, captions, vocabulary, config)
    trainer = CaptionTrainer(decoder)
    trainer.compile(optimizer=make_optimizer(config, len(batches)))
    timer = EpochTimer()
    trainer.fit(batches, epochs=epochs, callbacks=[timer.callback(batches)], verbose=0)
    return batches.words / median(timer.seconds[1:])


def classic(
    config: Config, store: FeatureStore, captions: list[tuple[str, str]], targets: int, epochs: int, **batch_size: int
) -> float:
    """Target words per second of the classic way, in epochs of about ``targets`` words."""
    from classic import PrefixBatches, build_model

    vocabulary = synthetic_vocabulary()
    encoded = [(name, vocabulary.encode(caption, 100)) for name, caption in captions]
    max_length = max(len(tokens) for _, tokens in encoded) - 1
    # A caption has 12 targets on average. Only whole photos of 5 captions are taken, so that a batch of photos has them
    # all.
    encoded = encoded[: max(1, targets // 60) * 5]
    features = {name: store.read([store.rows[name]])[0].reshape(-1) for name in {name for name, _ in encoded}}
    batches = PrefixBatches(features, encoded, len(vocabulary), max_length, workers=config.workers, **batch_size)
    model = build_model(config, len(vocabulary), FEATURE_SIZE, max_length)
    timer = EpochTimer()
    model.fit(batches, epochs=epochs, callbacks=[timer.callback()], verbose=0)
    return len(batches.caption) / median(timer.seconds[1:])


def main() -> None:
    args = make_parser(__doc__).parse_args()
    images, epochs = (40, 2) if args.quick else (1000, 4)
    # Large batches need larger epochs: otherwise there is little to time.
    variants = [({"rows": 64}, 2048), ({"rows": 256}, 4096), ({"rows": 1024}, 8192), ({"photos": 4}, 4096)]
    if args.quick:
        variants = [({"rows": 64}, 120), ({"photos": 1}, 120)]
    captions = synthetic_captions(images)
    found, table = {}, []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), random_features((1, FEATURE_SIZE)), images, (1, FEATURE_SIZE))
        for decoder in ["merge"] if args.quick else ["merge", "inject"]:
            config = Config(decoder=decoder)
            speed = ours(config, store, captions, epochs)
            slow = {}
            for batch_size, targets in variants:
                name = " ".join(f"{count} {unit}" for unit, count in batch_size.items())
                slow[name] = classic(config, store, captions, targets, epochs, **batch_size)
            ratio = speed / max(slow.values())
            found[decoder] = {"ours": speed, "classic": slow, "ratio": ratio, "pass": ratio >= BAR}
            table.append([f"{decoder}, ours, batches of {config.batch_size} captions", f"{speed:,.0f}", ""])
            for name, value in slow.items():
                table.append([f"{decoder}, classic, batches of {name}", f"{value:,.0f}", f"{speed / value:.1f}"])
    print_table(["", "target words/s", "ours is x times"], table)
    for decoder, result in found.items():
        print(f"{decoder}: {result['ratio']:.1f} x the fastest classic one; {verdict(args, result['pass'])}")
    write_results(args, "throughput", {"bar": BAR, "words_per_second": found})


if __name__ == "__main__":
    run_script(main)
