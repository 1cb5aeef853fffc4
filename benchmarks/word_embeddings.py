"""The speed of the attention decoder with each word embedding: training, and greedy captions.

    pip install -e ".[bert]"
    python benchmarks/word_embeddings.py --bert FOLDER        # or the name of a KerasHub preset

The decoder has the sizes of its flickr8k preset, over 49 regions. Training is measured as in throughput.py, in target
words per second. All captions have 12 words, so an untrained decoder does the work of a trained one. The first pass
compiles. The median of the five passes after it counts. Nearly all of the made-up words are several WordPieces. Of real
words, about 15% are.

The last line is about bert-prefix alone, with 128 captions of 12 words. A bidirectional BERT has to read each prefix
anew. The line says how many times as long that takes as reading under a causal mask. There is no bar.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

from common import (
    image_name,
    make_parser,
    make_store,
    print_table,
    random_features,
    synthetic_captions,
    synthetic_vocabulary,
    write_results,
)
from throughput import FEATURE_SIZE, ours

from captioning.base.script import run_script
from captioning.command_line.resolving import preset
from config import Config

REGIONS, WORDS = 49, 12
REPEATS = 5


def captioning(config: Config, store, pretrained) -> float:
    """Images per second of greedy search, from stored features."""
    from captioning.decoders.build import build_decoder
    from captioning.features.batches import FeatureBatches
    from model import Captioner

    vocabulary = synthetic_vocabulary()
    decoder = build_decoder(config, len(vocabulary), store.regions, store.feature_size, pretrained)
    captioner = Captioner(config, vocabulary, None, decoder)
    greedy = config.with_overrides({"beam_size": 1, "min_length": WORDS, "max_caption_length": WORDS})
    batches = FeatureBatches(store, [image_name(i) for i in range(len(store.rows))], config.decode_batch_size)
    captioner.caption(batches, greedy)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        captioner.caption(batches, greedy)
        seconds.append(time.perf_counter() - began)
    return len(batches.rows) / median(seconds)


def reading_anew(config: Config, pretrained) -> float:
    """The time of encoding each prefix by itself, divided by that of encoding the caption once.

    Each is the best of three.
    """
    import numpy as np

    from captioning.embeddings.build import build_embedding

    embedding = build_embedding(config, pretrained)
    words = len(synthetic_vocabulary())
    tokens = np.random.default_rng(0).integers(4, words, (128, WORDS)).astype("int32")

    def seconds(lengths: range) -> float:
        began = time.perf_counter()
        for length in lengths:
            np.asarray(embedding(tokens[:, :length]))
        return time.perf_counter() - began

    once, anew = range(WORDS, WORDS + 1), range(1, WORDS + 1)
    return min(seconds(anew) for _ in range(3)) / min(seconds(once) for _ in range(3))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--bert", required=True, help="a BERT, as for the setting bert of train.py")
    args = parser.parse_args()
    images, epochs = (10, 2) if args.quick else (200, 4)

    from captioning.embeddings.arrays import load_pretrained

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        shape = (REGIONS, FEATURE_SIZE)
        store = make_store(Path(folder) / "store", random_features(shape), images, shape)
        for kind in ["learned", *["bert-static"] * (not args.quick), "bert-prefix"]:
            config = preset("flickr8k-attention").with_overrides(
                {"embedding": kind} | ({"bert": args.bert} if kind != "learned" else {})
            )
            pretrained = load_pretrained(config, synthetic_vocabulary().words, config.seed)
            found[kind] = {
                "words_per_second": ours(config, store, synthetic_captions(images), epochs, pretrained),
                "images_per_second": captioning(config, store, pretrained),
            }
    ratio = reading_anew(config, pretrained)
    table = [
        [
            kind,
            *(
                text
                for name, value in speeds.items()
                for text in (f"{value:,.1f}", f"{value / found['learned'][name]:.2f}")
            ),
        ]
        for kind, speeds in found.items()
    ]
    print_table(["embedding", "target words/s", "of learned", "images/s", "of learned"], table)
    print(f"bert-prefix, each prefix anew: {ratio:.1f} times the time")
    write_results(args, "word_embeddings", {"bert": args.bert, "speeds": found, "each_prefix_anew": ratio})


if __name__ == "__main__":
    run_script(main)
