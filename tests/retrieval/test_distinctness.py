"""The aligner's reward: a caption of the right image gets more than one of another, and most for what is its own."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from captioning.retrieval.aligner import Aligner
from captioning.retrieval.distinctness import Distinctness
from captioning.retrieval.ranking import nearest_others
from captioning.retrieval.towers import build_towers
from captioning.words.vocabulary import Vocabulary
from config import Config

WORDS = Vocabulary(["dog", "cat", "ball", "red", "runs"])
# Images of a dog, of a dog with a ball, of a cat, of a cat with a ball.
IMAGES = np.asarray([[1, 0, 0], [0.8, 0, 0.6], [0, 1, 0], [0, 0.8, 0.6]], "float32")
SENSES = {"dog": [1, 0, 0], "cat": [0, 1, 0], "ball": [0, 0, 1]}


class Known(Distinctness):
    """Captions are the mean of what their words mean."""

    def _embed(self, captions):
        vectors = np.asarray([np.sum([SENSES[word] for word in text.split()], axis=0) for text in captions], "float32")
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def known(count: int = 3, temperature: float = 0.1) -> Distinctness:
    config = Config(stage="align", monitor="recall", temperature=temperature)
    return Known(SimpleNamespace(vocabulary=WORDS, config=config, towers=SimpleNamespace(text=None)), IMAGES, count)


def test_a_caption_of_the_right_image_gets_more():
    captions = ["dog ball", "dog", "cat", "cat ball"]
    found = np.stack([known().score(np.full(4, image), captions) for image in range(4)])
    assert found.argmax(axis=1).tolist() == [1, 0, 2, 3]
    assert found[1, 0] > found[1, 1], "the ball tells the second dog from the first"
    assert found[0, 1] > found[0, 0]
    assert found[0, 1] > 50 > 0 > found[0, 2], "above 0 is better than a guess, and a cat is worse"


def test_the_score_is_a_logarithm_between_a_guess_and_certainty():
    cosines = IMAGES.astype("float64") @ np.asarray([1, 0, 0])
    p = np.exp(cosines / 0.1) / np.exp(cosines / 0.1).sum()
    found = known().score(np.arange(4), ["dog"] * 4)
    np.testing.assert_allclose(found, 100 + 100 * np.log(p) / np.log(4), rtol=1e-4)
    alike = known(temperature=1.0)
    alike.vectors = np.ones((4, 3), "float32")
    assert alike.score(np.asarray([2]), ["cat"])[0] == pytest.approx(0, abs=1e-4), "a guess"


def test_an_image_competes_with_those_most_like_it():
    assert known(count=1).others.tolist() == [[1], [0], [3], [2]]
    assert known(count=100).others.shape == (4, 3), "all others"
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.argsort(-(vectors @ vectors.T) + 9 * np.eye(9))[:, :3]
    assert [set(row) for row in nearest_others(vectors, 3)] == [set(row) for row in expected]


@pytest.mark.slow
@pytest.mark.backends
def test_captions_are_embedded_as_the_aligner_embeds_them():
    keras.utils.set_random_seed(0)
    config = Config(stage="align", monitor="recall", embedding_size=6, hidden_size=5, joint_size=16)
    aligner = Aligner(config, WORDS, None, build_towers(config, len(WORDS), 3))
    captions = ["dog runs", "cat", "a red ball " * 8, *["red dog"] * 40]  # two widths, and more than one batch
    judge = Distinctness(aligner, np.eye(16, dtype="float32"), 3)
    np.testing.assert_allclose(judge._embed(captions), aligner.embed_texts(captions), atol=1e-5)
