"""Runs of the stage that learns visual concepts: what they leave, and what goes on from them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops
from toy_run import arrays, assert_same_run, interrupt_second_epoch, settings, start, train

from captioning.base.errors import UserError
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve, resolve_trained
from captioning.concepts.class_words import COUNT, class_words, known_names, new_words
from captioning.concepts.classes import last_layer
from captioning.storage.runs import Run
from captioning.training.stages.concepts import count_words, new_words_of
from captioning.words.vocabulary import Vocabulary
from config import DecodingSettings
from model import Captioner, Ensemble
from preprocessing import find_vocabulary

CHANGES = {"stage": "concepts", "label_smoothing": 0.0, "monitor": "loss", "concept_weight": 0.4, "object_weight": 1.0}
CHANGES |= {"rare_weight": 0.1, "agreement_weight": 2.0, "repeat_weight": 0.5}


@pytest.fixture(scope="module")
def learned(prepared, straight, tmp_path_factory) -> Run:
    name = tmp_path_factory.mktemp("concepts").name  # processes that share tests may come back to this module
    config, run = start(prepared, name, init=str(straight.folder), concept_size=8, **CHANGES)
    assert train(prepared, config, run) == 0
    return run


@pytest.mark.slow
def test_a_run_learns_and_leaves_a_captioner_with_concepts(prepared, straight, learned):
    lines = learned.history()
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["val_loss"] > 0 and "cider" in line for line in lines)
    before, after = (Captioner.load(run.bundle("captioner")) for run in (straight, learned))
    for old, new in zip(before.decoder.get_weights(), after.decoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    words = [after.vocabulary.words[i] for i in after.concepts.ids]
    assert {"dog", "cat", "bird", "runs", "sleeps"} <= {*words}
    named = dict(zip(words, after.concepts.objects, strict=True))
    assert (named["dog"], named["runs"]) == ("dog", "")
    # The features of picture 0 say dog: the detector prefers the word to the other animals.
    features = prepared.store.read(np.array([prepared.store.rows["0.jpg"]]))
    added = np.asarray(
        after.concepts.preferences(features, DecodingSettings(concept_weight=1.0), len(after.vocabulary))
    )[0]
    dog, cat, bird = (added[after.vocabulary.words.index(animal)] for animal in ("dog", "cat", "bird"))
    assert dog > max(cat, bird)
    assert after.caption(features)[0][0].log_prob != before.caption(features)[0][0].log_prob


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(prepared, straight, learned, monkeypatch):
    config, run = start(prepared, "concepts-interrupted", init=str(straight.folder), concept_size=8, **CHANGES)
    interrupt_second_epoch(prepared, monkeypatch, config, run)
    assert train(prepared, config, run) == 0
    assert_same_run(run, learned)
    best, expected = (arrays(each.checkpoint("best")) for each in (run, learned))
    assert all(np.array_equal(best[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_run_with_classes_gives_the_captioner_their_words(prepared, straight, monkeypatch, tmp_path, capsys):
    path = tmp_path / "classes.weights.h5"
    layer = last_layer(5)
    peacock, dog = class_words().classes["peacock"][0], class_words().classes["dog"][0]
    kernel, bias = np.zeros((5, COUNT)), np.zeros(COUNT)
    kernel[0, dog], kernel[2, peacock] = 20, 20  # pictures with a dog, and those with a bird
    layer.set_weights([kernel, bias])
    layer.save_weights(path)
    for module in ("captioning.concepts.classes", "captioning.training.stages.concepts"):
        monkeypatch.setattr(f"{module}.classifier_file", lambda encoder: path)
    changes = CHANGES | {"concept_size": 8, "imagenet_classes": True, "class_weight": 4.0}
    config = settings(prepared.store.folder.parent, init=str(straight.folder), **changes)
    vocabulary = find_vocabulary(config, prepared.dataset)
    assert "new words for classes of ImageNet" in capsys.readouterr().out
    run = Run.create(config, vocabulary, "classes")
    assert train(prepared, config, run) == 0
    captioner = Captioner.load(run.bundle("captioner"))
    trust = dict(
        zip(
            [name.classes[0] for name in captioner.concepts.names],
            ops.convert_to_numpy(captioner.concepts.classifier.trust),
            strict=True,
        )
    )
    assert trust[dog] == pytest.approx(23 / 27, abs=0.001), "the captions of such pictures say dog"
    assert trust[peacock] == pytest.approx(16 / 26, abs=0.001), "they say bird, and no peacock"
    # Without that lesson it says the new word, in the place of the word that it knows.
    captioner.concepts.classifier.trust.assign(np.ones(len(captioner.concepts.names)))
    features = prepared.store.read(np.array([prepared.store.rows["2.jpg"]]))
    assert (
        "peacock" in captioner.caption(features, captioner.config.model_copy(update={"class_weight": 8.0}))[0][0].text
    )


@pytest.mark.slow
def test_an_ensemble_keeps_the_concepts_of_its_members(prepared, learned):
    captioner = Captioner.load(learned.bundle("captioner"))
    features = prepared.store.read(np.array([prepared.store.rows["0.jpg"]]))
    alone = captioner.caption(features)[0]
    together = Ensemble([captioner, captioner]).caption((features, features))[0]
    assert [each.text for each in together] == [each.text for each in alone]
    assert together[0].log_prob == pytest.approx(alone[0].log_prob, rel=1e-4)


@pytest.mark.slow
def test_a_next_stage_begins_without_them(learned):
    parser = make_parser("")
    config = resolve(parser.parse_args(["--stage", "scst", "--init", str(learned.folder)]))
    assert (config.concept_weight, config.object_weight) == (0.0, 0.0)
    assert (config.rare_weight, config.agreement_weight, config.repeat_weight) == (0.0, 0.0, 0.0)


def test_words_are_counted_once_per_caption_and_where_they_come_again():
    vocabulary = Vocabulary(["a", "dog", "and", "cat"])
    captions = [("0.jpg", "a dog and a dog and a cat"), ("1.jpg", "a dog"), ("1.jpg", "a yak")]
    prepared = SimpleNamespace(captions=lambda split: captions)
    once, again, total = count_words(prepared, vocabulary, 5)  # the first caption is cut before "and a cat"
    a, dog, both = (vocabulary.words.index(word) for word in ("a", "dog", "and"))
    assert (once, again, total) == ({a: 3, dog: 2, both: 1}, {a: 1, dog: 1}, 3)


def test_new_words_stay_new_until_the_decoder_learns_them():
    before = Vocabulary(["a", "dog", "bird"])
    new = new_words(before)
    assert "peacock" in new
    captioner = SimpleNamespace(vocabulary=before, concepts=None)
    assert new_words_of(captioner) == {*new}
    after = before.with_words(sorted(new))
    captioner = SimpleNamespace(vocabulary=after, concepts=SimpleNamespace(names=known_names(after, new)))
    assert new_words_of(captioner) == {*new}, "another such stage holds them back too"


def test_a_captioner_without_them_says_so():
    parser = make_parser("", trained=True)
    args = parser.parse_args(["--object-weight", "1"])
    with pytest.raises(UserError, match="object_weight: it is read only with stage=concepts, and stage is xe"):
        resolve_trained(args, settings(Path("x.keras")))
