"""The captioner as a judge of retrieval: how probable does it find a caption, given an image?

It reads every pair anew, so it can only put into order what the towers have found. Log p(caption | image) in nats comes in
three kinds: as it is (``likelihood``), divided by the words (``per-word``), and less its average over other images
(``gain``): what the image makes likelier, and not what people say anyway. Among images for one caption all three agree.
Legend: I images, R regions, D feature size, P pairs, N captions, T tokens, Q queries, G gallery.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from captioning.base.script import hide_progress
from captioning.decoders.base import Decoder
from captioning.decoders.likelihood import word_nll
from captioning.words.padding import pad
from captioning.words.vocabulary import PAD
from model import Captioner

KINDS = ("likelihood", "per-word", "gain")
# What a cosine may be worth beside the captioner's judgement, in its unit; --choose tries these.
COSINE_WEIGHTS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
BACKGROUND = 10  # images that a caption's average is taken over

_PAIRS = 256  # at once
_IMAGES = 16  # the images of a batch are filled up to a multiple of this, and captions to one of _WIDTH tokens
_WIDTH = 8


class Judge(keras.Model):
    """``(features (I, R, D), image of each pair (P,), tokens (P, T + 1)) -> log p (P,)``, as a model, to be compiled."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder
        self.built = True

    def call(self, inputs):
        features, image, tokens = inputs
        targets = tokens[:, 1:]
        logits = self.decoder(features, tokens[:, :-1], rows=image)
        nll, _ = word_nll(ops.cast(logits, "float32"), targets)
        return -ops.sum(ops.where(targets == PAD, 0.0, nll), axis=1)


def log_likelihoods(
    captioner: Captioner, read: Callable[[np.ndarray], np.ndarray], texts: Sequence[str], pairs: np.ndarray
) -> np.ndarray:
    """Log p(caption | image) of ``pairs`` int (P, 2) of an image's number and a caption's, in nats: float64 (P,).

    ``read`` gives the captioner's features ``(I, R, D)`` of images by their numbers.
    """
    tokens = [captioner.vocabulary.encode(text, captioner.config.max_caption_length) for text in texts]
    widths = np.asarray([-(-len(ids) // _WIDTH) * _WIDTH for ids in tokens])[pairs[:, 1]]
    judge = Judge(captioner.decoder)
    judge.compile()
    found = np.empty(len(pairs))
    with tqdm(total=len(pairs), desc="likelihoods", unit="pair", disable=hide_progress()) as bar:
        for width in np.unique(widths):
            chosen = np.flatnonzero(widths == width)
            chosen = chosen[np.argsort(pairs[chosen, 0], kind="stable")]  # pairs of one image side by side
            for start in range(0, len(chosen), _PAIRS):
                batch = chosen[start : start + _PAIRS]
                filled = np.pad(batch, (0, _PAIRS - len(batch)), mode="edge")
                images, image = np.unique(pairs[filled, 0], return_inverse=True)
                features = read(np.pad(images, (0, -len(images) % _IMAGES), mode="edge"))
                rows = pad([tokens[caption] for caption in pairs[filled, 1]], width)
                judged = judge.predict_on_batch((features, image.astype("int32"), rows))
                found[batch] = np.asarray(judged)[: len(batch)]
                bar.update(len(batch))
    return found


def judgements(
    captioner: Captioner,
    read: Callable[[np.ndarray], np.ndarray],
    texts: Sequence[str],
    pairs: np.ndarray,
    background: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """What the captioner thinks of ``pairs`` (see ``log_likelihoods``), in each of ``KINDS``: float64 (P,).

    ``background``: numbers of the images that a caption's average is taken over. Without them the gain is the likelihood,
    which orders the images for one caption alike.
    """
    captions, caption = np.unique(pairs[:, 1], return_inverse=True)
    others = np.asarray([(image, number) for image in background for number in captions], dtype=int).reshape(-1, 2)
    found = log_likelihoods(captioner, read, texts, np.concatenate([pairs, others]))
    log_p = found[: len(pairs)]
    averages = (
        found[len(pairs) :].reshape(-1, len(captions)).mean(axis=0) if len(background) else np.zeros(len(captions))
    )
    limit = captioner.config.max_caption_length
    words = np.asarray([len(captioner.vocabulary.encode(texts[number], limit)) - 1 for number in captions])
    return {"likelihood": log_p, "per-word": log_p / words[caption], "gain": log_p - averages[caption]}
