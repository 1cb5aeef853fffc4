"""Classes of ImageNet as words of captions: what the classifier sees, what it adds to a search, and new words."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from told import what_is_added

from captioning.base.errors import UserError
from captioning.concepts.class_words import COUNT, ClassName, class_words, known_names, new_words
from captioning.concepts.classes import HELD, NOTED, Classifier, classifier_file, load_classifier
from captioning.concepts.detector import MEMBERS, Concepts
from captioning.decoders.build import build_decoder
from captioning.decoders.widening import take_weights
from captioning.words.vocabulary import START, Vocabulary
from config import DecoderSettings, DecodingSettings

VOCABULARY = Vocabulary(["a", "dog", "dogs", "cat", "lion"])  # ids 4 to 8
A, DOG, DOGS, CAT, LION = range(4, 9)
NAMES = [ClassName([DOG, DOGS], [151, 152], False), ClassName([LION], [291], True)]
WEIGHING = DecodingSettings(class_weight=2.0, concept_weight=0.0, object_weight=0.0)
SIZE = 3


def features(images: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(images, 4, SIZE)).astype("float16")


def probable(*classes: dict[int, float]) -> np.ndarray:
    """Logits ``(B, COUNT)`` whose softmax gives these probabilities; the other classes share the rest."""
    p = np.zeros((len(classes), COUNT))
    for row, given in zip(p, classes, strict=True):
        row[:] = (1 - sum(given.values())) / (COUNT - len(given))
        for number, share in given.items():
            row[number] = share
    return np.log(p).astype("float32")


@pytest.fixture
def concepts() -> Concepts:
    """A detector of "dog" and "cat" with two names. It sees a dog in the first image, and a lion in the second."""
    keras.utils.set_random_seed(0)
    made = Concepts([DOG, CAT], ["dog", "cat"], SIZE, hidden_size=4, names=NAMES)
    made.start_from(np.array([0.5, 0.25]))
    assert made.classifier is not None
    made.classifier.logits.set_weights([np.zeros((SIZE, COUNT)), np.zeros(COUNT)])
    made.classifier.trust.assign([0.5, 0.8])
    seen = probable({151: 0.5, 152: 0.4, 291: 0.05}, {291: 0.9})
    made.classifier.logits.call = lambda pooled: ops.convert_to_tensor(seen[: ops.shape(pooled)[0]])
    return made


def of(concepts: Concepts, batch: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(concepts(ops.convert_to_tensor(batch)))


def test_each_class_has_one_name_and_each_new_word_a_stand_in():
    classes, plurals, stand_ins = class_words()
    numbers = [number for each in classes.values() for number in each]
    assert len(numbers) == len({*numbers})
    assert {*numbers} <= {*range(COUNT)}
    assert {*plurals} | {*stand_ins} <= {*classes}
    assert not {*stand_ins} & {*stand_ins.values()}, "a stand-in would be a new word itself"
    assert classes["lion"] == [291]


def test_a_vocabulary_gets_the_names_that_it_lacks():
    stand_in = class_words().stand_ins["wolf"]
    vocabulary = Vocabulary(["a", "dog", "dogs", stand_in])
    new = new_words(vocabulary)
    assert new["wolf"] == stand_in
    assert all(vocabulary.knows(known) for known in new.values())
    names = {tuple(name.ids): name for name in known_names(vocabulary.with_words(["wolf"]), new)}
    assert names[(8,)].new
    assert not names[(5, 6)].new, "a plural that is known belongs to its name"


@pytest.mark.backends
def test_a_name_is_as_probable_as_its_classes_and_trust(concepts):
    found = ops.convert_to_numpy(concepts.classifier(ops.convert_to_tensor(features())))
    np.testing.assert_allclose(found, [[0.9 * 0.5, 0], [0, 0.9 * 0.8]], rtol=1e-5)


def test_trust_is_the_share_of_captions_that_say_what_is_seen():
    classifier = Classifier([[0], [1], [2]], SIZE)
    seen = np.array([[0.9, 0.5, 0.05], [0.6, 0.0, 0.09]])
    classifier.learn_trust([(seen[:1], np.array([[1, 0, 1]])), (seen[1:], np.array([[0.5, 1, 1]]))])
    expected = [(16 + 0.9 + 0.6 * 0.5) / (20 + 1.5), 16 / 20.5, 16 / 20]
    np.testing.assert_allclose(ops.convert_to_numpy(classifier.trust), expected, rtol=1e-6)


@pytest.mark.backends
def test_detector_and_classifier_agree_on_one_probability(concepts):
    detected = ops.convert_to_numpy(concepts.detect(ops.convert_to_tensor(features()))).astype("float64")
    assert concepts.ids == [DOG, CAT, DOGS, LION], "words that only classes name come last"
    p = np.concatenate([1 / (1 + np.exp(-detected)), np.full((2, 2), 1e-4)], axis=1)
    s = np.array([[0.45, 0, 0.45, 0], [0, 0, 0, 0.72]])
    together = 1 - (1 - p) * (1 - s)
    np.testing.assert_allclose(1 / (1 + np.exp(-of(concepts, features()))), together, rtol=1e-4, atol=1e-6)


@pytest.mark.backends
@pytest.mark.parametrize("name", ["merge", "attention"])
def test_a_name_is_preferred_until_it_is_said(concepts, name):
    dogs, lion = 2 * np.log(0.45 / NOTED), 2 * np.log(0.72 / NOTED) + HELD
    expected = {
        (START, START): np.zeros((2, 9)),  # no caption begins with a bare noun
        (A, A): np.array([[0, 0, 0, 0, 0, dogs, dogs, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, lion]]),
        (DOGS, CAT): np.array([[0] * 9, [0] * 8 + [lion]]),  # the plural is the same name
        (A, LION): np.zeros((2, 9)),
    }
    found = what_is_added(concepts, WEIGHING, features(), [*expected], len(VOCABULARY), name)
    for (words, added), difference in zip(expected.items(), found, strict=True):
        np.testing.assert_allclose(difference, added, atol=1e-4, err_msg=str(words))


def test_all_words_of_a_name_are_avoided_once_one_was_said(concepts):
    concepts.count_repeated(np.array([90, 40]), np.zeros(2))
    asked = DecodingSettings(class_weight=0.0, repeat_weight=1.0)
    (difference,) = what_is_added(concepts, asked, features(), [(DOGS, DOG)], len(VOCABULARY))
    np.testing.assert_allclose(difference[0], difference[1], atol=1e-6)
    np.testing.assert_allclose(difference[0, [DOG, DOGS]], np.log([0.001, 0.01]), atol=1e-4)


def test_a_class_weight_of_zero_asks_for_nothing(concepts):
    assert concepts.count_in(WEIGHING)
    assert not concepts.count_in(WEIGHING.model_copy(update={"class_weight": 0.0}))


@pytest.mark.parametrize("name", ["merge", "inject", "attention", "transformer"])
def test_a_new_word_starts_as_its_stand_in_and_is_held_back(name):
    settings = DecoderSettings(decoder=name, embedding_size=8, hidden_size=8, attention_size=4, heads=2)
    old = build_decoder(settings, 8, regions=4, feature_size=SIZE)
    new = build_decoder(settings, 9, regions=4, feature_size=SIZE)
    take_weights(new, old, {LION: CAT}, HELD)
    batch = ops.convert_to_tensor(features())
    logits = []
    for word in (CAT, LION):
        state = new.init_state(batch)
        _, state = new.step(ops.convert_to_tensor(np.array([START, START], "int32")), state)
        found, _ = new.step(ops.convert_to_tensor(np.array([word, word], "int32")), state)
        logits.append(ops.convert_to_numpy(found))
    np.testing.assert_allclose(*logits, atol=1e-5, err_msg="both are read alike")
    np.testing.assert_allclose(logits[0][:, LION], logits[0][:, CAT] - HELD, atol=1e-4)


def test_names_travel_in_a_bundle(concepts, tmp_path):
    concepts.save_in(tmp_path, VOCABULARY)
    again = Concepts.load_from(tmp_path, tmp_path / "captioner.zip", VOCABULARY, SIZE)
    assert (again.ids, again.names, again.learned) == (concepts.ids, NAMES, 2)
    np.testing.assert_allclose(ops.convert_to_numpy(again.classifier.trust), [0.5, 0.8])


@pytest.mark.parametrize(
    "names",
    [
        [{"words": ["lion"], "classes": [1000], "new": False}],
        [{"words": ["tiger"], "classes": [292], "new": False}],
        [{"words": ["lion"], "classes": [1, 1], "new": False}],
        [{"words": [], "classes": [1], "new": False}],
        [{"words": ["lion"], "classes": [], "new": False}],
        ["lion"],
    ],
)
def test_damaged_names_are_named(concepts, tmp_path, names):
    concepts.save_in(tmp_path, VOCABULARY)
    path = tmp_path / MEMBERS[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"names": names}))
    with pytest.raises(UserError, match=r"captioner\.zip: its visual concepts cannot be read .*--stage concepts"):
        Concepts.load_from(tmp_path, tmp_path / "captioner.zip", VOCABULARY, SIZE)


def test_the_classifier_in_the_repository_is_read():
    classifier = Classifier([[291]], 1280)
    load_classifier(classifier, "efficientnet_lite2")
    kernel = ops.convert_to_numpy(classifier.logits.kernel)
    assert kernel.shape == (1280, COUNT)
    assert 0.01 < kernel.std() < 1


def test_an_encoder_without_a_classifier_is_named():
    with pytest.raises(
        UserError, match=r"imagenet_classes: there is no classifier of encoder resnet50 .* leave the setting out"
    ):
        classifier_file("resnet50")


def test_half_precision_changes_no_probability(concepts):
    expected = of(concepts, features())
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        keras.utils.set_random_seed(0)
        made = Concepts([DOG, CAT], ["dog", "cat"], SIZE, hidden_size=4, names=NAMES)
        made.start_from(np.array([0.5, 0.25]))
        made.classifier.logits.set_weights(concepts.classifier.logits.get_weights())
        made.classifier.logits.call = concepts.classifier.logits.call
        made.classifier.trust.assign([0.5, 0.8])
        np.testing.assert_allclose(of(made, features()), expected, atol=0.01)  # features are rounded
    finally:
        keras.config.set_dtype_policy(before)
