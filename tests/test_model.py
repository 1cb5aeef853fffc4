"""The captioner: captions of features, and where it looks."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import save_encoder, small_sizes
from small_captioner import SIZES, WORDS, captioner, pixels, save_captioner
from sure import CONFIDENCE

from captioning.base.errors import UserError
from captioning.command_line.resolving import preset
from captioning.confidence.inputs import PLAIN
from captioning.decoders.build import build_decoder
from captioning.features.batches import FeatureBatches
from captioning.search import compiled
from captioning.search.compiled import Search
from captioning.words.vocabulary import Vocabulary
from config import Config
from model import Captioner, Ensemble


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Captioner, Path]:
    """A captioner, and its bundle."""
    return save_captioner(tmp_path_factory.mktemp("saved"))


def test_another_length_penalty_ranks_anew_and_compiles_nothing(saved, monkeypatch):
    """Captions, scores and order are those of a captioner that never had another penalty."""
    made, _ = saved
    penalties = [made.config.with_overrides({"length_penalty": a, "beam_size": 5}) for a in (0.0, 1.0, 2.5)]
    features = made.encode(pixels(4))
    fresh = [
        Captioner(made.config, WORDS, made.encoder, made.decoder).caption(features, config) for config in penalties
    ]
    found = [made.caption(features, penalties[0])]
    traced = []
    real = compiled.beam_search
    monkeypatch.setattr(compiled, "beam_search", lambda *args, **kwargs: traced.append(1) or real(*args, **kwargs))
    found += [made.caption(features, config) for config in penalties[1:]]
    assert keras.backend.backend() == "torch" or not traced
    for ours, theirs in zip(found, fresh, strict=True):
        assert [[c.text for c in captions] for captions in ours] == [[c.text for c in captions] for captions in theirs]
        np.testing.assert_allclose([c.score for b in ours for c in b], [c.score for b in theirs for c in b], rtol=1e-5)
    assert found[0] != found[2]


def test_features_and_captions(saved):
    made = saved[0]
    features = made.encode(pixels(5))
    assert features.shape == (5, 4, 5)
    assert features.dtype == "float16"
    assert len(made.caption(features)) == 5
    greedy = made.caption(features, made.config.with_overrides({"beam_size": 1}))
    assert [len(found) for found in greedy] == [1] * 5
    # A caption depends on its own image alone.
    assert made.caption(features[3:4])[0][0].text == made.caption(features)[3][0].text


@pytest.mark.slow
def test_captions_hold_the_words_that_are_asked_for(saved):
    made = saved[0]
    features = made.encode(pixels(4))
    free = made.caption(features)
    said = {word for found in free for caption in found for word in caption.text.split()}
    for caption in (c for found in made.caption(features, bad_words=sorted(said)) for c in found):
        assert not said & set(caption.text.split())
    options = {"prefix": "word3 word4", "force_words": [["word7 word8", "word9"], "word10"]}
    for found in made.caption(features, made.config.with_overrides({"beam_size": 1}), **options):
        (caption,) = found
        assert caption.text.startswith("word3 word4 ")
        assert "word7 word8" in caption.text or "word9" in caption.text
        assert "word10" in caption.text
    assert made.caption(features) == free
    once = made.config.with_overrides({"no_repeat_ngram": 1})
    with pytest.raises(UserError, match="no caption was found that is as they ask"):
        made.caption(features, once, force_words=["word1 word2", "word2 word1"])


def test_the_last_searches_with_asked_words_are_kept(saved):
    made = Captioner(saved[0].config, WORDS, saved[0].encoder, saved[0].decoder)
    plain = made._search(made.config)
    asked = [made.config.with_overrides({"prefix": f"word{i}"}) for i in range(12)]
    searches = [made._search(config) for config in asked]
    assert len(made._searches) == 1 + 8
    assert [made._search(config) for config in (made.config, *asked[4:])] == [plain, *searches[4:]]
    assert made._search(asked[0]) is not searches[0]


@pytest.mark.parametrize(
    "decoder",
    [
        pytest.param("attention", marks=pytest.mark.slow),
        pytest.param("adaptive", marks=pytest.mark.slow),
        pytest.param("transformer", marks=pytest.mark.weekly),
        pytest.param("updown", marks=pytest.mark.weekly),
        pytest.param("aoa", marks=pytest.mark.weekly),
        pytest.param("m2", marks=pytest.mark.weekly),
    ],
)
def test_whole_batches_in_the_size_of_the_presets(decoder):
    """TensorFlow's graph optimiser once made the second batch fail with 300 rows, though it did not with few rows."""
    config = preset(f"flickr8k-{decoder}").with_overrides({"max_caption_length": 12, "beam_size": 3})
    search = Search(build_decoder(config, 2541, 49, 64), config)
    search.compile()
    rng = np.random.default_rng(0)
    found = [search.predict_on_batch(rng.normal(size=(100, 49, 64)).astype("float32")) for _ in range(4)]
    assert all(tokens.shape == (100, 3, 13) for tokens, _, _ in found)


@pytest.mark.backends
@pytest.mark.parametrize(
    "search",
    [
        {"beam_size": 1},
        *(
            pytest.param(found, marks=pytest.mark.slow)
            for found in ({"beam_size": 4}, {"beam_size": 5, "consensus": True})
        ),
    ],
)
def test_a_confidence_comes_with_each_caption_and_changes_none(saved, search):
    plain = saved[0]
    features = plain.encode(pixels(6))
    sure = Captioner(plain.config, WORDS, plain.encoder, plain.decoder)
    sure.confidence = CONFIDENCE
    config = plain.config.with_overrides(search)
    before, after = plain.caption(features, config), sure.caption(features, config)
    assert all(caption.confidence is None and not caption.unsure for found in before for caption in found)
    assert [[replace(c, confidence=None, unsure=False) for c in found] for found in after] == before
    found = [caption for image in after for caption in image]
    assert all(0 < caption.confidence < 1 and caption.unsure == (caption.confidence < 0.4) for caption in found)
    middle = float(np.median([caption.confidence for caption in found]))
    sure.confidence = replace(CONFIDENCE, unsure_below=middle)
    flags = [caption.unsure for image in sure.caption(features, config) for caption in image]
    assert flags == [caption.confidence < middle for caption in found]
    assert set(flags) == {True, False}


@pytest.mark.backends
def test_greedy_and_beam_search_are_equally_sure_of_the_same_caption(saved):
    plain = saved[0]
    sure = Captioner(plain.config, WORDS, plain.encoder, plain.decoder)
    sure.confidence = CONFIDENCE
    features = plain.encode(pixels(6))
    greedy, beams = (sure.caption(features, plain.config.with_overrides({"beam_size": size})) for size in (1, 6))
    common = 0
    for (one,), several in zip(greedy, beams, strict=True):
        for caption in several:
            if caption.text == one.text:
                common += 1
                assert caption.confidence == pytest.approx(one.confidence, abs=1e-4)
    assert common


def test_signals_are_those_that_the_confidence_is_made_of(saved, make_store):
    made = saved[0]
    names = [f"{i}.jpg" for i in range(7)]
    store = make_store(names, shape=(4, 5), dtype="float16")
    found, signals = made.observe(FeatureBatches(store, names, 4), CONFIDENCE.subspace)
    assert signals.shape == (8, PLAIN), "the last batch is filled up"
    sure = Captioner(made.config, WORDS, made.encoder, made.decoder)
    sure.confidence = CONFIDENCE
    expected = [image[0] for image in sure.caption(FeatureBatches(store, names, 4))]
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    p = keras.ops.convert_to_numpy(CONFIDENCE.of_signals(signals))
    np.testing.assert_allclose(p, [caption.confidence for caption in expected], atol=1e-5)


def test_an_ensemble_has_no_confidence(saved):
    sure = Captioner(saved[0].config, WORDS, saved[0].encoder, saved[0].decoder)
    sure.confidence = CONFIDENCE
    both = Ensemble([sure, sure])
    assert both.confidence is None
    assert both.caption(both.encode(pixels(2)))[0][0].confidence is None


def test_no_features_give_no_captions(saved):
    assert saved[0].caption(np.zeros((0, 4, 5), "float16")) == []


def test_batches_of_a_store_are_captioned_as_an_array(saved, make_store):
    made = saved[0]
    names = [f"{i}.jpg" for i in range(7)]
    store = make_store(names, shape=(4, 5), dtype="float16")
    features = store.read(np.asarray([store.rows[name] for name in names]))
    expected = [[caption.text for caption in found] for found in made.caption(features)]
    found = made.caption(FeatureBatches(store, names, 3))
    assert [[caption.text for caption in group] for group in found[:7]] == expected
    assert len(found) == 9, "the last batch is filled up"


@pytest.mark.slow
def test_drawn_captions_depend_on_seed_and_name_alone(saved, make_store):
    """Not on the batch, nor on whether features come from a store. Best first, and as many as were asked for."""
    made = saved[0]
    drawing = made.config.with_overrides({"do_sample": True, "num_captions": 4, "top_k": 8, "no_repeat_ngram": 1})
    names = [f"{i}.jpg" for i in range(5)]
    store = make_store(names, shape=(4, 5), dtype="float16")
    features = store.read(np.asarray([store.rows[name] for name in names]))
    found = made.caption(features, drawing, names=names)
    assert [len(captions) for captions in found] == [4] * 5
    assert made.caption(features, drawing, names=names) == found
    texts = [[caption.text for caption in captions] for captions in found]
    alone = made.caption(features[2:3], drawing, names=["photos/2.jpg"])
    assert [[caption.text for caption in captions] for captions in alone] == texts[2:3]
    stored = made.caption(FeatureBatches(store, names, 2), drawing)[:5]
    assert [[caption.text for caption in captions] for captions in stored] == texts
    other = made.caption(features, drawing.with_overrides({"sample_seed": 1}), names=names)
    assert [[caption.text for caption in captions] for captions in other] != texts
    both = Ensemble([made, made])
    joined = both.caption((features, features), drawing, names=names)
    assert [[caption.text for caption in captions] for captions in joined] == texts


@pytest.mark.slow
def test_the_best_captions_of_a_beam_are_given(saved):
    made = saved[0]
    features = made.encode(pixels(2))
    whole = made.caption(features, made.config.with_overrides({"beam_size": 4}))
    few = made.caption(features, made.config.with_overrides({"beam_size": 4, "num_captions": 2}))
    assert few == [captions[:2] for captions in whole]


@pytest.mark.parametrize(
    ("decoder", "columns"),
    [
        ("attention", 4),
        ("adaptive", 5),
        ("transformer", 4),
        pytest.param("updown", 4, marks=pytest.mark.slow),
        pytest.param("aoa", 4, marks=pytest.mark.slow),
        pytest.param("m2", 4, marks=pytest.mark.slow),
    ],
)
def test_weights_are_those_of_decoding_the_caption(decoder, columns, tmp_path):
    """One row per word and one for the end. Other captions in the batch change nothing; another image does."""
    encoder = save_encoder(tmp_path / "encoder.keras")
    made = captioner(Config(decoder=decoder, encoder=encoder, **small_sizes(decoder), **SIZES))
    features = np.random.default_rng(2).normal(size=(3, 4, 5)).astype("float16")
    captions = ["word1 word2", "word3", "word1 word2 word3 word4 word5 word6 word7 word8"]  # one too long to be decoded
    weights = made.attend(features, captions)
    assert [weight.shape for weight in weights] == [(3, columns), (2, columns), (9, columns)]
    for weight in weights:
        np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(made.attend(features[1:2], captions[1:2])[0], weights[1], atol=1e-5)
    assert not np.allclose(made.attend(features[2:], captions[:1])[0], weights[0], atol=1e-3)
    # Where to look for a word depends on the words before it, not on the word.
    other = made.attend(features[:1], ["word9 word2"])[0]
    np.testing.assert_allclose(other[0], weights[0][0], atol=1e-5)
    assert not np.allclose(other[2], weights[0][2], atol=1e-5)


def test_a_word_of_wordpieces_has_the_mean_of_their_weights(tmp_path):
    made = captioner(Config(encoder=save_encoder(tmp_path / "encoder.keras"), decoder="attention", **SIZES))
    features = np.random.default_rng(2).normal(size=(1, 4, 5)).astype("float16")
    whole = made.attend(features, ["word1 word2 word3"])[0]
    # The same ids, but now the second and third are pieces of one word.
    made.vocabulary = Vocabulary(["word0", "word1", "snow", "##board", *WORDS.words[8:]], wordpieces=True)
    found = made.attend(features, ["word1 snowboard"])[0]
    np.testing.assert_allclose(found, [whole[0], whole[1:3].mean(axis=0), whole[3]], atol=1e-6)


def test_a_decoder_without_attention_is_named(saved):
    with pytest.raises(UserError, match="decoder: inject has no attention"):
        saved[0].attend(np.zeros((1, 4, 5), "float16"), ["word1"])
