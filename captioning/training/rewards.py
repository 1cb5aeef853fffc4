"""The reward of drawn captions: a weighted sum of terms, each computed only if its weight is not 0.

    cider       CIDEr-D with the references of the image
    bleu        BLEU-4 with these references, of the single caption (``metrics.sentence_bleu``)
    rarity      the mean rarity of the caption's words that are right (``metrics.rare_words``)
    retrieval   how well an aligner finds the image by the caption, among images like it (``retrieval.distinctness``)
    similar     CIDEr-D with the references of similar images, which is taken away (Wang et al., 2020, CIDErBtw,
                https://arxiv.org/abs/2007.06877)

Each term is 1.0 for what papers print as 100. All terms but the aligner's count ``<end>`` as a word on both sides, so a
caption without it loses reward.
Legend: B images, S captions drawn per image, L maximum length, I images with captions, N captions.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from captioning.metrics.cider import Cider
from captioning.metrics.rare_words import RareWords
from captioning.metrics.sentence_bleu import SentenceBleu
from captioning.words.vocabulary import END, Vocabulary
from config import RewardSettings

# Scores times 100 of captions, float64 (N,), from the places of their images int (N,) and their words.
Term = Callable[[np.ndarray, Sequence[list[str]]], np.ndarray]
# The same from the places of the images and the captions as text.
Judge = Callable[[np.ndarray, Sequence[str]], np.ndarray]


class Reward(NamedTuple):
    """The reward of captions, float64 ``(B, S)``, and each of its terms before it is weighed, by name."""

    total: np.ndarray
    terms: dict[str, np.ndarray]


class Rewards:
    """The reward of token ids, given the captions of training images."""

    def __init__(
        self,
        captions: Iterable[tuple[int, str]],
        vocabulary: Vocabulary,
        settings: RewardSettings,
        similar: Callable[[np.ndarray], np.ndarray] | None = None,
        judge: Callable[[np.ndarray], Judge] | None = None,
    ):
        """``captions`` are pairs (row of the image in the store, caption).

        ``similar`` gives for rows of the store ``(I,)`` the places of similar images among them, int ``(I, K)``. The
        term "similar" needs it. ``judge`` gives for these rows what scores captions of them. The term "retrieval" needs
        it. Each is asked once, and only if its term has a weight. Raises ValueError if one that is needed is missing.
        """
        groups: dict[int, list[list[str]]] = {}
        for row, caption in captions:
            groups.setdefault(row, []).append([*vocabulary.split(caption), vocabulary.words[END]])
        self.position = {row: i for i, row in enumerate(groups)}
        self.vocabulary, self.weights = vocabulary, settings.weights()
        rows, references = np.asarray(list(groups)), list(groups.values())
        self.terms: dict[str, Term] = {}
        if self.weights.keys() & {"cider", "similar"}:
            self.terms["cider"] = cider = Cider(references).score
        if "bleu" in self.weights:
            self.terms["bleu"] = SentenceBleu(references).score
        if "rarity" in self.weights:
            self.terms["rarity"] = RareWords(references).score
        if "retrieval" in self.weights and judge:
            self.terms["retrieval"] = self._judged_by(judge(rows))
        if "similar" in self.weights and similar:
            places = similar(rows)
            self.terms["similar"] = lambda images, spoken: np.mean(
                [cider(place, spoken) for place in places[images].T], axis=0
            )
        if missing := sorted(self.weights.keys() - self.terms):
            raise ValueError(f"{missing[0]}_weight: nothing was given that computes this term")
        self.terms = {name: self.terms[name] for name in self.weights}

    def _judged_by(self, judge: Judge) -> Term:
        """``judge`` as a term: it gets the captions as text, without ``<end>``."""
        end, join = self.vocabulary.words[END], self.vocabulary.splitting.join

        def score(images: np.ndarray, spoken: Sequence[list[str]]) -> np.ndarray:
            return judge(images, [join(words[:-1] if words[-1:] == [end] else words) for words in spoken])

        return score

    @property
    def columns(self) -> list[str]:
        """The columns of history.csv that hold the terms."""
        return [f"reward_{name}" for name in self.terms]

    def __call__(self, rows: np.ndarray, tokens: np.ndarray) -> Reward:
        """The rewards of token ids ``(B, S, L)`` of the images with ``rows (B,)`` in the store."""
        images = np.repeat([self.position[row] for row in rows], tokens.shape[1])
        end = self.vocabulary.words[END]
        spoken = [
            [*self.vocabulary.spell(ids), *[end] * (END in ids)]
            for ids in tokens.reshape(-1, tokens.shape[-1]).tolist()
        ]
        terms = {name: term(images, spoken).reshape(tokens.shape[:2]) / 100 for name, term in self.terms.items()}
        return Reward(np.asarray(sum(self.weights[name] * found for name, found in terms.items())), terms)
