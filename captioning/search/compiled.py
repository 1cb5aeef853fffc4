"""A search as a Keras model, so that Keras compiles it and feeds it batches."""

from dataclasses import replace
from typing import Any, Protocol

import keras
from keras import ops

from captioning.search.beam import beam_search
from captioning.search.consensus import consensus
from captioning.search.greedy import greedy_search
from captioning.search.hypotheses import Hypotheses
from captioning.search.phrases import PhraseRules
from captioning.search.rules import Rules, best_first
from captioning.search.sampling import Warp, sample, uniforms_of
from captioning.words.constraints import Constraints, constraints_of
from captioning.words.vocabulary import Vocabulary
from config import DecodingSettings


class Stepper(Protocol):
    """What a search needs of a decoder: its stepping half (see ``hypotheses.py``)."""

    def init_state(self, features: Any) -> Any: ...

    def step(self, token_ids: Any, state: Any) -> tuple[Any, Any]: ...


class Judge(Protocol):
    """What looks at the captions found and their traces, and says something about each: a tensor ``(B, K, ...)``."""

    def __call__(self, features: Any, found: Hypotheses) -> Any: ...


class Search(keras.Model):
    """Greedy or beam search, with consensus if wanted, or captions drawn at random.

    Features ``(B, R, D)`` -> tokens, log_probs and scores of ``Hypotheses``. With a ``judge`` there is a fourth part:
    what it says. An ensemble takes a tuple of such features. ``length_penalty`` is a variable, so a new value needs no
    compilation.

    With ``do_sample`` the inputs are a pair: features, and the draws int32 ``(B, K, L)`` of ``sampling.draws_for``.

    Required phrases may need more beams than ``beam_size`` (see ``banks.py``). The search then takes that many, and
    gives the ``beam_size`` best captions.
    """

    def __init__(
        self,
        decoder: Stepper,
        settings: DecodingSettings,
        judge: Judge | None = None,
        vocabulary: Vocabulary | None = None,
        ranker: Judge | None = None,
    ):
        """``vocabulary``: that of the decoder; needed if ``settings`` ask something of the words of captions.

        ``ranker`` gives each caption a number float32 ``(B, K)``. The captions are ranked by their score plus
        ``agreement_weight`` times this number.

        Raises UserError if no caption can be as they ask.
        """
        super().__init__()
        if settings.is_constrained and vocabulary is None:
            raise ValueError("prefix, include and exclude_words need the vocabulary")
        self.judge = judge
        self.ranker, self.agreement_weight = ranker, settings.agreement_weight
        self.decoder = decoder
        self.beam_size = settings.beam_size
        self.groups, self.diversity_penalty = settings.beam_groups, settings.diversity_penalty
        self.warp = (
            Warp(settings.sample_temperature, settings.top_k, settings.top_p, settings.typical_p)
            if settings.do_sample
            else None
        )
        self.votes = settings.votes
        self.max_length = settings.max_caption_length
        self.rules = Rules(settings.min_length, settings.no_repeat_ngram)
        constraints = constraints_of(vocabulary, settings) if vocabulary and settings.is_constrained else Constraints()
        self.phrases = PhraseRules(constraints, self.max_length)
        self.length_penalty = self.add_weight(
            name="length_penalty",
            initializer=keras.initializers.Constant(settings.length_penalty),
            dtype="float32",
            trainable=False,
        )
        self.built = True

    def call(self, inputs):
        features, draws = inputs if self.warp is not None else (inputs, None)
        return self._judged(features, self.search(features, draws))

    def call_with(self, features, beam_size, length_penalty, min_length):
        """``call`` with three settings as scalar tensors, in a graph that leaves them open (TensorFlow only).

        It is always beam search. With one beam that gives the same as greedy search. With required phrases
        ``beam_size`` must be an int.
        """
        options = self._options(features, length_penalty, replace(self.rules, min_length=min_length))
        return self._judged(features, self._ranked(features, self._beams(beam_size, options)))

    def search(self, features, draws=None) -> Hypotheses:
        """The captions of ``features``, best first. ``draws``: those of ``do_sample``."""
        options = self._options(features, ops.convert_to_tensor(self.length_penalty), self.rules)
        if self.warp is not None:
            del options["batch"]
            found = best_first(sample(uniforms=uniforms_of(draws), warp=self.warp, **options))
        elif self.beam_size == self.phrases.banks == 1:
            found = greedy_search(**options)
        else:
            found = self._beams(self.beam_size, options)
        return self._ranked(features, found)

    def _options(self, features, length_penalty, rules: Rules) -> dict[str, Any]:
        """The arguments that all searches have."""
        return {
            "step": self.decoder.step,
            "state": self.decoder.init_state(features),
            "batch": ops.shape(keras.tree.flatten(features)[0])[0],
            "max_length": self.max_length,
            "length_penalty": length_penalty,
            "rules": rules,
            "keep_trace": self.judge is not None,
            "phrases": self.phrases,
        }

    def _beams(self, beam_size, options: dict[str, Any]) -> Hypotheses:
        """What beam search finds, and consensus chooses if wanted. ``options``: those of ``_options``."""
        beams = beam_size
        if self.phrases.banks > 1:
            beams = self.groups * max(beam_size // self.groups, self.phrases.banks)
        found = beam_search(beam_size=beams, groups=self.groups, diversity_penalty=self.diversity_penalty, **options)
        if beams is not beam_size:
            found = keras.tree.map_structure(lambda part: part[:, :beam_size], found)
        return consensus(found) if self.votes else found

    def _ranked(self, features, found: Hypotheses) -> Hypotheses:
        """``found`` in the order that the ranker wants. What orders them becomes their score."""
        if self.ranker is None:
            return found
        scores = found.scores + self.agreement_weight * self.ranker(features, found)
        return best_first(found._replace(scores=scores))

    def _judged(self, features, found: Hypotheses) -> tuple[Any, ...]:
        """The parts that this model gives for what a search ``found``."""
        return tuple(found[:3]) if self.judge is None else (*found[:3], self.judge(features, self._chosen(found)))

    def _chosen(self, found: Hypotheses) -> Hypotheses:
        """``found`` without the prefix, which the model did not choose.

        It says nothing about how sure the model was.
        """
        skipped = self.phrases.prefix_length
        if not skipped:
            return found
        tokens, trace = keras.tree.map_structure(lambda part: part[:, :, skipped:], (found.tokens, found.trace))
        return found._replace(tokens=tokens, trace=trace)
