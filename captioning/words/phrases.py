"""Automata that read a caption token by token and know whether it holds a phrase. No Keras.

A phrase is one or several whole words that stand next to one another. "cat" is not in "cattle", also where the
vocabulary has WordPieces and "cattle" begins with the piece "cat". Every way to write a word in WordPieces counts.
Legend: V vocabulary size, S states, M kinds of tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioning.words.vocabulary import END, SPECIALS, Vocabulary

# What no phrase holds. A caption's end is spelled like a word, because it ends the word before.
_NO_WORD = " \n"
# The kinds of tokens that no phrase holds: those that begin a word, and WordPieces that go on with one.
_BEGINS, _GOES_ON = 0, 1
_NEVER = 1 << 20  # tokens: more than any caption has

# How far the phrases that a caption may be in the middle of are matched: pairs of phrase and letters. None: no token
# yet.
_Matched = frozenset[tuple[int, int]] | None


class Automaton(NamedTuple):
    """A reader of captions for one group of phrases. The state before the first token is 0."""

    kinds: np.ndarray  # int32 (V,): the kind of each token
    follow: np.ndarray  # int32 (S, M): the state after a token of this kind
    missing: np.ndarray  # int32 (S,): fewest further tokens until the caption holds a phrase of the group; 0: it does
    settled: np.ndarray  # bool (S,): whether it holds one whatever comes next. A WordPiece may still undo the others


def spell(vocabulary: Vocabulary) -> list[str]:
    """How the text of a caption grows by each token, with a space before each word; for words also one behind it."""
    if not vocabulary.wordpieces:
        return [_NO_WORD] * len(SPECIALS) + [f" {word} " for word in vocabulary.words[len(SPECIALS) :]]
    return [_NO_WORD] * len(SPECIALS) + [
        word[2:] if word.startswith("##") else f" {word}" for word in vocabulary.words[len(SPECIALS) :]
    ]


def automata(vocabulary: Vocabulary, groups: Sequence[Sequence[Sequence[str]]]) -> list[Automaton]:
    """An automaton for each of ``groups``. A group is a list of phrases, and a phrase is a list of words.

    All automata have the same kinds of tokens. Phrases that the vocabulary cannot write are never found.
    """
    behind = "" if vocabulary.wordpieces else " "
    texts = [["".join(f" {word}{behind}" for word in phrase) for phrase in group] for group in groups]
    spelled = spell(vocabulary)
    every = "\n".join(text for group in texts for text in group)
    used = [token for token, piece in enumerate(spelled) if piece != _NO_WORD and piece in every]
    kinds = np.asarray([_BEGINS if piece.startswith(" ") else _GOES_ON for piece in spelled], "int32")
    kinds[used] = np.arange(len(used)) + 2
    pieces = [_NO_WORD, "\n", *(spelled[token] for token in used)]
    return [Automaton(kinds, *_table(group, pieces)) for group in texts]


def _table(texts: Sequence[str], pieces: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``follow``, ``missing`` and ``settled`` of an automaton for phrases with these ``texts``.

    ``pieces``: how a token of each kind is spelled.
    """
    begun = [frozenset((i, len(piece)) for i, text in enumerate(texts) if text.startswith(piece)) for piece in pieces]
    settled: _Matched = frozenset([(-1, 0)])
    numbers: dict[_Matched, int] = {None: 0, settled: 1}
    follow = []
    for matched in (states := list(numbers)):  # the list grows
        row = []
        for kind, piece in enumerate(pieces):
            after = _after(matched, piece, begun[kind], texts) if matched != settled else settled
            if matched and piece.startswith(" ") and _is_whole(matched, texts):
                after = settled
            if after not in numbers:
                numbers[after] = len(numbers)
                states.append(after)
            row.append(numbers[after])
        follow.append(row)
    table = np.asarray(follow, "int32")
    missing = np.full(len(states), _NEVER, "int32")
    missing[[number for matched, number in numbers.items() if matched and _is_whole(matched, texts)]] = 0
    missing[1] = 0
    while not np.array_equal(nearer := np.minimum(missing, missing[table].min(axis=1) + 1), missing):
        missing = nearer
    return table, missing, np.arange(len(states)) == 1


def _after(
    matched: _Matched, piece: str, begun: frozenset[tuple[int, int]], texts: Sequence[str]
) -> frozenset[tuple[int, int]]:
    """What is matched once ``piece`` has followed. ``begun``: the phrases that begin with it."""
    if matched is None:
        # A caption may begin with a WordPiece that usually goes on with a word. It then is one.
        first = piece if piece.startswith(" ") else f" {piece}"
        return frozenset((i, len(first)) for i, text in enumerate(texts) if text.startswith(first))
    return begun | {(i, done + len(piece)) for i, done in matched if texts[i].startswith(piece, done)}


def _is_whole(matched: frozenset[tuple[int, int]], texts: Sequence[str]) -> bool:
    """Whether the caption ends with a whole phrase."""
    return any(i >= 0 and done == len(texts[i]) for i, done in matched)


def used_tokens(automaton: Automaton) -> np.ndarray:
    """The tokens that occur in the phrases, and ``<end>``: int32 ``(U,)``."""
    used = automaton.kinds > _GOES_ON
    used[END] = True
    return np.flatnonzero(used).astype("int32")
