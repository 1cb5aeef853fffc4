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


def contrast(cosines, images, kind: str, margin: float, temperature: float):
    """The loss, a scalar of the dtype of ``cosines``: the mean over all pairs and both directions.

    ``cosines`` float ``(B, B)``: row i has the cosines of image i with all captions. Caption i belongs to image i.
    ``images`` int ``(B,)``: equal numbers mark the same image. ``kind``: "triplet" reads ``margin``, and "infonce"
    reads ``temperature``.
    """
    own = ops.diagonal(cosines)
    others = ops.where(ops.equal(images[:, None], images[None]), _NEVER, cosines)
    if kind == "triplet":
        losses = [ops.relu(margin + ops.max(others, axis=axis) - own) for axis in (0, 1)]
    else:
        losses = [ops.softplus(ops.logsumexp(others / temperature, axis=axis) - own / temperature) for axis in (0, 1)]
    return ops.mean(losses[0] + losses[1]) / 2
