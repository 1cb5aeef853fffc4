"""The rules of whole phrases: what every caption starts with, what it contains, and what it does not contain.

A search carries how far each caption has come (``Progress``), because a phrase may have several words. The legend is in
``hypotheses.py``; besides, C is the number of groups of required phrases, and "..." stands for N, or for B, K.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from captioning.search.hypotheses import BANNED
from captioning.words.constraints import Constraints
from captioning.words.phrases import Automaton, used_tokens


class Progress(NamedTuple):
    """The states of the automata of each caption. An empty tuple stands where nothing needs to be remembered."""

    required: Any = ()  # int32 (..., C)
    forbidden: Any = ()  # int32 (..., 1)


class _Reader:
    """Reads captions with several automata, which have the same kinds of tokens."""

    def __init__(self, automata: tuple[Automaton, ...]):
        states = max(len(each.follow) for each in automata)
        follow = [np.pad(each.follow, [(0, states - len(each.follow)), (0, 0)]) for each in automata]
        self.count, (self._states, self._kinds) = len(automata), follow[0].shape
        self._kind_of, self._follow = automata[0].kinds, np.stack(follow).reshape(-1)

    def first(self, *rows):
        """The states before the first token, int32 ``(*rows, C)``."""
        return ops.zeros((*rows, self.count), dtype="int32")

    def read(self, states, tokens):
        """The states after ``tokens``, int32 ``(..., C)``, from ``states (..., C)`` and ``tokens (...)``."""
        kinds = ops.take(ops.convert_to_tensor(self._kind_of), tokens)
        return ops.take(ops.convert_to_tensor(self._follow), self.place(states) * self._kinds + kinds[..., None])

    def place(self, states):
        """Where the states stand in a table ``(C * S)`` of all states of all automata."""
        return states + ops.arange(self.count, dtype="int32") * self._states


class Required:
    """The groups of phrases of which every caption holds one each.

    A caption is in the bank b if b tokens of these phrases are done: all of a group that it holds, and of the others
    what it has begun last. Captions in the last bank, ``banks - 1``, hold all.
    """

    def __init__(self, automata: tuple[Automaton, ...]):
        self._reader = _Reader(automata)
        self.first, self.read = self._reader.first, self._reader.read
        self._needed = np.asarray([each.missing[0] for each in automata], "int32")  # tokens of each group
        states = max(len(each.missing) for each in automata)
        self._missing = np.concatenate([np.pad(each.missing, (0, states - len(each.missing))) for each in automata])
        self.banks = int(self._needed.sum()) + 1
        self.tokens = used_tokens(automata[0])  # int32 (U,): those that may change the bank, and <end>
        self.is_used = np.isin(np.arange(len(automata[0].kinds)), self.tokens)  # bool (V,)

    def bank(self, states):
        """The bank of captions in ``states`` int32 ``(..., C)``: int32 ``(...)``."""
        needed = ops.convert_to_tensor(self._needed)
        missing = ops.take(ops.convert_to_tensor(self._missing), self._reader.place(states))
        held = ops.where(missing == 0, needed, 0)
        begun = ops.where(missing == 0, 0, ops.maximum(needed - missing, 0))
        return ops.sum(held, axis=-1) + ops.max(begun, axis=-1)

    def has_all(self, states):
        """Whether captions in ``states`` int32 ``(..., C)`` hold all: bool ``(...)``."""
        return self.bank(states) == self.banks - 1


class _Forbidden:
    """The phrases that no caption may hold, as tokens that must not come next."""

    def __init__(self, automaton: Automaton):
        # A word is banned if it completes a phrase. If a WordPiece can still undo the phrase, what ends the word is
        # banned instead; but not at the last place of a caption, where nothing can follow.
        follow = automaton.follow[:, automaton.kinds]  # (S, V)
        completes = automaton.missing[follow] == 0
        bans = automaton.settled[follow] if _can_be_undone(automaton) else completes
        self._bans = np.stack([bans, completes])  # bool (2, S, V)
        reached = _reached(follow, bans)
        needs_state = (self._bans[:, reached] != self._bans[:, :1]).any()
        self._reader = _Reader((automaton,)) if needs_state else None

    def first(self, *rows):
        return self._reader.first(*rows) if self._reader else ()

    def read(self, states, tokens):
        return self._reader.read(states, tokens) if self._reader else ()

    def bans(self, states, is_last):
        """Bool ``(N, V)``, or ``(1, V)``: the tokens that must not follow.

        ``is_last``: at the last place for a word.
        """
        _, count, vocabulary = self._bans.shape
        if not self._reader:
            now = ops.take(ops.convert_to_tensor(self._bans[:, 0]), ops.cast(is_last, "int32"), axis=0)
            return now[None]
        rows = ops.cast(is_last, "int32") * count + states[:, 0]
        return ops.take(ops.convert_to_tensor(self._bans.reshape(-1, vocabulary)), rows, axis=0)


def _can_be_undone(automaton: Automaton) -> bool:
    """Whether a token can follow a whole phrase so that it is none."""
    whole = (automaton.missing == 0) & ~automaton.settled
    present = np.unique(automaton.kinds)
    return bool((automaton.missing[automaton.follow[whole][:, present]] > 0).any())


def _reached(follow: np.ndarray, bans: np.ndarray) -> list[int]:
    """The states that captions without banned tokens come to."""
    reached, new = {0}, [0]
    while new:
        state = new.pop()
        after = set(np.unique(follow[state][~bans[state]]).tolist()) - reached
        reached |= after
        new += after
    return sorted(reached)


class PhraseRules:
    """All rules of phrases of one search. Without ``constraints`` it changes nothing and carries nothing."""

    def __init__(self, constraints: Constraints, max_length: int):
        """``max_length``: words of the longest caption."""
        self._last = max_length - 1
        self.required = Required(constraints.required) if constraints.required else None
        self._forbidden = _Forbidden(constraints.forbidden) if constraints.forbidden is not None else None
        self._prefix = constraints.prefix
        self._goes_on = constraints.goes_on

    @property
    def is_constrained(self) -> bool:
        """Whether there is any rule."""
        return bool(self._prefix or self.required or self._forbidden)

    @property
    def prefix_length(self) -> int:
        """Tokens of the prefix."""
        return len(self._prefix)

    @property
    def banks(self) -> int:
        """How many captions of an image must grow together, so that one of them comes to hold all required phrases."""
        return self.required.banks if self.required else 1

    def first(self, *rows) -> Progress:
        """The progress before the first token."""
        return Progress(
            self.required.first(*rows) if self.required else (),
            self._forbidden.first(*rows) if self._forbidden else (),
        )

    def read(self, progress: Progress, tokens) -> Progress:
        """The progress after ``tokens`` int32 ``(...)``."""
        return Progress(
            self.required.read(progress.required, tokens) if self.required else (),
            self._forbidden.read(progress.forbidden, tokens) if self._forbidden else (),
        )

    def ban(self, log_p, progress: Progress, t):
        """``log_p`` float32 ``(N, V)`` with each word at ``BANNED`` that must not stand at position ``t``.

        The probability of banned words goes to no other word. So a caption has the log p that it has in a free search.
        ``progress.forbidden`` is int32 ``(N, 1)``. Required phrases ban nothing here.
        """
        bans = []
        if self._prefix:
            table = self._prefix_bans(log_p.shape[-1])
            bans.append(ops.take(ops.convert_to_tensor(table), ops.minimum(t, len(table) - 1), axis=0)[None])
        if self._forbidden:
            bans.append(self._forbidden.bans(progress.forbidden, t == self._last))
        if not bans:
            return log_p
        return ops.where(bans[0] if len(bans) == 1 else ops.logical_or(*bans), BANNED, log_p)

    def _prefix_bans(self, vocabulary: int) -> np.ndarray:
        """Bool ``(P + 2, V)``: the tokens that must not stand at each of the P places of the prefix, and after them."""
        places = len(self._prefix)
        table = np.zeros((places + 2, vocabulary), bool)
        table[:places] = True
        table[np.arange(places), self._prefix] = False
        table[places, list(self._goes_on)] = True
        return table


# No rule.
FREE = PhraseRules(Constraints(), 1)
