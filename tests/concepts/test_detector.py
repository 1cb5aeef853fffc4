"""Visual concepts: what the detector adds to the logits of words, how it learns, and what a bundle keeps of it."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops
from told import what_is_added

from captioning.base.errors import UserError
from captioning.concepts.detector import MEMBERS, Concepts
from captioning.decoders.build import build_decoder
from captioning.training.concept_learning import ConceptTrainer
from captioning.words.vocabulary import Vocabulary
from config import DecoderSettings, DecodingSettings
from model import Captioner

VOCABULARY = Vocabulary(["a", "dog", "puppy", "cat", "red"])  # ids 4 to 8
IDS, OBJECTS = [5, 6, 7, 8], ["dog", "dog", "cat", ""]
SHARES = np.array([0.5, 0.1, 0.25, 0.1])


@pytest.fixture
def concepts() -> Concepts:
    keras.utils.set_random_seed(0)
    made = Concepts(IDS, OBJECTS, feature_size=3, hidden_size=8)
    made.start_from(SHARES)
    return made


def features(seed: int = 0, images: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, 4, 3)).astype("float16")


def probabilities(concepts: Concepts, batch: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-ops.convert_to_numpy(concepts(ops.convert_to_tensor(batch))).astype("float64")))


def weighing(concept: float, objects: float, rare: float = 0.0) -> DecodingSettings:
    return DecodingSettings(concept_weight=concept, object_weight=objects, rare_weight=rare)


@pytest.mark.backends
def test_what_is_added_to_logits(concepts):
    rng = np.random.default_rng(1)
    concepts.words.kernel.assign(rng.normal(0, 2, (8, 4)))
    found = ops.convert_to_numpy(
        concepts.preferences(ops.convert_to_tensor(features()), weighing(0.25, 2.0), len(VOCABULARY))
    )
    assert found.shape == (2, len(VOCABULARY))
    p = probabilities(concepts, features())
    dog = 1 - (1 - p[:, 0]) * (1 - p[:, 1])
    objects = np.log(np.stack([dog, dog, p[:, 2], np.ones(2)], axis=1))
    expected = 0.25 * (np.log(p) - np.log(SHARES)) + 2.0 * objects
    np.testing.assert_allclose(found[:, IDS], expected, rtol=1e-4, atol=1e-5)
    assert not found[:, :5].any(), "special words, and words that the detector does not know"


@pytest.mark.backends
def test_rare_words_are_preferred(concepts):
    concepts.shares.assign([0.5, 0.001, 0.0025, 0.1])
    found = ops.convert_to_numpy(
        concepts.preferences(ops.convert_to_tensor(features()), weighing(0.0, 0.0, 0.5), len(VOCABULARY))
    )
    # Common words get nothing. The word that the detector does not know counts as the rarest that it knows.
    rarest = 0.5 * np.log(0.005 / 0.001)
    expected = [0, 0, 0, 0, rarest, 0, rarest, 0.5 * np.log(0.005 / 0.0025), 0]
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-5, atol=1e-6)


def test_it_begins_with_how_common_words_are(concepts):
    concepts.words.kernel.assign(np.zeros((8, 4)))
    np.testing.assert_allclose(probabilities(concepts, features()), [SHARES, SHARES], rtol=1e-5)


def test_padded_regions_change_no_concept(concepts):
    concepts.words.kernel.assign(np.random.default_rng(1).normal(0, 2, (8, 4)))
    concepts.padded = True
    padded = np.pad(-np.abs(features()), ((0, 0), (0, 3), (0, 0)))  # zeros would be the largest numbers
    np.testing.assert_allclose(probabilities(concepts, padded), probabilities(concepts, padded[:, :4]), atol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("name", ["merge", "attention"])  # without and with a part of the state that is the image's
def test_a_decoder_is_told_at_every_step(concepts, name):
    added = ops.convert_to_numpy(
        concepts.preferences(ops.convert_to_tensor(features()), weighing(1.0, 1.0), len(VOCABULARY))
    )
    for found in what_is_added(concepts, weighing(1.0, 1.0), features(), [(1, 4)] * 3, len(VOCABULARY), name):
        np.testing.assert_allclose(found, added, atol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("name", ["merge", "attention"])
def test_a_word_is_avoided_once_it_was_said(concepts, name):
    concepts.count_repeated(np.array([90, 10, 40, 0]), np.array([0, 9, 0, 0]))
    dog, puppy, cat, a = np.log(0.1 / 100) / 2, np.log(9.1 / 20) / 2, np.log(0.1 / 50) / 2, np.log(0.01) / 2
    expected = {
        (1, 1): np.zeros((2, 9)),  # the start of a caption is no word
        (5, 4): [[0, 0, 0, 0, 0, dog, 0, 0, 0], [0, 0, 0, 0, a, 0, 0, 0, 0]],  # "a" is not among the concepts
        (6, 7): [[0, 0, 0, 0, 0, dog, puppy, 0, 0], [0, 0, 0, 0, a, 0, 0, cat, 0]],
    }
    asked = DecodingSettings(repeat_weight=0.5)
    found = what_is_added(concepts, asked, features(), [*expected], len(VOCABULARY), name)
    for (words, added), difference in zip(expected.items(), found, strict=True):
        np.testing.assert_allclose(difference, added, atol=1e-4, err_msg=str(words))


def test_repeated_words_of_an_older_release_were_not_counted(concepts):
    settings = DecoderSettings(decoder="merge", embedding_size=4, hidden_size=4, max_caption_length=5)
    captioner = SimpleNamespace(concepts=concepts, vocabulary=VOCABULARY)
    captioner.decoder = build_decoder(settings, len(VOCABULARY), regions=4, feature_size=3)
    captioner.stepper = lambda decoding: Captioner.stepper(captioner, decoding)
    asked = DecodingSettings(repeat_weight=0.5)
    with pytest.raises(UserError, match=r"repeat_weight: .* older release.* leave it at 0"):
        Captioner.check(captioner, asked)
    Captioner.check(captioner, DecodingSettings(concept_weight=1.0))
    concepts.count_repeated(np.ones(4), np.zeros(4))
    Captioner.check(captioner, asked)


def test_a_common_word_that_no_caption_repeats_is_still_possible(concepts, tmp_path):
    concepts.count_repeated(np.full(4, 10_000_000), np.zeros(4))
    again = saved(concepts, tmp_path)
    assert np.isfinite(again.repetition(0.5, len(VOCABULARY))).all()


TOKENS = np.array([[4, 5, 2, 0], [8, 8, 5, 2], [4, 7, 2, 0], [0, 0, 0, 0]], "int32")
IMAGE_OF = np.array([0, 0, 1, 0], "int32")  # the last row only fills up the batch


@pytest.mark.backends
def test_the_loss_is_that_of_the_share_of_captions_with_each_word(concepts):
    trainer = ConceptTrainer(concepts, len(VOCABULARY))
    logits = np.random.default_rng(2).normal(size=(2, 4)).astype("float32")
    p = 1 / (1 + np.exp(-logits))
    shares = np.array([[1, 0, 0, 0.5], [0, 0, 1, 0]])
    expected = -(shares * np.log(p) + (1 - shares) * np.log(1 - p)).mean()
    inputs = features(), TOKENS, IMAGE_OF
    found = trainer.compute_loss(inputs, ops.convert_to_tensor(TOKENS), ops.convert_to_tensor(logits))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_it_learns_which_words_fit(concepts):
    trainer = ConceptTrainer(concepts, len(VOCABULARY))
    trainer.compile(optimizer=keras.optimizers.Adam(0.05))
    inputs = features(), TOKENS, IMAGE_OF
    for _ in range(60):
        trainer.train_on_batch(inputs, TOKENS)
    p = probabilities(concepts, features())
    assert p[0, 0] > 0.9 > 0.1 > p[0, 2]
    assert p[1, 2] > 0.9 > 0.1 > p[1, 0]
    assert 0.2 < p[0, 3] < 0.8, "one of two captions says red"


def saved(concepts: Concepts, folder):
    concepts.save_in(folder, VOCABULARY)
    return Concepts.load_from(folder, folder / "captioner.zip", VOCABULARY, 3)


def test_it_travels_in_a_bundle(concepts, tmp_path):
    again = saved(concepts, tmp_path)
    assert (again.ids, again.objects) == (IDS, OBJECTS)
    np.testing.assert_array_equal(probabilities(again, features()), probabilities(concepts, features()))
    np.testing.assert_allclose(ops.convert_to_numpy(again.shares), SHARES, rtol=1e-6)
    assert again.repeated is None
    concepts.count_repeated(np.array([90, 10, 40, 0]), np.array([0, 9, 0, 0]))
    assert saved(concepts, tmp_path).repeated == pytest.approx([0.001, 0.455, 0.002, 0.01])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3},
        {"words": ["dog", "puppy", "lion", "red"]},
        {"words": ["dog", "dog", "cat", "red"]},
        {"words": 3},
        {"objects": ["dog"]},
        {"hidden_size": 1_000_000},
        {"hidden_size": 0},
        {"hidden_size": "8"},
        {"repeated": [0.1, 0.1, 0.1]},
        {"repeated": [0.1, 0.1, 0.1, 0]},
        {"repeated": [0.1, 0.1, 0.1, 1.5]},
        {"repeated": [0.1, 0.1, 0.1, "0.1"]},
        {"repeated": "0.1"},
        None,
    ],
)
def test_a_damaged_one_is_named(concepts, tmp_path, change):
    concepts.save_in(tmp_path, VOCABULARY)
    path = tmp_path / MEMBERS[0]
    if change is None:
        (tmp_path / MEMBERS[1]).write_bytes(b"\x89HDF")
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"captioner\.zip: its visual concepts cannot be read .*--stage concepts"):
        Concepts.load_from(tmp_path, tmp_path / "captioner.zip", VOCABULARY, 3)
