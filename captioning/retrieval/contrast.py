"""Alignment: the two towers learn to put an image and its caption near one another, and away from all others.

Two losses over a batch of B captions with their images, in both directions. Another caption of the same image is never
held against it. ``triplet``: the hardest other image, and the hardest other caption, must stay a margin behind (VSE++,
Faghri et al., 2018, https://arxiv.org/abs/1707.05612, equation 6). ``infonce``: the right one must be told from all others
by a softmax over cosines divided by a temperature (van den Oord et al., 2018, https://arxiv.org/abs/1807.03748).
Legend: B pairs, R regions, D feature size, T tokens.
"""

from keras import ops

_NEVER = -1e9  # a cosine that no maximum and no softmax notices


def contrast(cosines, images, kind: str, margin: float, temperature: float):
    """The loss, a scalar, of ``cosines (B, B)`` of images with captions, pair by pair; ``images`` int (B,) tells which are one.

    The mean over the pairs, and over both directions: captions for an image, and images for a caption.
    """
    own = ops.diagonal(cosines)
    others = ops.where(ops.equal(images[:, None], images[None]), _NEVER, cosines)
    if kind == "triplet":
        losses = [ops.relu(margin + ops.max(others, axis=axis) - own) for axis in (0, 1)]
    else:
        losses = [ops.softplus(ops.logsumexp(others / temperature, axis=axis) - own / temperature) for axis in (0, 1)]
    return ops.mean(losses[0] + losses[1]) / 2
