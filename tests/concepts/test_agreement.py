"""How well captions agree with the words that their pictures suggest, and what a search makes of it."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from captioning.concepts.agreement import Reader
from captioning.concepts.detector import Concepts
from captioning.search.compiled import Search
from captioning.search.hypotheses import Hypotheses
from captioning.words.vocabulary import END, PAD
from config import DecodingSettings
from model import Captioner

WORDS = 9  # ids 0 to 8; the detector does not know id 4
IDS, OBJECTS = [5, 6, 7, 8], ["dog", "dog", "cat", ""]
SHARES = np.array([0.5, 0.1, 0.25, 0.05])
# Two captions of each of two images: known words, one of them twice; an unknown word; no words.
TOKENS = np.array(
    [[[4, 5, 8, 5, END], [7, END, PAD, PAD, PAD]], [[6, 4, 7, END, PAD], [4, END, PAD, PAD, PAD]]], "int32"
)


@pytest.fixture
def concepts() -> Concepts:
    keras.utils.set_random_seed(0)
    made = Concepts(IDS, OBJECTS, feature_size=3, hidden_size=8)
    made.start_from(SHARES)
    made.words.kernel.assign(np.random.default_rng(1).normal(0, 1, (8, 4)))
    return made


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float16")


@pytest.mark.backends
def test_a_reading_is_what_its_formulas_say(concepts):
    reading = Reader(concepts, WORDS).read(ops.convert_to_tensor(features()), ops.convert_to_tensor(TOKENS))
    p = 1 / (1 + np.exp(-ops.convert_to_numpy(concepts(ops.convert_to_tensor(features()))).astype("float64")))
    weights = -np.log(SHARES)
    for image in range(2):
        of_objects = {"dog": 1 - (1 - p[image, 0]) * (1 - p[image, 1]), "cat": p[image, 2]}
        for k in range(2):
            said = sorted({IDS.index(word) for word in TOKENS[image, k] if word in IDS})
            caption, suggested = np.zeros(4), weights * p[image]
            caption[said] = weights[said]
            length = np.linalg.norm(caption) * np.linalg.norm(suggested)
            named = {OBJECTS[place] for place in said} - {""}
            expected = {
                "agreement": caption @ suggested / length if said else 0,
                "support": suggested[said].sum() / caption.sum() if said else 0,
                "coverage": suggested[said].sum() / suggested.sum(),
                "named": np.log(min(of_objects[name] for name in named)) if named else 0,
                "unnamed": np.log(max([1e-4, *(of_objects[name] for name in {"dog", "cat"} - named)])),
            }
            for name, value in expected.items():
                found = ops.convert_to_numpy(getattr(reading, name))[image, k]
                assert found == pytest.approx(value, rel=1e-4, abs=1e-6), (image, k, name)


def test_without_objects_there_is_nothing_to_say_of_them():
    detector = Concepts([5, 6], ["", ""], feature_size=3, hidden_size=8)
    detector.start_from(np.array([0.5, 0.1]))
    reading = Reader(detector, WORDS).read(ops.convert_to_tensor(features()), ops.convert_to_tensor(TOKENS))
    assert not ops.convert_to_numpy(reading.named).any()
    assert not ops.convert_to_numpy(reading.unnamed).any()
    assert ops.convert_to_numpy(reading.agreement)[0, 0] > 0


class _Branches:
    """A decoder that knows the captions 5, 6 and 7 and ends them at once. The first is the most probable."""

    def init_state(self, features):
        return {"position": ops.zeros_like(features[:, 0, 0])}

    def step(self, token_ids, state):
        first = ops.cast(state["position"] == 0, "float32")[:, None]
        begin = np.full(WORDS, -30.0, "float32")
        begin[5:8] = [1.0, 0.5, 0.0]
        end = np.full(WORDS, -30.0, "float32")
        end[END] = 0.0
        return first * begin + (1 - first) * end, {"position": state["position"] + 1}


def found(weight: float, **settings) -> tuple[np.ndarray, np.ndarray]:
    def prefers_later_words(features, found: Hypotheses):
        return ops.cast(found.tokens[:, :, 0], "float32")

    decoding = DecodingSettings(
        beam_size=3, max_caption_length=3, length_penalty=0.0, agreement_weight=weight, **settings
    )
    search = Search(_Branches(), decoding, ranker=prefers_later_words)
    tokens, log_probs, scores = search(ops.ones((1, 2, 3)))
    expected = ops.convert_to_numpy(log_probs) + weight * ops.convert_to_numpy(tokens)[:, :, 0]
    np.testing.assert_allclose(ops.convert_to_numpy(scores), expected, rtol=1e-5)
    return ops.convert_to_numpy(tokens)[0, :, 0], ops.convert_to_numpy(scores)[0]


@pytest.mark.backends
@pytest.mark.parametrize(("weight", "order"), [(0.1, [5, 6, 7]), (0.6, [7, 6, 5])])
def test_captions_are_ranked_by_score_and_agreement(weight, order):
    words, scores = found(weight)
    assert words.tolist() == order
    assert (np.diff(scores) <= 0).all()


def test_consensus_ranks_by_votes_alone():
    captioner = SimpleNamespace(reader=lambda: "reader")
    settings = DecodingSettings(beam_size=20, agreement_weight=2.0)
    assert Captioner.ranker(captioner, settings) == "reader"
    assert Captioner.ranker(captioner, settings.model_copy(update={"consensus": True})) is None
    assert Captioner.ranker(captioner, settings.model_copy(update={"agreement_weight": 0.0})) is None
