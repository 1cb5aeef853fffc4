"""The losses of alignment: they pull an image and its caption together, and push all other pairs of a batch apart.

Two losses compare the B captions of a batch with their images, in both directions. Other captions of the same image are
left out of the comparison.

    triplet    the right one must lead the hardest other one by a margin (VSE++, Faghri et al., 2018,
               https://arxiv.org/abs/1707.05612, equation 6)
    infonce    a softmax over cosines, divided by a temperature, must tell the right one from all others (van den Oord et
               al., 2018, https://arxiv.org/abs/1807.03748)

Legend: B pairs.
"""

from keras import ops

_NEVER = -1e9  # a cosine so low that neither a maximum nor a softmax takes it


def contrast(cosines, images, kind: str, margin: float, temperature: float):
    """The loss, a float scalar: the mean over all pairs and both directions.

    ``cosines`` float ``(B, B)``: row i has the cosines of image i with all captions, and caption i belongs to image i.
    ``images`` int ``(B,)``: equal numbers mark the same image. ``kind``: "triplet", which reads ``margin``, or "infonce",
    which reads ``temperature``.
    """
    own = ops.diagonal(cosines)
    others = ops.where(ops.equal(images[:, None], images[None]), _NEVER, cosines)
    if kind == "triplet":
        losses = [ops.relu(margin + ops.max(others, axis=axis) - own) for axis in (0, 1)]
    else:
        losses = [ops.softplus(ops.logsumexp(others / temperature, axis=axis) - own / temperature) for axis in (0, 1)]
    return ops.mean(losses[0] + losses[1]) / 2
