"""What a user asks of captions (``prefix``, ``include``, ``exclude_words``), in the tokens of a vocabulary.

No Keras.
"""

import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from captioning.base.errors import UserError
from captioning.words.phrases import Automaton, automata
from captioning.words.vocabulary import Vocabulary
from config import DecodingSettings

OR = "|"  # stands between alternatives of ``include``
# Chinese, Japanese and Arabic keyboards write these. Left out as punctuation, they would make one phrase of two words.
_OTHER_COMMAS = re.compile("[，、､،]")


class Constraints(NamedTuple):
    """What every caption of a search must hold and must not hold."""

    prefix: tuple[int, ...] = ()  # the tokens that it starts with
    goes_on: tuple[int, ...] = ()  # the tokens that go on with a word, so they must not follow the prefix
    required: tuple[Automaton, ...] = ()  # it holds a phrase of each group
    forbidden: Automaton | None = None  # it holds no phrase of this group


class Wanted(NamedTuple):
    """The phrases that settings name, as lists of words."""

    prefix: list[str]
    include: list[list[list[str]]]  # alternatives of each required phrase
    exclude: list[list[str]]


def asking(
    settings: DecodingSettings,
    prefix: str | None,
    force_words: Sequence[str | Sequence[str]] | None,
    bad_words: Sequence[str] | None,
) -> DecodingSettings:
    """``settings`` with other words to ask for, under the names of Hugging Face. None leaves a setting as it is.

    A text in place of a list is one phrase.
    """
    changes: dict[str, Any] = {}
    if prefix is not None:
        changes["prefix"] = prefix
    if force_words is not None:
        phrases = [force_words] if isinstance(force_words, str) else force_words
        changes["include"] = tuple(each if isinstance(each, str) else OR.join(each) for each in phrases)
    if bad_words is not None:
        changes["exclude_words"] = (bad_words,) if isinstance(bad_words, str) else tuple(bad_words)
    return settings.model_copy(update=changes) if changes else settings


def constraints_of(vocabulary: Vocabulary, settings: DecodingSettings) -> Constraints:
    """What ``settings`` ask, in the tokens of ``vocabulary``. Raises UserError if no caption can hold it.

    Excluded phrases with a word that the vocabulary does not know need no rule, because no caption can hold them.
    """
    wanted = _wanted(vocabulary, settings)
    _refuse_unknown(vocabulary, "prefix", wanted.prefix)
    for alternatives in wanted.include:
        _refuse_unknown(vocabulary, "include", [word for phrase in alternatives for word in phrase])
    _refuse_contradictions(wanted)
    prefix = tuple(vocabulary.encode(settings.prefix, len(settings.prefix)).tolist()[1:-1])
    required = automata(vocabulary, wanted.include)
    _refuse_lack_of_room(settings, prefix, required)
    _refuse_repeats(settings, prefix)
    exclude = [phrase for phrase in wanted.exclude if all(map(vocabulary.knows, phrase))]
    goes_on = [i for i, word in enumerate(vocabulary.words) if vocabulary.wordpieces and word.startswith("##")]
    return Constraints(
        prefix,
        tuple(goes_on) if prefix else (),
        tuple(required),
        automata(vocabulary, [exclude])[0] if exclude else None,
    )


def check_constraints(vocabulary: Vocabulary, settings: DecodingSettings) -> None:
    """Refuse as ``constraints_of`` does, before any work, and name on stderr what ``exclude_words`` asks in vain."""
    constraints_of(vocabulary, settings)
    for phrase in _wanted(vocabulary, settings).exclude:
        if unknown := _unknown(vocabulary, phrase):
            print(f"note: exclude_words: no caption has {_with_near(vocabulary, unknown)} anyway", file=sys.stderr)


def _wanted(vocabulary: Vocabulary, settings: DecodingSettings) -> Wanted:
    """The phrases in ``settings``. Raises UserError for one without a word."""
    return Wanted(
        _words(vocabulary, "prefix", settings.prefix) if settings.prefix else [],
        [[_words(vocabulary, "include", phrase) for phrase in text.split(OR)] for text in settings.include],
        [_words(vocabulary, "exclude_words", phrase) for phrase in settings.exclude_words],
    )


def _words(vocabulary: Vocabulary, name: str, text: str) -> list[str]:
    if name != "prefix" and (comma := _OTHER_COMMAS.search(text)):
        raise UserError(f"{name}: {text!r} holds {comma[0]!r}, which separates nothing; write a plain comma (,)")
    words = vocabulary.split(text)
    if not words:
        raise UserError(f"{name}: {text!r} holds no word; leave it out, or write a word")
    return words


def _unknown(vocabulary: Vocabulary, words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if not vocabulary.knows(word)]


def _refuse_unknown(vocabulary: Vocabulary, name: str, words: Sequence[str]) -> None:
    if unknown := _unknown(vocabulary, words):
        raise UserError(
            f"{name}: this captioner does not know {_with_near(vocabulary, unknown)}; take words that it knows, or "
            f"leave them out"
        )


def _with_near(vocabulary: Vocabulary, unknown: Sequence[str]) -> str:
    """The words ``unknown``, each with up to three that are spelled nearly like it."""
    known = [] if vocabulary.wordpieces else vocabulary.words
    near = {word: difflib.get_close_matches(word, known, n=3) for word in unknown}
    return ", ".join(
        f"{word!r}" + (f" (did you mean {' or '.join(found)}?)" if found else "") for word, found in near.items()
    )


def _holds(words: Sequence[str], phrase: Sequence[str]) -> bool:
    return any(list(words[i : i + len(phrase)]) == list(phrase) for i in range(len(words) - len(phrase) + 1))


def _refuse_contradictions(wanted: Wanted) -> None:
    for phrase in wanted.exclude:
        if _holds(wanted.prefix, phrase):
            raise UserError(f"prefix: holds {' '.join(phrase)!r}, which exclude_words forbids; change one of them")
    for alternatives in wanted.include:
        clashes = [next((no for no in wanted.exclude if _holds(phrase, no)), None) for phrase in alternatives]
        if all(clashes):
            asked = f" {OR} ".join(map(" ".join, alternatives))
            raise UserError(
                f"include: {asked!r} holds {' '.join(clashes[0] or ())!r}, which exclude_words forbids; change one of "
                "them"
            )


def _refuse_lack_of_room(settings: DecodingSettings, prefix: tuple[int, ...], required: Sequence[Automaton]) -> None:
    """Refuse what needs more tokens than a caption may have. Phrases may share words, so not all is found here."""
    room = settings.max_caption_length
    if len(prefix) > room:
        raise UserError(
            f"prefix: has {len(prefix)} words, and max_caption_length is {room}; shorten it, or raise "
            "max_caption_length"
        )
    longest, apart = 0, set()
    for automaton in required:
        state = 0
        for token in prefix:
            state = automaton.follow[state, automaton.kinds[token]]
        longest = max(longest, int(automaton.missing[state]))
        if automaton.missing[0] == 1 and automaton.missing[state]:
            # One token is enough, and no caption can do without one of these.
            apart.add(frozenset(np.flatnonzero(automaton.missing[automaton.follow[0]] == 0).tolist()))
    # Groups that have no token in common need one token each.
    alone = [group for group in apart if not any(group & other for other in apart - {group})]
    if len(prefix) + max(longest, len(alone)) > room:
        raise UserError(
            f"include: needs {max(longest, len(alone))} words{' behind the prefix' if prefix else ''}, and "
            f"max_caption_length is {room}; ask for fewer, or raise max_caption_length"
        )


def _refuse_repeats(settings: DecodingSettings, prefix: tuple[int, ...]) -> None:
    n = settings.no_repeat_ngram
    parts = [prefix[i : i + n] for i in range(len(prefix) - n + 1)]
    if n and len(set(parts)) < len(parts):
        raise UserError(
            f"prefix: repeats a sequence of {n} words, which no_repeat_ngram={n} forbids; shorten it, or set "
            "no_repeat_ngram to 0"
        )
