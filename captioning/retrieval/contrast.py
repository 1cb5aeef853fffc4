"""The losses of alignment. They pull an image and its caption together, and push the other pairs of a batch apart.

Both losses compare the B captions of a batch with the images of the batch, in both directions. A pair of an image and
another caption of the same image is left out.

    triplet    the right partner must lead the hardest wrong partner by a margin (VSE++, Faghri et al., 2018,
               https://arxiv.org/abs/1707.05612, equation 6)
    infonce    a softmax over cosines divided by a temperature must choose the right partner (van den Oord et al., 2018,
               https://arxiv.org/abs/1807.03748, equation 4)

Legend: B pairs.
"""

from keras import ops

_NEVER = -1e9  # a cosine so low that neither a maximum nor a softmax chooses it


def contrast(cosines, images, kind: str, margin: float, temperature: float, is_pair=None):
    """The loss, a scalar of the dtype of ``cosines``: the mean over all pairs and both directions.

    ``cosines`` float ``(B, B)``: row i has the cosines of image i with all captions. Caption i belongs to image i.
    ``images`` int ``(B,)``: equal numbers mark the same image. ``kind``: "triplet" reads ``margin``, and "infonce"
    reads ``temperature``. ``is_pair`` bool ``(B,)``: false for rows that only fill up the batch. They stand against no
    pair and are not in the mean. None: all rows are pairs.
    """
    own = ops.diagonal(cosines)
    left_out = ops.equal(images[:, None], images[None])
    if is_pair is not None:
        left_out = ops.logical_or(left_out, ops.logical_not(ops.logical_and(is_pair[:, None], is_pair[None])))
    others = ops.where(left_out, _NEVER, cosines)
    if kind == "triplet":
        losses = [ops.relu(margin + ops.max(others, axis=axis) - own) for axis in (0, 1)]
    else:
        losses = [ops.softplus(ops.logsumexp(others / temperature, axis=axis) - own / temperature) for axis in (0, 1)]
    if is_pair is None:
        return ops.mean(losses[0] + losses[1]) / 2
    counts = ops.cast(is_pair, cosines.dtype)
    return ops.sum((losses[0] + losses[1]) * counts) / (2 * ops.maximum(ops.sum(counts), 1))
