"""Speed of the attention decoder with each word embedding: training, and greedy captions.

    python benchmarks/word_embeddings.py --bert FOLDER        # or the name of a KerasHub preset; see requirements-bert.txt

The decoder has the sizes of its flickr8k preset, over 49 regions. Training is measured as in throughput.py, in target words
per second. Captions are all of 12 words, so that an untrained decoder does what a trained one does; their first batch,
which compiles, does not count. There is no bar.
"""

import tempfile
import time
from pathlib import Path

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

from config import Config, preset, run_script

REGIONS, WORDS = 49, 12


def captioning(config: Config, store, pretrained) -> float:
    """Images per second of greedy search from stored features."""
    from decoders import build_decoder
    from generator import FeatureBatches
    from model import Captioner

    vocabulary = synthetic_vocabulary()
    decoder = build_decoder(config, len(vocabulary), store.regions, store.feature_size, pretrained)
    captioner = Captioner(config, vocabulary, None, decoder)
    greedy = config.with_overrides({"beam_size": 1, "min_length": WORDS, "max_caption_length": WORDS})
    batches = FeatureBatches(store, [image_name(i) for i in range(len(store.rows))], config.decode_batch_size)
    captioner.caption(batches[0][0], greedy)
    began = time.perf_counter()
    captioner.caption(batches, greedy)
    return len(batches.rows) / (time.perf_counter() - began)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--bert", required=True, help="as the setting bert of train.py")
    args = parser.parse_args()
    images, epochs = (10, 2) if args.quick else (200, 4)

    from pretrained import load_pretrained

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        shape = (REGIONS, FEATURE_SIZE)
        store = make_store(Path(folder) / "store", random_features(shape), images, shape)
        for kind in ("learned", "bert-static", "bert-prefix"):
            config = preset("flickr8k-attention").with_overrides(
                {"embedding": kind} | ({"bert": args.bert} if kind != "learned" else {})
            )
            pretrained = load_pretrained(config, synthetic_vocabulary().words)
            found[kind] = {
                "words_per_second": ours(config, store, synthetic_captions(images), epochs, pretrained),
                "images_per_second": captioning(config, store, pretrained),
            }
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
    write_results(args, "word_embeddings", {"bert": args.bert, "speeds": found})


if __name__ == "__main__":
    run_script(main)
