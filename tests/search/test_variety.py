"""Several different captions of an image: diverse beam search against plain Python, and warped draws by chi-square."""

import itertools
from collections import Counter

import numpy as np
import pytest
from keras import ops
from toy_search import assert_same, next_log_p, random_tables, search, toy

from captioning.search.hypotheses import BANNED
from captioning.search.phrases import FREE
from captioning.search.rules import Rules, best_first
from captioning.search.sampling import Warp, draws_for, sample, uniforms_of
from captioning.words.vocabulary import END, PAD

# Diverse beam search -------------------------------------------------------------------------------------------------


class Group:
    """One group of a diverse beam search in plain Python: what grows, and what has ended.

    Captions are (tokens, log p, log p less what they lost).
    """

    def __init__(self, size: int, length_penalty: float):
        self.size, self.length_penalty = size, length_penalty
        self.live, self.ended, self.done = [([], 0.0, 0.0)], [], False

    def score(self, caption):
        return caption[2] / len(caption[0]) ** self.length_penalty

    def advance(self, following, lost: Counter, is_last: bool) -> list[int]:
        """Grow by a word. ``following(tokens)``: log p of each next word. The words that live captions have taken."""
        found = [
            ([*tokens, word], log_p + p, less + p - lost[word])
            for tokens, log_p, less in self.live
            for word, p in following(tokens).items()
        ]
        found.sort(key=lambda caption: -caption[2])
        ended = [caption for caption in found[: self.size] if caption[0][-1] == END]
        self.ended = sorted(self.ended + ended, key=self.score, reverse=True)[: self.size]
        going_on = [caption for caption in found if caption[0][-1] != END][: self.size]
        if not is_last:
            self.live = going_on
        steps = len(found[0][0])
        best = self.live[0][2] / steps**self.length_penalty
        self.done = len(self.ended) == self.size and best <= self.score(self.ended[-1])
        return [tokens[-1] for tokens, *_ in going_on]

    def captions(self, max_length: int):
        cut = [caption for caption in self.live if len(caption[0]) == max_length]
        return (self.ended + cut)[: self.size]


def diverse_reference(table, max_length, beam_size, groups, penalty, length_penalty=1.0, **rules):
    """Vijayakumar et al. (2018), algorithm 1, with Hamming diversity. Best first by log p, ended captions first."""
    found = [Group(beam_size // groups, length_penalty) for _ in range(groups)]
    for t in range(max_length + 1):
        lost = Counter()
        for group in (group for group in found if not group.done):
            for word in group.advance(lambda tokens: next_log_p(table, tokens, **rules), lost, t == max_length):
                lost[word] += penalty
    captions = [caption for group in found for caption in group.captions(max_length)]
    scored = [(tokens, log_p, log_p / len(tokens) ** length_penalty) for tokens, log_p, _ in captions]
    ended = sorted((caption for caption in scored if caption[0][-1] == END), key=lambda caption: -caption[2])
    return ended + [caption for caption in scored if caption[0][-1] != END]


@pytest.mark.backends
@pytest.mark.parametrize(
    ("beam_size", "groups", "penalty", "options"),
    [
        (4, 2, 0.7, {}),
        pytest.param(3, 3, 2.0, {"length_penalty": 0.7, "no_repeat_ngram": 1}, marks=pytest.mark.slow),
        pytest.param(6, 2, 0.3, {"min_length": 2}, marks=pytest.mark.slow),
    ],
)
def test_groups_equal_a_plain_diverse_search(beam_size, groups, penalty, options):
    tables = random_tables(30, words=4, max_length=4, seed=beam_size)
    found = search(tables, 4, beam_size, groups=groups, diversity_penalty=penalty, **options)
    for image, table in enumerate(tables):
        assert_same(found, diverse_reference(table, 4, beam_size, groups, penalty, **options), image)


# Drawing -------------------------------------------------------------------------------------------------------------


def warp_reference(p: np.ndarray, temperature=1.0, top_k=0, top_p=1.0, typical_p=1.0) -> np.ndarray:
    """The warped probabilities of ``p`` (V,), word by word."""
    p = p ** (1 / temperature) / (p ** (1 / temperature)).sum()

    def first_with(probability, order):
        kept, total = np.zeros_like(p), 0.0
        for word in order:
            if total >= probability:
                break
            kept[word], total = p[word], total + p[word]
        return kept / kept.sum()

    if top_k:
        p = np.where(np.argsort(np.argsort(-p)) < top_k, p, 0)
        p = p / p.sum()
    if top_p < 1:
        p = first_with(top_p, np.argsort(-p))
    if typical_p < 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(p)
            entropy = np.nansum(np.where(p > 0, p * surprise, 0))
        p = first_with(typical_p, np.argsort(np.abs(surprise - entropy)))
    return p


WARPS = [
    {"temperature": 0.5},
    {"top_k": 3},
    {"top_p": 0.6},
    {"typical_p": 0.5},
    {"temperature": 1.7, "top_k": 4, "top_p": 0.8, "typical_p": 0.7},
]


@pytest.mark.backends
@pytest.mark.parametrize("options", WARPS)
def test_a_warp_changes_probabilities_as_published(options):
    logits = np.random.default_rng(0).normal(0, 1.5, (50, 8)).astype("float32")
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    found = np.exp(ops.convert_to_numpy(Warp(**options)(ops.convert_to_tensor(log_p))))
    expected = [warp_reference(np.exp(row.astype("float64")), **options) for row in log_p]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found > 0).sum() < found.size or options == {"temperature": 0.5}


def test_meister_and_holtzman_by_hand():
    """0.5, 0.3, 0.2 have an entropy of 1.03 nats. So 0.3 (1.20 nats) comes first, then 0.5 (0.69), then 0.2 (1.61)."""
    log_p = ops.convert_to_tensor(np.log([[0.5, 0.3, 0.2]]).astype("float32"))
    for warp, expected in [
        (Warp(typical_p=0.25), [0, 1, 0]),
        (Warp(typical_p=0.75), [0.625, 0.375, 0]),
        (Warp(top_p=0.45), [1, 0, 0]),
        (Warp(top_p=0.75), [0.625, 0.375, 0]),
        (Warp(top_k=1), [1, 0, 0]),
        (Warp(temperature=0.5), [25 / 38, 9 / 38, 4 / 38]),
    ]:
        np.testing.assert_allclose(np.exp(ops.convert_to_numpy(warp(log_p)))[0], expected, atol=1e-6)


def draw(tables, max_length, uniforms, **options):
    step, state = toy(tables, max_length)
    found = sample(step, state, ops.convert_to_tensor(uniforms, dtype="float32"), max_length, **options)
    return [ops.convert_to_numpy(part) for part in found[:3]]


def probabilities(table, max_length, warp, rules):
    """The probability of each row of tokens that may be drawn, and its log p without the warp."""
    words = range(4, table.shape[1])
    found = {}
    for length in range(max_length + 1):
        for prefix in itertools.product(words, repeat=length):
            for end in (END, PAD) if length == max_length else (END,):
                tokens, p, log_p = [*prefix, END], 1.0, 0.0
                for t, word in enumerate(tokens):
                    following = next_log_p(table, tokens[:t], **rules)
                    warped = warp_reference(np.exp([following.get(w, -np.inf) for w in (END, *words)]), **warp)
                    of_word = dict(zip((END, *words), warped, strict=True))
                    if t == max_length and end == PAD:
                        p *= 1 - of_word[END]
                    else:
                        p, log_p = p * of_word[word], log_p + following.get(word, -np.inf)
                if p > 1e-12:
                    found[(*prefix, end, *[PAD] * (max_length - length))] = (p, log_p)
    return found


@pytest.mark.backends
@pytest.mark.parametrize(
    ("warp", "rules"),
    [({"temperature": 1.5, "top_k": 3}, {}), ({"top_p": 0.7}, {"no_repeat_ngram": 1}), ({"typical_p": 0.6}, {})],
)
def test_draws_follow_the_warped_distribution(warp, rules):
    """Chi-square: with the right distribution it is above its 99.9th percentile once in a thousand seeds."""
    max_length, samples = 2, 5000
    tables = random_tables(2, words=3, max_length=max_length, scale=1.0)
    uniforms = np.random.default_rng(1).random((2, samples, max_length + 1))
    drawn, log_probs, _ = draw(tables, max_length, uniforms, warp=Warp(**warp), rules=Rules(**rules))
    for table, captions, log_ps in zip(tables, drawn, log_probs, strict=True):
        expected = probabilities(table, max_length, warp, rules)
        assert sum(p for p, _ in expected.values()) == pytest.approx(1)
        counts = Counter(map(tuple, captions.tolist()))
        assert set(counts) <= set(expected)
        common = [row for row, (p, _) in expected.items() if p * samples >= 5]
        chi = sum((counts[row] - samples * expected[row][0]) ** 2 / (samples * expected[row][0]) for row in common)
        freedom = len(common) - 1
        # Wilson and Hilferty (1931): the cube root of chi-square over its degrees of freedom is nearly normal.
        bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3
        assert chi < bound
        for row, log_p in list(zip(captions.tolist(), log_ps, strict=True))[:50]:
            assert log_p == pytest.approx(expected[tuple(row)][1], abs=1e-4), "log p is that of the model, not warped"


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
@pytest.mark.parametrize("warp", WARPS)
def test_the_extremes_draw_no_word_that_is_left_out(warp, uniform):
    tables = random_tables(20, words=6, max_length=1)
    tokens, log_probs, _ = draw(tables, 1, np.full((20, 1, 2), uniform), warp=Warp(**warp))
    assert (log_probs > BANNED / 2).all()
    for table, row in zip(tables, tokens[:, 0], strict=True):
        following = next_log_p(table, [])
        allowed = warp_reference(np.exp(list(following.values())), **warp)
        assert row[0] in [word for word, p in zip(following, allowed, strict=True) if p > 0]


def test_drawn_captions_are_ranked_with_those_that_ended_first():
    tables = random_tables(10, words=3, max_length=3)
    step, state = toy(tables, 3)
    uniforms = ops.convert_to_tensor(np.random.default_rng(0).random((10, 20, 4)), dtype="float32")
    found = sample(step, state, uniforms, 3, phrases=FREE, keep_trace=True)
    ranked = best_first(found)
    for tokens, scores in zip(*(ops.convert_to_numpy(part) for part in (ranked.tokens, ranked.scores)), strict=True):
        has_ended = (tokens == END).any(-1)
        assert (np.diff(has_ended.astype(int)) <= 0).all()
        assert (np.diff(scores[has_ended]) <= 0).all()
    total = ops.convert_to_numpy(ops.sum(ranked.trace.log_p, axis=-1))
    np.testing.assert_allclose(total, ops.convert_to_numpy(ranked.log_probs), rtol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("images", [1, 10])
def test_long_captions_that_go_on_alone_stay_the_same(images):
    tables = random_tables(images, words=2, max_length=9, scale=1.0)
    tables[..., END] += 3  # few are long
    uniforms = ops.convert_to_tensor(np.random.default_rng(0).random((images, 3, 10)), dtype="float32")
    plain, alone = (sample(*toy(tables, 9), uniforms, 9, keep_trace=True, narrows=narrows) for narrows in (False, True))
    lengths = (ops.convert_to_numpy(plain.tokens) != PAD).sum(axis=-1)
    assert len(np.unique(lengths)) > 1
    for one, other in zip([*plain[:3], *plain.trace], [*alone[:3], *alone.trace], strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-5, atol=1e-6)


def test_draws_depend_on_the_seed_and_the_name_of_the_file_alone():
    both = draws_for(["a/1.jpg", "2.jpg"], seed=3, samples=2, max_length=4)
    assert both.shape == (2, 2, 5)
    np.testing.assert_array_equal(draws_for(["1.jpg"], seed=3, samples=2, max_length=4)[0], both[0])
    assert (draws_for(["1.jpg"], seed=4, samples=2, max_length=4) != both[:1]).any()
    assert (both[0] != both[1]).any()
    assert draws_for(["\udce9.jpg"], seed=0, samples=1, max_length=1).shape == (1, 1, 2)
    uniforms = ops.convert_to_numpy(uniforms_of(both))
    assert ((uniforms >= 0) & (uniforms < 1)).all()
