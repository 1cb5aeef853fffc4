"""One of the two trainings that turns.py compares: it trains so many batches whenever it is told to.

    python benchmarks/learner.py CHECKOUT WAY WEIGHTS PRECISION

Imports everything from CHECKOUT, a folder with this project's code, or with that of sgrvinod. WEIGHTS is an npz file
with those of the pocket captioner's decoder, in order, which "scst" takes. PRECISION is float32 or bfloat16.

Reads a number from each line of standard input, trains so many batches, and prints their seconds, their seconds of CPU
time and the words learned from, as JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CHECKOUT, WAY, PRECISION = Path(sys.argv[1]), sys.argv[2], sys.argv[4]
if WAY in ("xe", "scst"):
    sys.path[0] = str(CHECKOUT / "benchmarks")

from common import make_store, random_features, synthetic_captions, synthetic_vocabulary  # noqa: E402

from captioning.command_line.resolving import preset  # noqa: E402
from captioning.features.store import FeatureStore  # noqa: E402
from captioning.words.vocabulary import PAD  # noqa: E402
from config import STAGE_CHANGES  # noqa: E402

# What is compared, by name: a preset, and the regions and feature size of its images. Sgrvinod's code takes "xe".
WAYS = {
    "xe": ("flickr8k-attention", (49, 2048)),
    "scst": ("pocket", (81, 1280)),
}
# Batches are sorted by length within pools of 50 batches. This is one pool, so padding is as in real training.
IMAGES = 1300


class MadeUpRewards:
    """Rewards of drawn captions that take no time: noise."""

    columns = ()

    def __init__(self, with_terms: bool):
        self.with_terms = with_terms

    def __call__(self, rows: np.ndarray, tokens: np.ndarray):
        found = np.random.default_rng(0).random(tokens.shape[:2])
        return (found, {}) if self.with_terms else found


def xe(store: FeatureStore) -> Iterator[int]:
    """Trains with cross-entropy as ``train.py`` does, batch by batch. Gives the words of each batch."""
    from captioning.decoders.build import build_decoder
    from captioning.training.cross_entropy import CaptionTrainer
    from captioning.training.image_batches import batches_for
    from captioning.training.optimizers import make_optimizer

    config, vocabulary = preset(WAYS["xe"][0]), synthetic_vocabulary()
    decoder = build_decoder(config, len(vocabulary), store.regions, store.feature_size, None)
    batches = batches_for(decoder)(store, synthetic_captions(IMAGES), vocabulary, config)
    trainer = CaptionTrainer(decoder)
    trainer.compile(optimizer=make_optimizer(config, 1000))
    trainer.optimizer.build(trainer.trainable_variables)
    while True:
        for inputs, targets in (batches[index] for index in range(len(batches))):
            trainer.train_on_batch(inputs, targets)
            yield int((targets != PAD).sum())


def scst(store: FeatureStore) -> Iterator[int]:
    """Trains self-critically as ``train.py --stage scst`` does, with rewards that are noise."""
    import importlib.util

    from captioning.decoders.build import build_decoder
    from captioning.training.image_batches import ReferenceBatches
    from captioning.training.optimizers import make_optimizer
    from captioning.training.self_critical import SelfCritic, SelfCriticalTrainer

    config = preset(WAYS["scst"][0]).with_overrides(STAGE_CHANGES["scst"])
    weights = np.load(sys.argv[3], allow_pickle=False)
    vocabulary = synthetic_vocabulary(len(weights["arr_0"]))  # the bias of the output
    decoder = build_decoder(config, len(vocabulary), store.regions, store.feature_size, None)
    decoder.set_weights(list(weights.values()))
    batches = ReferenceBatches(store, synthetic_captions(IMAGES), vocabulary, config)
    trainer = SelfCriticalTrainer(decoder, config)
    trainer.compile(optimizer=make_optimizer(config, 1000, peak=1e-9))  # so that captions keep their lengths
    trainer.optimizer.build(trainer.trainable_variables)
    rewards = MadeUpRewards(bool(importlib.util.find_spec("captioning.training.rewards")))
    critic = SelfCritic(trainer, batches, rewards, config)
    while True:
        for index in range(len(batches)):
            features, tokens, image_of, rows = batches[index]
            drawn = critic._judge(features, rows, critic._draw(features, (0, 0, index)))
            critic._learn(features, tokens, image_of, drawn)
            yield int((drawn.tokens != PAD).sum() + (tokens[:, 1:] != PAD).sum())


def sgrvinod(store: FeatureStore) -> Iterator[int]:
    """Trains the decoder of sgrvinod's PyTorch tutorial by its recipe: random batches, one image for each caption.

    The words are embedded, and the states and attention are as large, as those of the preset.
    """
    import types

    import torch

    from captioning.words.padding import pad

    sys.modules["torchvision"] = types.ModuleType("torchvision")  # its file of models imports it for the encoder
    sys.path.append(str(CHECKOUT))
    from models import DecoderWithAttention

    config, vocabulary, size = preset(WAYS["xe"][0]), synthetic_vocabulary(), int(WAY.split("-")[1])
    sizes = (config.attention_size, config.embedding_size, config.hidden_size, len(vocabulary))
    decoder = DecoderWithAttention(*sizes, encoder_dim=store.feature_size).train()
    optimizer = torch.optim.Adam(decoder.parameters(), lr=4e-4)
    captions = [(name, vocabulary.encode(text, 100)) for name, text in synthetic_captions(IMAGES)]
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(captions))
        for chosen in np.split(order[: len(order) // size * size], len(order) // size):
            lengths = torch.tensor([[len(captions[i][1])] for i in chosen])
            tokens = torch.as_tensor(pad([captions[i][1] for i in chosen])).long()
            features = torch.as_tensor(store.read([store.rows[captions[i][0]] for i in chosen])).float()
            with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bfloat16"):
                scores, tokens, steps, weights, _ = decoder(features, tokens, lengths)
            scores, weights = scores.float(), weights.float()
            pack = torch.nn.utils.rnn.pack_padded_sequence
            packed, targets = (pack(part, steps, batch_first=True).data for part in (scores, tokens[:, 1:]))
            loss = torch.nn.functional.cross_entropy(packed, targets) + ((1 - weights.sum(dim=1)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(decoder.parameters(), 5.0)
            optimizer.step()
            yield sum(steps)


def main() -> None:
    if PRECISION != "float32":
        import keras

        keras.mixed_precision.set_dtype_policy(f"mixed_{PRECISION}")
    train: Callable[[FeatureStore], Iterator[int]] = {"xe": xe, "scst": scst}.get(WAY, sgrvinod)
    with tempfile.TemporaryDirectory() as folder:
        _, shape = WAYS.get(WAY, WAYS["xe"])
        batches = train(make_store(Path(folder), random_features(shape), IMAGES, shape))
        for line in sys.stdin:
            wall, cpu, words = time.perf_counter(), time.process_time(), 0
            for _ in range(int(line)):
                words += next(batches)
            print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, words]), flush=True)


if __name__ == "__main__":
    main()
