"""Greedy and beam search against plain-Python references, on scripted step functions over a tiny vocabulary."""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from keras import ops
from toy_search import all_captions, assert_same, code, next_log_p, random_tables, search, toy

from captioning.search.beam import beam_search
from captioning.search.consensus import consensus
from captioning.search.greedy import greedy_search
from captioning.search.hypotheses import BANNED, Hypotheses
from captioning.search.rules import Rules
from captioning.search.sampling import sample
from captioning.search.state import loop_while
from captioning.words.vocabulary import END, PAD, START, UNK

OPTIONS = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0, "min_length": 3},
    {"no_repeat_ngram": 1},
    {"no_repeat_ngram": 2, "min_length": 2, "length_penalty": 0.7},
]


# References in plain Python ------------------------------------------------------------------------------------------


def greedy_reference(table, max_length, length_penalty=1.0, **options):
    prefix, log_p = [], 0.0
    while True:
        following = next_log_p(table, prefix, **options)
        word = max(following, key=following.get)
        if word == END:
            prefix, log_p = [*prefix, END], log_p + following[END]
        if word == END or len(prefix) == max_length:
            return prefix, log_p, log_p / len(prefix) ** length_penalty
        prefix, log_p = [*prefix, word], log_p + following[word]


def beam_reference(table, max_length, beam_size, length_penalty=1.0, **options):
    """Best first, ended captions before cut ones."""
    live, ended = [([], 0.0)], []
    for t in range(max_length + 1):
        candidates = [
            ([*prefix, word], log_p + following)
            for prefix, log_p in live
            for word, following in next_log_p(table, prefix, **options).items()
        ]
        candidates.sort(key=lambda item: -item[1])
        ended += [
            (tokens, p, p / len(tokens) ** length_penalty) for tokens, p in candidates[:beam_size] if END in tokens
        ]
        if t < max_length:
            live = [item for item in candidates if END not in item[0]][:beam_size]
        ended = sorted(ended, key=lambda item: -item[2])[:beam_size]
        if not live or (len(ended) == beam_size and live[0][1] / (t + 1) ** length_penalty <= ended[-1][2]):
            break
    cut = [(tokens, p, p / len(tokens) ** length_penalty) for tokens, p in live if len(tokens) == max_length]
    return (ended + cut)[:beam_size]


# Equalities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_greedy_and_one_beam_take_the_best_word_each_time(options):
    tables = random_tables(100, words=4, max_length=5)
    greedy, beam = search(tables, 5, **options), search(tables, 5, beam_size=1, **options)
    lengths = set()
    for image, table in enumerate(tables):
        expected = greedy_reference(table, 5, **options)
        lengths.add((len(expected[0]), expected[0][-1] == END))
        assert_same(greedy, [expected], image)
        assert_same(beam, [expected], image)
    assert len(lengths) >= 4, "the tables should give captions of many lengths, cut ones among them"
    assert [part.dtype for part in greedy] == [part.dtype for part in beam] == ["int32", "float32", "float32"]
    assert [part.shape for part in greedy] == [part.shape for part in beam] == [(100, 1, 6), (100, 1), (100, 1)]


@pytest.mark.parametrize("beam_size", [2, pytest.param(5, marks=pytest.mark.backends)])
@pytest.mark.parametrize("options", OPTIONS)
def test_beams_equal_a_plain_beam_search(options, beam_size):
    tables = random_tables(40, words=4, max_length=5, seed=beam_size)
    found = search(tables, 5, beam_size, **options)
    for image, table in enumerate(tables):
        assert_same(found, beam_reference(table, 5, beam_size, **options), image)


@pytest.mark.parametrize(
    "options",
    [
        {"length_penalty": 0.0},
        {"length_penalty": 0.7},
        {"length_penalty": 1.0},
        {"length_penalty": 1.0, "min_length": 2},
    ],
)
def test_a_wide_beam_is_exhaustive_search(options):
    # 3 + 9 + 27 captions that end and 27 that are cut. The last word of 27 has 27 * 4 continuations: all fit.
    tables = random_tables(10, words=3, max_length=3, seed=3)
    found = search(tables, 3, beam_size=108, **options)
    for image, table in enumerate(tables):
        expected = all_captions(table, 3, **options)
        assert_same(found, expected, image)
        assert len(expected) == (66 if "min_length" not in options else 63)


@pytest.mark.backends
def test_a_batch_is_captioned_as_each_image_alone():
    tables = random_tables(4, words=4, max_length=5, seed=5)
    # The first image can end at once and is done long before the second, which never ends.
    tables[0, :, END] += 20
    tables[1, :, END] -= 40
    for beam_size in (None, 3):
        together = search(tables, 5, beam_size)
        for image in range(4):
            alone = search(tables[image : image + 1], 5, beam_size)
            for part, single in zip(together, alone, strict=True):
                np.testing.assert_allclose(part[image], single[0], rtol=1e-6)
    assert together[0][0, 0, 1] == END
    assert END not in together[0][1]


def test_captions_that_end_early_do_not_cut_off_a_better_one():
    # "a a a a" is almost certain, but after each word <end> is among the three best continuations.
    tables = np.zeros((1, 2**4, 5), "float32")
    tables[:, :, END] = -12
    tables[0, code([4, 4, 4, 4], 1), END] = 12
    for length_penalty in (0.0, 1.0):
        tokens, log_probs, _ = search(tables, 4, beam_size=3, length_penalty=length_penalty)
        assert tokens[0, 0].tolist() == [4, 4, 4, 4, END]
        assert log_probs[0, 0] == pytest.approx(0, abs=1e-3)


# What always holds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beam_size", [None, 1, pytest.param(4, marks=pytest.mark.backends)])
def test_special_tokens_are_never_words(beam_size):
    tables = random_tables(20, words=3, max_length=4)
    tables[:, :, [PAD, START, UNK]] = 60.0
    plain = tables.copy()
    plain[:, :, [PAD, START, UNK]] = -60.0
    tokens, log_probs, _ = search(tables, 4, beam_size, no_repeat_ngram=2)
    expected = search(plain, 4, beam_size, no_repeat_ngram=2)
    np.testing.assert_array_equal(tokens, expected[0])
    # Impossible words take no probability from the others.
    np.testing.assert_allclose(log_probs, expected[1], rtol=1e-5)
    for caption in tokens.reshape(-1, 5).tolist():
        end = caption.index(END) if END in caption else 4
        assert set(caption[:end]) <= {4, 5, 6}
        assert set(caption[end + 1 :]) <= {PAD}


@pytest.mark.parametrize("end_logit", [-80.0, -1e9])
@pytest.mark.parametrize("beam_size", [None, 1, 3])
def test_there_is_a_caption_even_if_none_ends(beam_size, end_logit):
    tables = random_tables(8, words=3, max_length=4)
    tables[:, :, END] = end_logit
    tokens, log_probs, scores = search(tables, 4, beam_size, length_penalty=0.7)
    assert (tokens[:, :, :4] > UNK).all()
    assert (tokens[:, :, 4] == PAD).all()
    assert (log_probs > -50).all()
    np.testing.assert_allclose(scores, log_probs / 4**0.7, rtol=1e-5)
    assert (np.diff(log_probs) <= 0).all()


def test_more_beams_than_captions():
    # One word, at most twice: "a", "a a" and the cut "a a" are all there is.
    tables = np.zeros((2, 4, 5), "float32")
    tokens, log_probs, _ = search(tables, 2, beam_size=6, length_penalty=0.0)
    expected = [[4, END, PAD], [4, 4, END], [4, 4, PAD]]
    for image in range(2):
        assert tokens[image, :3].tolist() == expected
    np.testing.assert_allclose(np.exp(log_probs[:, :3]), [[0.5, 0.25, 0.5]] * 2, rtol=1e-5)
    assert (log_probs[:, 3:] < BANNED / 2).all()


@pytest.mark.parametrize("beam_size", [None, 3])
@pytest.mark.parametrize("min_length", [1, 3, 5])
def test_no_caption_is_shorter_than_min_length(beam_size, min_length):
    tables = random_tables(10, words=3, max_length=5)
    tables[:, :, END] += 30
    tokens, _, _ = search(tables, 5, beam_size, min_length=min_length)
    assert (tokens[:, :, :min_length] > UNK).all()
    assert (tokens[:, 0, min_length] == END).all()


@pytest.mark.parametrize("beam_size", [None, 3])
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.backends), 3])
def test_no_ngram_repeats(beam_size, n):
    max_length = 7
    # The same few words are the most probable after any prefix. Without the rule all captions repeat them.
    rng = np.random.default_rng(n)
    logits = rng.normal(0, 2, (12, 12)).astype("float32")
    logits[:, END] = -4
    flat = ops.convert_to_tensor(logits)

    def step(token_ids, state):
        return ops.take(flat, state, axis=0), state

    def captions(**rules):
        state = ops.arange(12, dtype="int32")
        if beam_size:
            found = beam_search(step, state, 12, max_length, beam_size, rules=Rules(**rules))
        else:
            found = greedy_search(step, state, 12, max_length, rules=Rules(**rules))
        tokens = ops.convert_to_numpy(found.tokens).reshape(-1, max_length + 1).tolist()
        return [[token for token in caption if token > UNK] for caption in tokens]

    def repeats(caption):
        ngrams = [tuple(caption[i : i + n]) for i in range(len(caption) - n + 1)]
        return len(ngrams) != len(set(ngrams))

    assert all(repeats(caption) for caption in captions()[:: beam_size or 1])
    blocked = captions(no_repeat_ngram=n)
    assert not any(repeats(caption) for caption in blocked)
    assert max(map(len, blocked)) == max_length


def test_an_ngram_longer_than_any_caption_blocks_nothing():
    tables = random_tables(5, words=3, max_length=2)
    for found, expected in zip(search(tables, 2, 3, no_repeat_ngram=10), search(tables, 2, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_beams_are_distinct_ranked_and_scored_by_their_length(length_penalty):
    tables = random_tables(30, words=4, max_length=5)
    tokens, log_probs, scores = search(tables, 5, beam_size=6, length_penalty=length_penalty)
    lengths = (tokens != PAD).sum(-1)
    np.testing.assert_allclose(scores, log_probs / lengths**length_penalty, rtol=1e-5)
    for image in range(30):
        assert len({tuple(caption) for caption in tokens[image].tolist()}) == 6
        has_ended = (tokens[image] == END).any(-1)
        assert (np.diff(scores[image][has_ended]) <= 1e-6).all()
        assert (np.diff(has_ended.astype(int)) <= 0).all(), "captions that were cut come last"


def test_a_length_penalty_favours_longer_captions():
    lengths = []
    for length_penalty in (0.0, 1.0, 2.0):
        tokens, _, _ = search(random_tables(50, words=4, max_length=5), 5, 5, length_penalty=length_penalty)
        lengths.append((tokens[:, 0] != PAD).sum(-1).mean())
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.backends
@pytest.mark.parametrize("beam_size", [None, 4])
def test_state_follows_its_hypothesis(beam_size):
    """Every token is scored by the state that has seen exactly the tokens before it."""
    max_length = 5
    tables = random_tables(6, words=4, max_length=max_length, seed=9)
    step, state = toy(tables, max_length)

    def history_step(token_ids, state):
        # Logits from what the state itself remembers: the code is computed from the tokens seen, not carried along.
        _, new = step(token_ids, state)
        number = ops.zeros_like(new["code"])
        for position in range(max_length + 1):
            token = new["seen"][:, position]
            number = ops.where(token > UNK, number * (tables.shape[2] - 3) + token - 3, number)
        number = ops.minimum(number, tables.shape[1] - 1)
        flat = ops.convert_to_tensor(tables.reshape(-1, tables.shape[2]))
        return ops.take(flat, new["image"] * tables.shape[1] + number, axis=0), {**new, "code": number}

    if beam_size:
        found = beam_search(history_step, state, 6, max_length, beam_size)
    else:
        found = greedy_search(history_step, state, 6, max_length)
    tokens, log_probs = ops.convert_to_numpy(found.tokens), ops.convert_to_numpy(found.log_probs)
    for image, beam in itertools.product(range(6), range(beam_size or 1)):
        words = [token for token in tokens[image, beam].tolist() if token != PAD]
        log_p = sum(next_log_p(tables[image], words[:t])[word] for t, word in enumerate(words))
        assert log_probs[image, beam] == pytest.approx(log_p, abs=1e-4)


@pytest.mark.backends
def test_a_state_may_be_any_nest():
    tables = random_tables(3, words=3, max_length=4)
    step, state = toy(tables, 4)

    def nested_step(token_ids, nest):
        logits, new = step(token_ids, nest["inner"][0])
        return logits, {"inner": [new, ()], "vector": nest["vector"] + 1}

    nest = {"inner": [state, ()], "vector": ops.zeros((3, 2))}
    found = beam_search(nested_step, nest, 3, 4, 3)
    np.testing.assert_array_equal(ops.convert_to_numpy(found.tokens), search(tables, 4, 3)[0])


@pytest.mark.parametrize("beam_size", [None, pytest.param(3, marks=pytest.mark.backends)])
def test_what_is_of_the_image_alone_is_never_reordered(beam_size):
    """So ``step`` gets the very tensors that the search began with, one row for each hypothesis."""
    images = np.arange(3 * 5, dtype="float32").reshape(3, 5)
    rng = np.random.default_rng(0)
    flat = ops.convert_to_tensor(rng.normal(size=(10, 10)).astype("float32"))
    seen = []

    def step(token_ids, state):
        seen.append(ops.convert_to_numpy(state["image"]["vectors"]))
        return ops.take(flat, token_ids, axis=0), {**state, "count": state["count"] + 1}

    state = {"image": {"vectors": ops.convert_to_tensor(images)}, "count": ops.zeros((3,))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "while_loop", eager_while_loop)
        if beam_size:
            beam_search(step, state, 3, 4, beam_size)
        else:
            greedy_search(step, state, 3, 4)
    assert len(seen) > 1
    for each in seen:
        np.testing.assert_array_equal(each, np.repeat(images, beam_size or 1, axis=0))


def eager_while_loop(cond, body, loop_vars):
    """A loop in Python, so that a step can look at values on every backend."""
    while cond(*loop_vars):
        loop_vars = body(*loop_vars)
    return loop_vars


@pytest.mark.backends
def test_a_loop_carries_a_named_tuple():
    class State(NamedTuple):
        t: Any
        nest: Any

    first = State(ops.convert_to_tensor(0, dtype="int32"), {"sums": [ops.zeros((2,)), ()]})

    def advance(now: State) -> State:
        return now._replace(t=now.t + 1, nest={"sums": [now.nest["sums"][0] + 2.0, ()]})

    last = loop_while(lambda now: now.t < 3, advance, first)
    assert isinstance(last, State)
    assert int(last.t) == 3
    np.testing.assert_array_equal(ops.convert_to_numpy(last.nest["sums"][0]), [6, 6])


@pytest.mark.backends
def test_half_precision_logits():
    tables = random_tables(10, words=3, max_length=4)
    tables = tables.astype("float16").astype("float32")
    step, state = toy(tables, 4)

    def half_step(token_ids, state):
        logits, state = step(token_ids, state)
        return ops.cast(logits, "float16"), state

    found = beam_search(half_step, state, 10, 4, 3)
    np.testing.assert_array_equal(ops.convert_to_numpy(found.tokens), search(tables, 4, 3)[0])


@pytest.mark.parametrize("scale", [0.01, 40.0])
def test_logits_of_any_size(scale):
    """Nearly equal probabilities, and probabilities of nearly zero and one."""
    tables = random_tables(20, words=4, max_length=5, scale=scale)
    for beam_size in (None, 3):
        options = {"no_repeat_ngram": 2, "min_length": 2}
        found = search(tables, 5, beam_size, **options)
        for image, table in enumerate(tables):
            if beam_size:
                expected = beam_reference(table, 5, beam_size, **options)
            else:
                expected = [greedy_reference(table, 5, **options)]
            assert found[0][image, 0].tolist()[: len(expected[0][0])] == expected[0][0]
            assert found[1][image, 0] == pytest.approx(expected[0][1], rel=1e-4, abs=1e-3)


# Traces --------------------------------------------------------------------------------------------------------------


def traced(tables: np.ndarray, max_length: int, beam_size: int | None, keep_trace: bool = True, **rules) -> Hypotheses:
    step, state = toy(tables, max_length)
    options = {"rules": Rules(**rules), "keep_trace": keep_trace}
    if beam_size is None:
        return greedy_search(step, state, len(tables), max_length, **options)
    return beam_search(step, state, len(tables), max_length, beam_size, **options)


@pytest.mark.backends
@pytest.mark.parametrize("rules", [{}, {"no_repeat_ngram": 2, "min_length": 2}])
@pytest.mark.parametrize("beam_size", [None, 1, 4])
def test_a_trace_says_how_sure_the_model_was_of_each_word(beam_size, rules):
    tables = random_tables(20, words=3, max_length=4)
    found = traced(tables, 4, beam_size, **rules)
    tokens, log_p, entropy = (ops.convert_to_numpy(part) for part in (found.tokens, *found.trace))
    assert log_p.shape == entropy.shape == tokens.shape
    for image, table in enumerate(tables):
        for row, its_log_p, its_entropy in zip(tokens[image], log_p[image], entropy[image], strict=True):
            words = [word for word in row.tolist() if word != PAD]
            for t, word in enumerate(words):
                following = next_log_p(table, words[:t], **rules)
                assert its_log_p[t] == pytest.approx(following[word], abs=1e-4)
                expected = -sum(np.exp(value) * value for value in following.values())
                assert its_entropy[t] == pytest.approx(expected, abs=1e-4)
            assert not its_log_p[len(words) :].any()
            assert not its_entropy[len(words) :].any()


@pytest.mark.parametrize("beam_size", [None, 3])
def test_a_trace_changes_no_caption(beam_size):
    tables = random_tables(20, words=3, max_length=4)
    plain, kept = (traced(tables, 4, beam_size, keep_trace) for keep_trace in (False, True))
    assert plain.trace == ()
    for one, other in zip(plain[:3], kept[:3], strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_a_trace_follows_its_caption_through_the_vote():
    found = traced(random_tables(20, words=3, max_length=4), 4, 5)
    voted = consensus(found)
    for each in (found, voted):
        total = ops.convert_to_numpy(ops.sum(each.trace.log_p, axis=-1))
        np.testing.assert_allclose(total, ops.convert_to_numpy(each.log_probs), rtol=1e-4)
    assert (ops.convert_to_numpy(found.tokens) != ops.convert_to_numpy(voted.tokens)).any()


# Consensus -----------------------------------------------------------------------------------------------------------


def agreement_reference(captions: list[list[int]], log_probs) -> list[float]:
    """How much each of ``captions``, without ``<end>``, is like all of them."""

    def f1(a, b, n):
        a, b = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (a, b))
        return 2 * (a & b).total() / max(1, a.total() + b.total())

    weights = np.exp(0.35 * np.asarray(log_probs, "float64"))
    likeness = [[(f1(a, b, 1) + f1(a, b, 1 if len(a) == len(b) == 1 else 2)) / 2 for b in captions] for a in captions]
    return (np.asarray(likeness) @ (weights / weights.sum())).tolist()


def voted(tables: np.ndarray, max_length: int, beam_size: int):
    """A beam's tokens, log-probabilities and scores as they were, and after the vote."""
    step, state = toy(tables, max_length)
    found = beam_search(step, state, len(tables), max_length, beam_size)
    return ([ops.convert_to_numpy(part) for part in each[:3]] for each in (found, consensus(found)))


@pytest.mark.parametrize("beam_size", [pytest.param(3, marks=pytest.mark.backends), 7])
def test_consensus_ranks_by_agreement(beam_size):
    changed = 0
    before, after = voted(random_tables(40, words=3, max_length=5, seed=beam_size), 5, beam_size)
    for tokens, log_probs, scores, new_tokens, new_log_probs, new_scores in zip(*before, *after, strict=True):
        ended = [k for k, row in enumerate(tokens) if END in row]
        if not ended:
            continue
        captions = [[word for word in tokens[k].tolist() if word > UNK] for k in ended]
        expected = agreement_reference(captions, log_probs[ended])
        order = [ended[k] for k in np.argsort(np.negative(expected), kind="stable")]
        order += [k for k in range(beam_size) if k not in ended]
        np.testing.assert_allclose(new_scores[: len(ended)], sorted(expected, reverse=True), rtol=1e-4)
        np.testing.assert_array_equal(new_scores[len(ended) :], scores[len(ended) :])
        np.testing.assert_array_equal(new_tokens, tokens[order])
        np.testing.assert_array_equal(new_log_probs, log_probs[order])
        changed += order[0] != 0
    assert changed > 5


def test_consensus_counts_repeated_words_as_often_as_both_have_them():
    captions = [[4, 4, 4, 5], [4, 5], [4, 4, 4], [6, 4, 5, 4]]
    tokens = np.full((1, 4, 6), PAD, "int32")
    for row, words in zip(tokens[0], captions, strict=True):
        row[: len(words) + 1] = [*words, END]
    log_probs = np.array([[-4.0, -4.5, -5.0, -6.0]], "float32")
    found = consensus(Hypotheses(*map(ops.convert_to_tensor, (tokens, log_probs, log_probs / 5))))
    expected = agreement_reference(captions, log_probs[0])
    np.testing.assert_allclose(ops.convert_to_numpy(found.scores)[0], sorted(expected, reverse=True), rtol=1e-5)


@pytest.mark.parametrize("captions", [([4], [5, 6]), ([5, 6], [4]), ([4], [5]), ([4, 5, 6], [4, 5])])
def test_the_more_probable_of_two_captions_wins_the_vote(captions):
    tokens = np.full((1, 2, 4), PAD, "int32")
    for row, words in zip(tokens[0], captions, strict=True):
        row[: len(words) + 1] = [*words, END]
    log_probs = np.array([[-1.5, -1.0]], "float32")
    found = consensus(Hypotheses(*map(ops.convert_to_tensor, (tokens, log_probs, log_probs))))
    np.testing.assert_array_equal(ops.convert_to_numpy(found.tokens), tokens[:, ::-1])


def test_rows_without_a_caption_have_no_vote_and_stay_last():
    tokens = np.array([[[4, 5, END], [6, END, PAD], [6, 7, END], [END, PAD, PAD]]], "int32")
    log_probs = np.array([[-1.0, -2.0, BANNED, 2 * BANNED]], "float32")
    found = consensus(Hypotheses(*map(ops.convert_to_tensor, (tokens, log_probs, log_probs / 2))))
    np.testing.assert_array_equal(ops.convert_to_numpy(found.tokens), tokens)
    np.testing.assert_array_equal(ops.convert_to_numpy(found.scores)[0, 2:], log_probs[0, 2:] / 2)


def test_captions_that_did_not_end_have_no_vote():
    tables = random_tables(10, words=3, max_length=4)
    tables[:, :, END] = -1e4
    before, after = voted(tables, 4, 3)
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now)


# Drawing -------------------------------------------------------------------------------------------------------------


def draw(tables: np.ndarray, max_length: int, uniforms: np.ndarray) -> np.ndarray:
    step, state = toy(tables, max_length)
    found = sample(step, state, ops.convert_to_tensor(uniforms, dtype="float32"), max_length)
    return ops.convert_to_numpy(found.tokens)


@pytest.mark.backends
def test_captions_are_drawn_as_often_as_they_are_probable():
    words, max_length, samples = 2, 3, 20_000
    tables = random_tables(2, words, max_length, scale=1.0)
    tables[:, :, UNK] += 5  # banned words leave their probability to the others
    drawn = draw(tables, max_length, np.random.default_rng(0).random((2, samples, max_length + 1)))
    assert drawn.shape == (2, samples, max_length + 1)
    for table, captions in zip(tables, drawn, strict=True):
        rows, counts = np.unique(captions, axis=0, return_counts=True)
        found = {tuple(row): count / samples for row, count in zip(rows, counts, strict=True)}

        def expected(prefix, table=table):
            """Probability of each row that starts with ``prefix``."""
            if len(prefix) == max_length:
                end = np.exp(next_log_p(table, prefix)[END])
                return {(*prefix, END): end, (*prefix, PAD): 1 - end}
            rows = {}
            for word, log_p in next_log_p(table, prefix).items():
                if word == END:
                    rows[(*prefix, END, *[PAD] * (max_length - len(prefix)))] = np.exp(log_p)
                else:
                    rows |= {row: p * np.exp(log_p) for row, p in expected([*prefix, word]).items()}
            return rows

        wanted = expected([])
        assert sum(wanted.values()) == pytest.approx(1)
        assert set(found) <= set(wanted)
        for row, probability in wanted.items():
            assert found.get(row, 0.0) == pytest.approx(probability, abs=0.015), row


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
def test_the_extremes_draw_words_too(uniform):
    drawn = draw(random_tables(3, 2, 3), 3, np.full((3, 2, 4), uniform))
    assert np.isin(drawn[:, :, 0], [END, 4, 5]).all()
    assert not np.isin(drawn, [START, UNK]).any()
