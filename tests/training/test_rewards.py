"""The reward of drawn captions: its terms, their weights, and what captions learn from two terms at once."""

from types import SimpleNamespace

import numpy as np
import pytest

from captioning.metrics.sentence_bleu import SentenceBleu
from captioning.training.rewards import Reward, Rewards
from captioning.training.self_critical import SelfCritic
from captioning.words.vocabulary import END, PAD, Vocabulary
from config import Config

WORDS = Vocabulary(["dog", "cat", "runs", "sleeps"])
CAPTIONS = [(7, "dog runs"), (3, "cat sleeps"), (9, "dog sleeps")]
DOG, CAT, RUNS, SLEEPS = range(4, 8)
ROWS, TOKENS = np.asarray([7]), np.asarray([[[DOG, RUNS, END], [CAT, SLEEPS, END], [DOG, SLEEPS, END]]])


def settings(**changes) -> Config:
    aligner = {"retrieval_aligner": "towers.zip"} if changes.get("retrieval_weight") else {}
    return Config(stage="scst", init="runs/x", **aligner, **changes)


def never(*_):
    pytest.fail("nobody asks where the weight is 0")


def test_by_default_it_is_cider_of_the_right_image_with_the_end_as_a_word():
    rewards = Rewards([(7, "dog runs"), (7, "dog dog runs"), (3, "cat sleeps")], WORDS, settings(), never, never)
    tokens = np.asarray(
        [
            [[DOG, RUNS, END, PAD], [CAT, SLEEPS, END, PAD], [DOG, RUNS, PAD, PAD]],
            [[CAT, SLEEPS, END, PAD], [DOG, RUNS, END, PAD], [PAD, PAD, PAD, PAD]],
        ]
    )
    found, terms = rewards(np.asarray([7, 3]), tokens)
    assert found.shape == (2, 3)
    assert found[0, 0] > found[0, 2] > found[0, 1] == 0  # right, right but cut short, another image's
    assert found[1, 0] > found[1, 1] == found[1, 2] == 0
    assert rewards.columns == ["reward_cider"]
    np.testing.assert_array_equal(terms["cider"], found)


def test_terms_are_added_by_their_weights():
    def judge(rows):
        assert rows.tolist() == [7, 3, 9]
        return lambda images, captions: np.asarray([100.0 * (text == "dog runs") for text in captions])

    weights = {"cider_weight": 2.0, "bleu_weight": 0.5, "rarity_weight": 3.0, "retrieval_weight": 0.25}
    rewards = Rewards(CAPTIONS, WORDS, settings(**weights), never, judge)
    found, terms = rewards(ROWS, TOKENS)
    assert rewards.columns == ["reward_cider", "reward_bleu", "reward_rarity", "reward_retrieval"]
    expected = sum(weights[f"{name}_weight"] * term for name, term in terms.items())
    np.testing.assert_allclose(found, expected)
    spoken = [["dog", "runs", "<end>"], ["cat", "sleeps", "<end>"], ["dog", "sleeps", "<end>"]]
    bleu = SentenceBleu([spoken[:1]]).score([0, 0, 0], spoken) / 100
    np.testing.assert_allclose(terms["bleu"], [bleu])
    assert terms["retrieval"].tolist() == [[1, 0, 0]], "the aligner gets no <end>"
    assert terms["rarity"][0, 0] > terms["rarity"][0, 2] > terms["rarity"][0, 1] == 0


def test_a_caption_loses_what_it_would_get_for_similar_images():
    plain, asked = Rewards(CAPTIONS, WORDS, settings()), []

    def similar(rows):
        asked.append(rows.tolist())
        return np.asarray([[2, 1], [0, 2], [0, 1]])

    found, terms = Rewards(CAPTIONS, WORDS, settings(similar_weight=0.5), similar)(ROWS, TOKENS)
    assert asked == [[7, 3, 9]]
    others = (plain(np.asarray([9]), TOKENS).total + plain(np.asarray([3]), TOKENS).total) / 2
    np.testing.assert_allclose(terms["similar"], others)
    np.testing.assert_allclose(found, plain(ROWS, TOKENS).total - 0.5 * others)
    with pytest.raises(ValueError, match="similar_weight: nothing was given"):
        Rewards(CAPTIONS, WORDS, settings(similar_weight=0.5))


def test_a_term_without_weight_is_not_computed():
    rewards = Rewards(CAPTIONS, WORDS, settings(cider_weight=0, bleu_weight=1), never, never)
    assert list(rewards.terms) == ["bleu"]
    both = Rewards(CAPTIONS, WORDS, settings(cider_weight=0, bleu_weight=1, similar_weight=1), lambda _: TOKENS[0])
    assert list(both.terms) == ["bleu", "similar"]


def test_rewards_are_of_words_also_where_wordpieces_are_drawn():
    pieces = Vocabulary(["a", "snow", "##board", "##er"], wordpieces=True)
    captions = [(7, "a snowboarder"), (3, "a snow board")]
    drawn = np.asarray([[[4, 5, 6, 7, END, PAD], [4, 5, END, PAD, PAD, PAD], [4, 5, 6, 7, PAD, PAD]]])
    heard = []

    def judge(_):
        return lambda images, texts: heard.extend(texts) or np.zeros(len(texts))

    weights = settings(bleu_weight=1, rarity_weight=1, retrieval_weight=1)
    found, _ = Rewards(captions, pieces, weights, judge=judge)(np.asarray([7]), drawn)
    assert heard == ["a snowboarder", "a snow", "a snowboarder"]
    words = Vocabulary(["a", "snowboarder", "snow"])
    same = np.asarray([[[4, 5, END], [4, 6, END], [4, 5, PAD]]])
    np.testing.assert_allclose(found, Rewards(captions, words, weights, judge=judge)(np.asarray([7]), same).total)
    assert found[0, 0] > found[0, 1]


@pytest.mark.parametrize(
    ("weight", "advantages"), [(0.0, [1, -0.5, -0.5]), (0.5, [0.75, -0.75, 0]), (3.0, [-0.5, -2, 2.5])]
)
def test_the_weight_decides_which_captions_become_likelier(weight, advantages):
    """The first term prefers the first caption, and the second term the last one."""
    first, second = np.asarray([[1.0, 0.0, 0.0]]), np.asarray([[0.0, 0.0, 1.0]])
    critic = object.__new__(SelfCritic)
    critic.config = SimpleNamespace(baseline="others", samples=3)
    critic.rewards = lambda rows, tokens: Reward(first + weight * second, {"cider": first, "retrieval": second})
    drawn = critic._judge(np.zeros((1, 1, 1)), ROWS, TOKENS)
    np.testing.assert_allclose(drawn.advantages, [advantages])
    assert drawn.terms["retrieval"].tolist() == [[0, 0, 1]]
