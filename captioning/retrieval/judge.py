"""The captioner as a judge of retrieval: how probable is a caption, given an image?

The captioner reads every pair of image and caption anew. That is slow, so it only reorders the candidates of the
towers. Its opinion on a pair comes in three kinds (``ranking.KINDS``), all in nats:

    likelihood    log p(caption | image)
    per-word      the likelihood divided by the number of words
    gain          the likelihood minus its average over other images: what this image adds. Without the subtraction,
                  captions that people often write win for every image

All three kinds give the same order of images for one caption.
Legend: I images, R regions, D feature size, P pairs, N captions, T tokens.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from captioning.base.progress import Progress
from captioning.decoders.base import Decoder
from captioning.decoders.likelihood import word_nll
from captioning.words.padding import pad
from captioning.words.vocabulary import PAD
from model import Captioner

# Batches have few shapes, so that little is compiled. A batch has _PAIRS pairs, and its number of images is a multiple
# of _IMAGES. Captions are padded to a multiple of _WIDTH tokens.
_PAIRS = 256
_IMAGES = 16
_WIDTH = 8


class Judge(keras.Model):
    """The log-likelihood of captions, as a model that Keras compiles.

    ``(features (I, R, D), image_of int32 (P,), token ids int32 (P, T + 1)) -> log p float32 (P,)``. The features are
    float. ``image_of`` is the image of each pair, as its row in the features.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder
        self.built = True

    def call(self, inputs):
        features, image_of, tokens = inputs
        targets = tokens[:, 1:]
        logits = self.decoder(features, tokens[:, :-1], image_of=image_of)
        nll, _ = word_nll(ops.cast(logits, "float32"), targets)
        return -ops.sum(ops.where(targets == PAD, 0.0, nll), axis=1)


def log_likelihoods(
    captioner: Captioner, read: Callable[[np.ndarray], np.ndarray], texts: Sequence[str], pairs: np.ndarray
) -> np.ndarray:
    """Log p(caption | image) in nats, float64 ``(P,)``, of ``pairs`` int ``(P, 2)``.

    A pair is the number of an image and the number of a caption in ``texts``. ``read`` takes numbers of images, int
    ``(I,)``, and gives the captioner's float features ``(I, R, D)``. The probability includes that of ``<end>``.
    """
    tokens = [captioner.vocabulary.encode(text, captioner.config.max_caption_length) for text in texts]
    widths = np.asarray([-(-len(ids) // _WIDTH) * _WIDTH for ids in tokens])[pairs[:, 1]]
    judge = Judge(captioner.decoder)
    judge.compile()
    found = np.empty(len(pairs))
    with Progress("likelihoods", len(pairs), "pairs") as bar:
        for width in np.unique(widths):
            chosen = np.flatnonzero(widths == width)
            chosen = chosen[np.argsort(pairs[chosen, 0], kind="stable")]  # pairs of one image come together
            for start in range(0, len(chosen), _PAIRS):
                batch = chosen[start : start + _PAIRS]
                filled = np.pad(batch, (0, _PAIRS - len(batch)), mode="edge")
                images, image_of = np.unique(pairs[filled, 0], return_inverse=True)
                features = read(np.pad(images, (0, -len(images) % _IMAGES), mode="edge"))
                rows = pad([tokens[caption] for caption in pairs[filled, 1]], width)
                judged = judge.predict_on_batch((features, image_of.astype("int32"), rows))
                found[batch] = np.asarray(judged)[: len(batch)]
                bar.update(len(batch))
    return found


def judgements(
    captioner: Captioner,
    read: Callable[[np.ndarray], np.ndarray],
    texts: Sequence[str],
    pairs: np.ndarray,
    background: np.ndarray | Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """The captioner's opinion on ``pairs`` (see ``log_likelihoods``) in each of ``ranking.KINDS``: float64 ``(P,)``.

    ``background``: the numbers of the images over which the gain averages. Without any, the gain is the likelihood.
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
