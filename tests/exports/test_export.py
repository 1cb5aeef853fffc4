"""Exports give the original's captions, in their own runtimes and without Keras, and leave whole folders or none."""

import functools
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import ROOT, random_captioner, save_encoder, small_sizes
from PIL import Image
from running import refused, script
from sure import CONFIDENCE

import export
from captioning.base.errors import UserError
from captioning.data.predictions import read_predictions
from captioning.data.records import ImageRecord
from captioning.exports import writing
from captioning.exports.checking import compare
from captioning.exports.onnx_models import halve_weights
from captioning.exports.reading import KINDS, Exported
from captioning.exports.runtime import GraphCaptioner
from captioning.exports.writing import write_export
from captioning.pictures.loading import load_image
from captioning.words.vocabulary import Vocabulary
from config import POCKET, Config
from model import Captioner

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made under TensorFlow")

WORDS = Vocabulary(["a", "dog", "'s", *(f"word{i}" for i in range(17))])
SIZES = {"image_size": 32, "embedding_size": 8, "hidden_size": 8, "max_caption_length": 6, "feature_grid": 2}
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "exports.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """``make(decoder="merge", ...)``: a captioner with random weights, the same for all who ask for the same settings."""
    encoder = save_encoder(tmp_path_factory.mktemp("encoder") / "encoder.keras")

    @functools.cache  # what it has compiled serves every format
    def make(**settings) -> Captioner:
        config = Config(encoder=encoder, no_repeat_ngram=2, min_length=3, length_penalty=0.7, **SIZES | settings)
        return random_captioner(config, WORDS)

    return make


@pytest.fixture(scope="module")
def merged(make, tmp_path_factory):
    """A captioner, and the folder that holds its bundle and its SavedModel."""
    captioner = make(decoder="merge")
    folder = tmp_path_factory.mktemp("merged")
    captioner.save(folder / "captioner.zip")
    write_export(captioner, captioner.config, "savedmodel", folder / "exported" / "savedmodel")
    return captioner, folder


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3)).astype("uint8")


def assert_same(exported: Exported, captioner: Captioner, config: Config) -> None:
    """The same captions with the same probabilities, of pictures that do not all have the same."""
    pictures = pixels(6)
    expected = [captioner.caption(captioner.encode(one[None]), config)[0] for one in pictures]
    assert len({round(captions[0].log_prob, 3) for captions in expected}) > 1
    for one, captions in zip(pictures, expected, strict=True):
        assert exported.captions(one) == [caption.text for caption in captions]
        found = exported(one[None])
        np.testing.assert_allclose(found["log_probs"][0, 0], captions[0].log_prob, rtol=2e-3)
        np.testing.assert_allclose(found["scores"][0, 0], captions[0].score, rtol=2e-3)
        for name, stated in exported.about["outputs"].items():
            assert (str(found[name].dtype), list(found[name].shape[1:])) == (stated["dtype"], stated["shape"][1:])


def test_a_savedmodel_captions_as_the_original(merged):
    captioner, folder = merged
    exported = Exported(folder / "exported" / "savedmodel")
    assert_same(exported, captioner, captioner.config)
    batch = exported(pixels(3))
    np.testing.assert_array_equal(batch["tokens"][1], exported(pixels(3)[1:2])["tokens"][0])
    files = exported.about["sha256"]
    assert {"vocabulary.json", "model/saved_model.pb"} < set(files)
    for name, digest in files.items():
        assert hashlib.sha256((exported.folder / name).read_bytes()).hexdigest() == digest
    assert exported.about["decoding"] == {
        "agreement_weight": 0.0,
        "class_weight": 3.0,
        "beam_groups": 1,
        "beam_size": 3,
        "concept_weight": 0.0,
        "consensus": False,
        "diversity_penalty": 0.5,
        "do_sample": False,
        "exclude_words": [],
        "include": [],
        "length_penalty": 0.7,
        "max_caption_length": 6,
        "min_length": 3,
        "no_repeat_ngram": 2,
        "object_weight": 0.0,
        "prefix": "",
        "rare_weight": 0.0,
        "repeat_weight": 0.0,
        "sample_seed": 0,
        "sample_temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "typical_p": 1.0,
    }


def test_a_savedmodel_holds_no_states_of_random_numbers(merged):
    import tensorflow as tf

    captioner, folder = merged
    stored = tf.train.load_checkpoint(str(folder / "exported/savedmodel/model/variables/variables"))
    kinds = {dtype.name for dtype in stored.get_variable_to_dtype_map().values()}
    assert kinds == {"float32", "string"}  # "string": the names of the others
    assert {str(variable.dtype) for variable in captioner.decoder.variables} - {"float32"}


@pytest.mark.parametrize(
    ("kind", "beam_size"),
    [
        pytest.param("litert", 3, marks=pytest.mark.slow),
        *(pytest.param(*each, marks=pytest.mark.weekly) for each in (("savedmodel", 1), ("onnx", 3))),
    ],
)
def test_every_format_carries_the_words_that_are_asked_for(make, tmp_path, kind, beam_size):
    for library in KINDS[kind].libraries:
        pytest.importorskip(library)
    captioner = make(decoder="merge")
    asked = {"prefix": "a", "include": ["word3", "dog|word5 word6"], "exclude_words": ["word7", "word1 word2"]}
    config = captioner.config.with_overrides({"beam_size": beam_size, **asked})
    write_export(captioner, config, kind, tmp_path / kind)
    exported = Exported(tmp_path / kind)
    assert_same(exported, captioner, config)
    assert exported.about["decoding"]["include"] == asked["include"]
    words = exported.captions(pixels(1)[0])[0].split()
    assert words[0] == "a"
    assert "word3" in words


@pytest.mark.weekly
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_carries_the_groups_of_a_diverse_search(make, tmp_path, kind):
    for library in KINDS[kind].libraries:
        pytest.importorskip(library)
    captioner = make(decoder="merge")
    config = captioner.config.with_overrides({"beam_size": 4, "beam_groups": 2})
    write_export(captioner, config, kind, tmp_path / kind)
    assert_same(Exported(tmp_path / kind), captioner, config)


def assert_open(exported: Exported, captioner: Captioner, config: Config) -> None:
    """What ONNX leaves open is as with the original: beams, length penalty, shortest caption, and attention."""
    graphs, features = GraphCaptioner(exported, config), captioner.encode(pixels(3))
    np.testing.assert_allclose(graphs.encode(pixels(3)), features, atol=2e-3, rtol=2e-3)
    for beam_size, length_penalty, min_length in [(4, 1.5, 1), (3, 0.0, 5), *([] if config.votes else [(1, 0.7, 3)])]:
        values = {"beam_size": beam_size, "length_penalty": length_penalty, "min_length": min_length}
        asked = config.with_overrides(values)
        expected, found = captioner.caption(features, asked), graphs.caption(features, asked)
        assert [[each.text for each in image] for image in found] == [
            [each.text for each in image] for image in expected
        ]
        np.testing.assert_allclose(found[0][0].score, expected[0][0].score, rtol=2e-3)
    assert graphs.attends == captioner.attends
    if graphs.attends:
        texts = [image[0].text for image in expected]
        for one, other in zip(graphs.attend(features, texts), captioner.attend(features, texts), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)


def assert_as_sure(exported: Exported, captioner: Captioner, config: Config) -> None:
    """The same confidence of each caption as the original."""
    for one in pixels(3):
        expected = captioner.caption(captioner.encode(one[None]), config)[0]
        found = exported(one[None])["confidence"][0, : len(expected)]
        np.testing.assert_allclose(found, [caption.confidence for caption in expected], atol=2e-3)


def sure_of(captioner: Captioner) -> Captioner:
    """The same captioner with a confidence."""
    sure = Captioner(captioner.config, captioner.vocabulary, captioner.encoder, captioner.decoder)
    sure.confidence = CONFIDENCE
    return sure


def test_an_export_of_a_captioner_without_confidence_has_none(merged):
    plain = Exported(merged[1] / "exported" / "savedmodel")
    assert {"confidence", "unsure_below"}.isdisjoint({*plain.about, *plain.about["outputs"], *plain(pixels(1))})


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("savedmodel", marks=pytest.mark.weekly),
        pytest.param("litert", marks=pytest.mark.slow),
        pytest.param("onnx", marks=pytest.mark.slow),
    ],
)
def test_every_format_carries_the_confidence(make, tmp_path, kind):
    for library in KINDS[kind].libraries:
        pytest.importorskip(library)
    captioner = sure_of(make(decoder="attention"))
    config = captioner.config.with_overrides({"beam_size": 3})
    write_export(captioner, config, kind, tmp_path / kind)
    exported = Exported(tmp_path / kind)
    assert_same(exported, captioner, config)
    assert_as_sure(exported, captioner, config)
    if kind == "onnx":
        assert_open(exported, captioner, config)
    assert exported.about["outputs"]["confidence"]["dtype"] == "float32"
    assert exported.about["unsure_below"] == 0.4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("decoder", "search", "embedding"),
    [
        # Attention without consensus: test_every_format_carries_the_confidence.
        # Without a penalty, so that captions end and may vote.
        pytest.param(
            *("attention", {"beam_size": 6, "length_penalty": 0, "consensus": True}, "learned"), marks=pytest.mark.slow
        ),
        pytest.param("transformer", {"beam_size": 3}, "learned", marks=pytest.mark.weekly),
        pytest.param("merge", {"beam_size": 1}, "bert-static", marks=pytest.mark.weekly),
        pytest.param("inject", {"beam_size": 3}, "learned", marks=pytest.mark.weekly),
        pytest.param("adaptive", {"beam_size": 2}, "bert-prefix", marks=pytest.mark.weekly),
        pytest.param("updown", {"beam_size": 3}, "learned", marks=pytest.mark.weekly),
        pytest.param("aoa", {"beam_size": 2}, "bert-static", marks=pytest.mark.weekly),
        pytest.param("m2", {"beam_size": 3}, "learned", marks=pytest.mark.weekly),
    ],
)
def test_every_format_captions_as_the_original(make, tmp_path, kind, decoder, search, embedding):
    for library in KINDS[kind].libraries:
        pytest.importorskip(library)
    sizes = small_sizes(decoder)
    if "consensus" in search:
        sizes["max_caption_length"] = 12
    captioner = make(decoder=decoder, embedding=embedding, **sizes)
    config = captioner.config.with_overrides(search)
    write_export(captioner, config, kind, tmp_path / "export")
    assert_same(Exported(tmp_path / "export"), captioner, config)
    if kind == "onnx":
        assert_open(Exported(tmp_path / "export"), captioner, config)
    if config.votes:
        found = captioner.caption(captioner.encode(pixels(6)), config)
        assert sum(0 < captions[0].score < 1 for captions in found) > 1


@pytest.mark.parametrize(
    "kind", [pytest.param("onnx", marks=pytest.mark.weekly), pytest.param("litert", marks=pytest.mark.slow)]
)
def test_int8_is_smaller_and_runs(make, tmp_path, kind):
    for library in KINDS[kind].libraries:
        pytest.importorskip(library)
    captioner = make(decoder="attention", embedding_size=128, hidden_size=128)
    for name in ("whole", "small"):
        write_export(captioner, captioner.config, kind, tmp_path / name, int8=name == "small")
    whole, small = Exported(tmp_path / "whole"), Exported(tmp_path / "small")
    assert small.megabytes < 0.6 * whole.megabytes
    assert small.about["int8"]
    assert small.captions(pixels(1)[0])[0]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=getattr(pytest.mark, "weekly" if kind == "savedmodel" else "slow")) for kind in KINDS],
)
def test_the_page_shows_how_to_call_it_without_keras(merged, tmp_path, kind):
    for library in KINDS[kind].libraries:
        pytest.importorskip(library)
    captioner, _ = merged
    write_export(captioner, captioner.config, kind, tmp_path / "exported" / kind)
    Image.fromarray(pixels(1)[0]).save(tmp_path / "photo.jpg", quality=95)
    (block,) = (block for block in BLOCKS if f"exported/{kind}" in block)
    code = 'import sys\nsys.modules["keras"] = None  # cannot be imported\n' + BLOCKS[0] + block
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    features = captioner.encode([load_image(tmp_path / "photo.jpg", 32)])
    assert done.stdout.splitlines()[-1] == captioner.caption(features)[0][0].text


@pytest.mark.weekly
def test_the_shipped_captioner_captions_by_litert_from_picture_to_caption(tmp_path):
    """As on a phone: one graph, a picture file, and the captions, probabilities and confidence of Keras and of ONNX."""
    pytest.importorskip("ai_edge_litert")
    captioner, graphs = Captioner.load(POCKET), GraphCaptioner.load(POCKET)
    write_export(captioner, captioner.config, "litert", tmp_path / "litert")
    exported = Exported(tmp_path / "litert")
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for i in range(4):
        shapes = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = tmp_path / f"{i}.jpg"
        Image.fromarray(shapes).resize((500, 375)).save(path, exif=turned)
        pixels = load_image(path, captioner.config.image_size)
        (expected,) = captioner.caption(captioner.encode(pixels[None]))
        assert exported.captions(pixels) == [caption.text for caption in expected]
        assert [caption.text for caption in graphs.caption(graphs.encode(pixels[None]))[0]] == exported.captions(pixels)
        found = exported(pixels[None])
        np.testing.assert_allclose(found["log_probs"][0], [each.log_prob for each in expected], atol=0.02)
        np.testing.assert_allclose(found["confidence"][0], [each.confidence for each in expected], atol=0.01)


def test_the_page_reads_pictures_and_spells_captions_as_we_do():
    page: dict = {}
    exec(BLOCKS[0], page)
    rng = np.random.default_rng(2)
    shades = rng.integers(0, 256, (260, 300, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    for image, options in [
        (Image.fromarray(shades[..., :3]), {"format": "JPEG", "exif": turned}),
        (Image.fromarray(shades), {"format": "PNG"}),
        (Image.fromarray(shades[..., 0].astype(np.uint16) * 257), {"format": "PNG"}),
        (Image.fromarray(shades[:32, :32, :3]), {"format": "PNG"}),
    ]:
        file = io.BytesIO()
        image.save(file, **options)
        np.testing.assert_array_equal(page["load_picture"](file, 32)[0], load_image(file, 32))
    found = {"tokens": np.array([[[4, 5, 6, 7, 2, 0], [5, 2, 0, 0, 0, 0]]]), "log_probs": np.array([[-3.0, -1e9]])}
    assert page["spell"](found, WORDS.words) == ["a dog's word0"] == [WORDS.decode(found["tokens"][0, 0])]


def test_what_fails_leaves_the_old_export_and_nothing_else(merged, tmp_path, monkeypatch):
    captioner, _ = merged
    folder = tmp_path / "exported" / "onnx"
    folder.mkdir(parents=True)
    (folder / "export.json").write_text("the old one")
    killed = folder.parent / ".export-of-a-killed-process"
    killed.mkdir()
    os.utime(killed, (time.time() - 10,) * 2)

    def write(captioner, config, folder, int8):
        (folder / "encoder.onnx").write_text("half of it")
        kept = Path(tempfile.mkdtemp())  # as converters do; what a kill leaves there is swept
        assert kept.is_relative_to(folder.parent)
        assert folder.parent.name.startswith(".export-")
        raise ValueError("\nUnknown operator\nand much more")

    monkeypatch.setitem(writing._WRITERS, "onnx", write)
    with pytest.raises(UserError, match="onnx cannot hold this captioner: Unknown operator; take another"):
        write_export(captioner, captioner.config, "onnx", folder)
    monkeypatch.setattr(writing, "_ROOM", 1 << 80)  # what the converter met was a full disk
    with pytest.raises(
        UserError, match="onnx: cannot be written \\(No space left on device\\); choose another --output"
    ):
        write_export(captioner, captioner.config, "onnx", folder)
    assert [path.name for path in folder.parent.iterdir()] == ["onnx"]
    assert (folder / "export.json").read_text() == "the old one"
    assert not Path(tempfile.gettempdir()).is_relative_to(folder.parent)


def test_only_exports_are_replaced_and_only_when_told_to(tmp_path):
    made, other = tmp_path / "export", tmp_path / "photos"
    made.mkdir()
    (made / "export.json").write_text("{}")
    other.mkdir()
    export.refuse(["savedmodel"], [made, tmp_path / "new"], overwrite=True)
    with pytest.raises(UserError, match="exists already; choose another --output, or add --overwrite"):
        export.refuse(["savedmodel"], [made], overwrite=False)
    with pytest.raises(UserError, match=r"photos: exists already; choose another --output$"):
        export.refuse(["savedmodel"], [other], overwrite=True)


def test_without_output_onnx_goes_beside_the_captioner(tmp_path):
    def wanted(*typed):
        args = export.settled(export.export_parser().parse_args(list(map(str, typed))))
        return [(each.kind, each.folder) for each in export.wanted_exports(args)]

    assert wanted("--model", tmp_path) == [("onnx", tmp_path / "onnx")]
    assert wanted("--model", "a/b.zip", "--format", "litert") == [("litert", Path("a/b/litert"))]
    assert wanted("--model", tmp_path, "--output", "out") == [(kind, Path("out", kind)) for kind in KINDS]


def test_weights_are_halved_where_that_loses_nothing():
    onnx = pytest.importorskip("onnx")
    exact = np.arange(2048, dtype="float32").reshape(2, 1024)
    weights = {"exact": exact, "inexact": exact + 0.3, "large": exact * 1e9, "small": exact[:1, :8]}
    made = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "weights", [], [], made))
    graph = halve_weights(model).graph
    assert {weight.name: weight.data_type for weight in graph.initializer} == {
        "exact_float16": onnx.TensorProto.FLOAT16,
        **dict.fromkeys(("inexact", "large", "small"), onnx.TensorProto.FLOAT),
    }
    assert [(node.op_type, *node.input, *node.output) for node in graph.node] == [("Cast", "exact_float16", "exact")]


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: name == "onnx")
    with pytest.raises(UserError, match=r'needs tf2onnx, onnxruntime; pip install -e "\.\[export\]"$'):
        export.refuse(["savedmodel", "onnx"], [], False)


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a whole export"):
        Exported(tmp_path)


def test_compare_counts_captions_and_beams_and_names_what_differs():
    class Fake:
        def __init__(self, *beams):
            self.beams = list(beams)

        def captions(self, pixels):
            return self.beams[pixels.item()]

    pictures = [("x.jpg", np.array(0)), ("y.jpg", np.array(1))]
    original = Fake(["a dog", "a cat"], ["a man", "a boy"])
    about, (same, near, far) = compare(
        original.captions,
        [original, Fake(["a dog", "two cats"], ["a man", "a boy"]), Fake(["a dog", "a cat"], ["a boy", "a man"])],
        pictures,
    )
    assert about.pictures == 2
    assert [(found.same, found.same_beams) for found in (same, near, far)] == [(2, 2), (2, 1), (1, 1)]
    assert same.different == near.different == []
    assert far.different == [{"image": "y.jpg", "original": "a man", "exported": "a boy"}]
    assert far.captions == [("x.jpg", "a dog"), ("y.jpg", "a boy")]
    with pytest.raises(UserError, match="none of the pictures"):
        compare(original.captions, [], [])


@pytest.mark.slow
def test_the_script_writes_checks_and_tells(merged, tmp_path, monkeypatch):
    captioner, folder = merged
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(pixels(3)):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "pictures" / "torn.png").write_bytes(b"torn")
    options = ["--model", folder, "--output", tmp_path / "out", "--format", "savedmodel", "--beam-size", "2"]
    options += ["--check", tmp_path / "pictures"]
    done = script("export", *options)
    assert done.status == 0, done
    assert re.search(r"\| savedmodel \| \d+\.\d \| 3 of 3 \| 3 of 3 \| \d+\.\d{3} \|", done.out)
    assert "torn.png: cannot be read" in done.err
    check = json.loads((tmp_path / "out" / "savedmodel" / "check.json").read_text())
    assert (check["same"], check["original"]["pictures"], check["different"]) == (3, 3, [])
    assert "captions" not in check
    # As evaluate.py reads them: by the images' file names.
    records = [ImageRecord(i, f"{i}.png", tmp_path, (), "dev") for i in range(3)]
    found = read_predictions(tmp_path / "out" / "savedmodel" / "predictions.json", records)
    beam = captioner.caption(captioner.encode(pixels(3)), captioner.config.with_overrides({"beam_size": 2}))
    assert found == [captions[0].text for captions in beam]
    assert json.loads((tmp_path / "out" / "savedmodel" / "export.json").read_text())["decoding"]["beam_size"] == 2
    refused("export", *options, mentions="exists already; .* add --overwrite")
    monkeypatch.setattr(Exported, "captions", lambda self, picture: ["something else"])
    done = script("export", *options, "--overwrite")
    assert done.status == 1, done
    assert "3 captions differ" in done.err
    assert "| 0 of 3 |" in done.out


@pytest.mark.slow
def test_the_script_adds_an_encoder_in_8_bits_and_checks_it(merged, tmp_path):
    for library in KINDS["onnx"].libraries:
        pytest.importorskip(library)
    _, folder = merged
    for i, picture in enumerate(pixels(3)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    options = ["--model", folder, "--output", tmp_path / "out", "--format", "onnx", "--calibrate", tmp_path]
    done = script("export", *options, "--check", tmp_path / "0.png")
    assert done.status == 0, done
    assert re.search(r"\| onnx \| .* 1 of 1 .*\n\| onnx, int8 encoder \| ", done.out)
    assert "onnx, int8 encoder: " in done.out
    assert {"check.json", "check-int8.json", "predictions-int8.json"} <= set(os.listdir(tmp_path / "out" / "onnx"))
    exact, coarse = (
        GraphCaptioner(Exported(tmp_path / "out" / "onnx"), Config(**SIZES), precision).encode(pixels(3)).astype(float)
        for precision in ("float32", "int8")
    )
    assert 0 < np.linalg.norm(coarse - exact) < 0.05 * np.linalg.norm(exact)


def test_the_script_refuses_what_cannot_be(merged, tmp_path):
    options = ["--model", merged[1], "--output", tmp_path / "out", "--format", "savedmodel"]
    refused("export", *options, "--calibrate", tmp_path, mentions="--calibrate: only the format onnx can do this")
    refused(
        "export", *options, "--backend", "jax", mentions="--backend: exports are made under TensorFlow.*leave this out"
    )
    refused("export", *options, "--int8", mentions="--int8: only the formats onnx and litert can do this")
    refused("export", *options, "--check", tmp_path / "gone.jpg", mentions=r"--check: .*gone\.jpg: there is no such")
    assert not (tmp_path / "out").exists()
    refused("export", *options, "--hidden-size", "9", mentions="hidden_size: the model was trained with 8")
    assert not (tmp_path / "out").exists()
