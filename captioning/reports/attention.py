"""How a decoder spreads its attention over the regions of pictures. Needs no Keras: the captioner is given."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from captioning.reports.rows import AttentionStatistics

if TYPE_CHECKING:
    from model import Captioner


def attention_statistics(
    captioner: "Captioner", batches: Iterable[np.ndarray], captions: Sequence[str]
) -> AttentionStatistics:
    """Where the decoder looks while it predicts the words of ``captions``.

    ``batches``: the float features ``(B, R, D)`` of the images in order. The last batch may be filled up with copies of
    its last image.
    """
    regions = captioner.decoder.sizes["regions"]
    found: list[np.ndarray] = []  # for each caption (T + 1, R), or (T + 1, R + 1) with a sentinel
    for features in batches:
        texts = [*captions[len(found) : len(found) + len(features)]]
        texts += texts[-1:] * (len(features) - len(texts))
        found += captioner.attend(features, texts)
    weights = np.concatenate([weight[:-1] for weight in found[: len(captions)]])  # without the end token
    image = weights[:, :regions].sum(axis=1, keepdims=True)
    shares = weights[:, :regions] / np.maximum(image, 1e-12)
    return AttentionStatistics(
        entropy=float(-(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=1).mean()),
        maximum_entropy=float(np.log2(regions)),
        image_share=float(image.mean()) if weights.shape[1] > regions else None,
    )
