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
    its last image. Images may have different numbers of regions.
    """
    padded = captioner.decoder.sizes.get("padded", False)
    found: list[np.ndarray] = []  # for each caption (T + 1, R), or (T + 1, R + 1) with a sentinel
    counts: list[int] = []  # the regions of the image of each word
    regions = 0
    for features in batches:
        regions, before = features.shape[1], len(found)
        texts = [*captions[len(found) : len(found) + len(features)]]
        texts += texts[-1:] * (len(features) - len(texts))
        found += captioner.attend(features, texts)
        real = (features != 0).any(axis=-1).sum(axis=1) if padded else np.full(len(features), regions)
        for count, looks in zip(real[: len(captions) - before].tolist(), found[before:], strict=False):
            counts += [max(count, 1)] * (len(looks) - 1)
    weights = np.concatenate([weight[:-1] for weight in found[: len(captions)]])  # without the end token
    image = weights[:, :regions].sum(axis=1, keepdims=True)
    shares = weights[:, :regions] / np.maximum(image, 1e-12)
    return AttentionStatistics(
        entropy=float(-(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=1).mean()),
        maximum_entropy=float(np.log2(counts).mean() if padded else np.log2(regions)),
        image_share=float(image.mean()) if weights.shape[1] > regions else None,
    )
