"""Scripted step functions over a tiny vocabulary, and plain-Python references for searches over them.

A toy model is a table of logits ``(codes, V)``. The words so far are numbered by a code, which picks the row. So every
prefix has a distribution of its own. Each image of a batch has its own table: one search tries many random models.
"""

import itertools

import numpy as np
import pytest
from keras import ops

from captioning.search.beam import beam_search
from captioning.search.greedy import greedy_search
from captioning.search.hypotheses import BANNED
from captioning.search.phrases import FREE
from captioning.search.rules import Rules
from captioning.words.vocabulary import END, PAD, UNK


def random_tables(images: int, words: int, max_length: int, seed: int = 0, scale: float = 1.5) -> np.ndarray:
    """Random logits ``(images, codes, V)``; ``<end>`` becomes more probable with every word, so lengths differ."""
    rng = np.random.default_rng(seed)
    tables = rng.normal(0, scale, (images, (words + 1) ** max_length, words + 4)).astype("float32")
    tables[:, :, END] += np.linspace(-2.5, 1.5, tables.shape[1])[None] + rng.normal(0, 2, (images, 1))
    return tables


def code(prefix, words: int) -> int:
    number = 0
    for word in prefix:
        number = number * (words + 1) + word - 3
    return number


def toy(tables: np.ndarray, max_length: int):
    """The step function of ``tables``, and its first state. ``state["seen"]`` records the tokens that were fed."""
    images, codes, vocabulary = tables.shape
    flat = ops.convert_to_tensor(tables.reshape(images * codes, vocabulary))

    def step(token_ids, state):
        digit = ops.where(token_ids > UNK, token_ids - 3, 0)
        number = ops.minimum(state["code"] * (vocabulary - 3) + digit, codes - 1)
        logits = ops.take(flat, state["image"] * codes + number, axis=0)
        seen = ops.concatenate([state["seen"][:, 1:], token_ids[:, None]], axis=1)
        return logits, {"image": state["image"], "code": number, "seen": seen}

    state = {
        "image": ops.arange(images, dtype="int32"),
        "code": ops.zeros((images,), dtype="int32"),
        "seen": ops.full((images, max_length + 1), PAD, dtype="int32"),
    }
    return step, state


def search(
    tables: np.ndarray,
    max_length: int,
    beam_size: int | None = None,
    length_penalty: float = 1.0,
    phrases=FREE,
    groups: int = 1,
    diversity_penalty: float = 0.0,
    **rules,
):
    """Tokens ``(B, K, L)``, log-probabilities and scores ``(B, K)`` as arrays; greedy search without ``beam_size``."""
    step, state = toy(tables, max_length)
    options = {"length_penalty": length_penalty, "rules": Rules(**rules), "phrases": phrases}
    if beam_size is None:
        found = greedy_search(step, state, len(tables), max_length, **options)
    else:
        options |= {"groups": groups, "diversity_penalty": diversity_penalty}
        found = beam_search(step, state, len(tables), max_length, beam_size, **options)
    return [ops.convert_to_numpy(part) for part in found[:3]]


# References in plain Python ------------------------------------------------------------------------------------------


def next_log_p(table: np.ndarray, prefix: list[int], min_length: int = 1, no_repeat_ngram: int = 0) -> dict[int, float]:
    """Log p of every word that may follow ``prefix``."""
    words = table.shape[1] - 4
    logits = table[code(prefix, words)].astype("float64")
    allowed = [END] if len(prefix) >= min_length else []
    allowed += range(4, words + 4)
    total = np.logaddexp.reduce(logits[allowed])
    n = no_repeat_ngram
    if n and len(prefix) >= n:
        before = {tuple(prefix[i : i + n]) for i in range(len(prefix) - n + 1)}
        last = tuple(prefix[len(prefix) - n + 1 :])
        allowed = [word for word in allowed if word == END or (*last, word) not in before]
    return {word: logits[word] - total for word in allowed}


def all_captions(table, max_length, length_penalty, **options):
    """Every caption that ends, best first, and then every caption that is cut."""
    ended, cut = [], []
    for length in range(1, max_length + 1):
        for prefix in itertools.product(range(4, table.shape[1]), repeat=length):
            log_p = 0.0
            for t, word in enumerate(prefix):
                log_p += next_log_p(table, list(prefix[:t]), **options).get(word, -np.inf)
            end = log_p + next_log_p(table, list(prefix), **options).get(END, -np.inf)
            ended.append(([*prefix, END], end, end / (length + 1) ** length_penalty))
            if length == max_length:
                cut.append((list(prefix), log_p, log_p / length**length_penalty))
    best_first = [sorted(group, key=lambda item: -item[2]) for group in (ended, cut)]
    return [item for group in best_first for item in group if item[1] > -np.inf]


def assert_same(found, expected, image: int) -> None:
    """Beam ``image`` of ``found`` is the list ``expected`` of (tokens, log p, score)."""
    tokens, log_probs, scores = (part[image] for part in found)
    for k, (words, log_p, score) in enumerate(expected):
        assert tokens[k].tolist() == words + [PAD] * (tokens.shape[1] - len(words)), f"image {image}, beam {k}"
        assert log_probs[k] == pytest.approx(log_p, abs=1e-4)
        assert scores[k] == pytest.approx(score, abs=1e-4)
    assert (log_probs[len(expected) :] < BANNED / 2).all()
