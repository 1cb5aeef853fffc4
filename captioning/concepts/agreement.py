"""How well a caption agrees with the words that its picture suggests.

Let p be the probability that the detector gives a word, q the share of training captions that have the word, and
w = -log q, which is large for words that say much. The picture suggests the vector of all w p. The caption is the
vector of w for its words, each counted once, and zero for all others.

    agreement   the cosine of both vectors
    support     sum of w p over the words of the caption, divided by the sum of w over them: how sure its words are
    coverage    sum of w p over the words of the caption, divided by that over all words: how much of the picture it
                tells

The agreement foretells CIDEr of single words (Vedantam et al., 2015, https://arxiv.org/abs/1411.5726), which is such a
cosine with the words of the references. Ranking the captions of a beam by the score that they probably get is minimum
Bayes risk decoding (Kumar and Byrne, 2004, https://aclanthology.org/N04-1022). Here the detector foretells the score.
Legend: B images, K captions of each, L longest caption in tokens, W words of the detector, O objects.
"""

from typing import Any, NamedTuple

from keras import ops

from captioning.concepts.detector import LEAST, Concepts
from captioning.search.hypotheses import Hypotheses

_TINY = 1e-9


class Reading(NamedTuple):
    """What the detector says of captions. Each part is float32 ``(B, K)``."""

    agreement: Any  # 0 to 1; these three are described above, and are zero for a caption without known words
    support: Any  # 0 to 1
    coverage: Any  # 0 to 1
    named: Any  # log of the probability of the least probable object that the caption names; 0 without one
    unnamed: Any  # log of the probability of the most probable object that it does not name


class Reader:
    """Reads captions as the detector would. As a ``Judge`` of ``search.compiled.Search`` it gives the agreement."""

    def __init__(self, concepts: Concepts, vocabulary_size: int):
        self.concepts, self.places = concepts, concepts.places(vocabulary_size)

    def __call__(self, features, found: Hypotheses):
        """The agreement of the captions ``found``, float32 ``(B, K)``, with ``features`` float ``(B, R, D)``."""
        return self._of_words(self.concepts(features), ops.take(self.places, found.tokens)).agreement

    def read(self, features, tokens) -> Reading:
        """All that the detector says of the captions ``tokens`` int32 ``(B, K, L)``."""
        logits, places = self.concepts(features), ops.take(self.places, tokens)
        reading = self._of_words(logits, places)
        return reading._replace(**self._of_objects(logits, places)) if self.concepts.naming.size else reading

    def _of_words(self, logits, places) -> Reading:
        """The parts of the ``Reading`` that come from words. Those from objects are zero.

        ``places`` int32 ``(B, K, L)``: those of the tokens among the W words, W for words that the detector does not
        know.
        """
        weighed = -self.concepts.log_shares()  # (W,)
        # Words that it does not know have the weight zero, and so has a word that comes again.
        weights = ops.take(ops.append(weighed, 0.0), places)
        same = ops.cast(places[:, :, :, None] == places[:, :, None, :], "int32")
        weights = ops.where(ops.any(ops.tril(same, -1) > 0, axis=-1), 0.0, weights)
        p = ops.sigmoid(logits)
        suggested = weighed * p  # (B, W)
        # The probabilities of the words of each image stand in one row behind one another, W and a zero per image.
        starts = ops.arange(ops.shape(p)[0], dtype="int32") * (len(self.concepts.ids) + 1)
        chosen = ops.take(ops.reshape(ops.pad(p, ((0, 0), (0, 1))), (-1,)), places + starts[:, None, None])
        meant = ops.sum(weights * chosen, axis=-1)
        lengths = ops.sqrt(ops.sum(ops.square(weights), axis=-1) * ops.sum(ops.square(suggested), axis=-1)[:, None])
        none = ops.zeros_like(meant)
        return Reading(
            agreement=ops.sum(ops.square(weights) * chosen, axis=-1) / ops.maximum(lengths, _TINY),
            support=meant / ops.maximum(ops.sum(weights, axis=-1), _TINY),
            coverage=meant / ops.maximum(ops.sum(suggested, axis=-1)[:, None], _TINY),
            named=none,
            unnamed=none,
        )

    def _of_objects(self, logits, places) -> dict[str, Any]:
        """The parts of the ``Reading`` that come from objects. ``places`` as in ``_of_words``."""
        naming = ops.pad(self.concepts.naming, ((0, 1), (0, 0)))  # (W + 1, O)
        is_named = ops.max(ops.take(naming, places, axis=0), axis=2) > 0  # (B, K, O)
        o = self.concepts.of_objects(logits)[:, None]  # (B, 1, O)
        least = ops.min(ops.where(is_named, o, 1.0), axis=-1)
        most = ops.max(ops.where(is_named, LEAST, o), axis=-1)
        return {"named": ops.log(least), "unnamed": ops.log(most)}
