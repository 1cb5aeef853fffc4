"""ONNX Runtime captions by the graphs of a captioner, without Keras, and Keras captions where they do not fit.

The graphs are those of the captioner in this repository. No test here depends on what it says.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from running import script
from test_imports import KERAS

from captioning.base.errors import UserError
from captioning.base.trained import fingerprint
from captioning.command_line.options import make_parser
from captioning.exports import runtime
from captioning.exports.graphs import onnx_runtime
from captioning.exports.runtime import (
    OWN_OPTIONS,
    Unsuitable,
    add_runtime,
    exports_beside,
    graph_captioner,
    load_captioner,
)
from captioning.search.captions import Caption
from config import POCKET

pytest.importorskip("onnxruntime")

GRAPHS = exports_beside(POCKET) / "onnx"


def arguments(*typed: str) -> Namespace:
    parser = make_parser("", trained=True, own=OWN_OPTIONS)
    add_runtime(parser)
    return parser.parse_args(typed)


def scenes(count: int, side: int) -> np.ndarray:
    """Coarse shapes of random colours, uint8 ``(count, side, side, 3)``."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((side, side))) for each in small])


@pytest.fixture
def copied(tmp_path) -> Path:
    """A bundle with graphs beside it, as in ``pretrained/``, whose files a test may replace."""
    (tmp_path / "pocket" / "onnx").mkdir(parents=True)
    os.symlink(POCKET, tmp_path / "pocket.zip")
    for path in GRAPHS.iterdir():
        os.symlink(path, tmp_path / "pocket" / "onnx" / path.name)
    return tmp_path / "pocket.zip"


@pytest.fixture(scope="module")
def shipped():
    return graph_captioner(POCKET, arguments("--precision", "float32"))


def change(folder: Path, name: str, content: bytes) -> None:
    (folder / name).unlink()
    (folder / name).write_bytes(content)


def test_the_graphs_in_the_repository_are_of_its_captioner():
    about = json.loads((GRAPHS / "export.json").read_text(encoding="utf-8"))
    assert about["bundle"] == fingerprint(POCKET), "make them anew, as pretrained/README.md says"
    files = [POCKET, *GRAPHS.iterdir()]
    assert sum(path.stat().st_size for path in files) < 70e6


def test_where_the_graphs_of_a_captioner_lie(tmp_path):
    assert exports_beside(Path("pretrained/pocket.zip")) == Path("pretrained/pocket")
    assert exports_beside(tmp_path) == exports_beside(tmp_path / "captioner.zip") == tmp_path


def test_a_first_caption_loads_no_training_framework(tmp_path):
    Image.fromarray(scenes(1, 300)[0]).save(tmp_path / "photo.png")
    code = f"""
import runpy, sys
sys.argv = ["test.py", {str(tmp_path)!r}, "--json", "--best", "2", "--runtime", "onnx"]
try:
    runpy.run_path("test.py", run_name="__main__")
except SystemExit as left:
    assert not left.code
print(sorted({KERAS | {"nltk", "matplotlib", "requests"}!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    captions = json.loads(line)["captions"]
    assert len(captions) == 2
    assert all(each["caption"] and 0 <= each["confidence"] <= 1 for each in captions)


def test_the_settings_of_a_search_are_free(shipped):
    features = shipped.encode(scenes(3, shipped.config.image_size))
    for beam_size, length_penalty, min_length in [(1, 0.0, 1), (4, 1.0, 9)]:
        values = {"beam_size": beam_size, "length_penalty": length_penalty, "min_length": min_length}
        decoding = shipped.config.with_overrides(values)
        found = shipped.caption(features, decoding)
        alone = shipped.caption(features[1:2], decoding)[0]
        assert [each.text for each in found[1]] == [each.text for each in alone]
        for captions in found:
            assert len(captions) == beam_size
            scores = [each.score for each in captions]
            assert scores == sorted(scores, reverse=True)
            for each in captions:
                ids = shipped.vocabulary.encode(each.text, 100)[1:]  # with <end>
                assert len(ids) > min_length
                # The agreement with the visual concepts comes on top. It lies between 0 and 1.
                agreement = each.score - each.log_prob / len(ids) ** length_penalty
                assert 0 <= agreement <= decoding.agreement_weight


def test_the_attention_has_a_row_for_each_word(shipped):
    pictures = scenes(2, shipped.config.image_size)
    texts = ["a dog", "two people sit on a red bench"]
    looks = shipped.attend(shipped.encode(pictures), texts)
    assert [look.shape for look in looks] == [(len(text.split()) + 1, shipped.regions) for text in texts]
    for look in looks:
        np.testing.assert_allclose(look.sum(-1), 1, atol=1e-4)


def test_a_folder_is_captioned_into_a_file(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, picture in enumerate(scenes(3, 64)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    (folder / "torn.png").write_bytes(b"torn")
    output = tmp_path / "captions.jsonl"
    done = script("test", folder, "--output", output, "--write-metadata", "sidecar", "--runtime", "onnx")
    assert done.status == 1, done
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert ["error" in line for line in lines] == [False, False, False, True]
    assert (folder / "0.png.xmp").exists()


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (["--runtime", "keras"], "^--runtime keras$"),
        (["--backend", "jax"], "^--backend jax is one of Keras$"),
        (["--no-repeat-ngram", "3"], "^no_repeat_ngram is 3, and the ONNX graphs have 2$"),
        (["--consensus", "--beam-size", "20"], "^consensus is True, and"),
        (["--max-caption-length", "12"], "^max_caption_length is 12, and"),
        (["--do-sample"], "^only Keras runs do_sample and beam_groups$"),
        (["--beam-size", "10", "--beam-groups", "5"], "^only Keras runs do_sample and beam_groups$"),
    ],
)
def test_what_the_graphs_cannot_do(typed, reason):
    with pytest.raises(Unsuitable, match=reason):
        graph_captioner(POCKET, arguments(*typed))


def test_graphs_of_another_captioner_or_release(copied, tmp_path):
    folder = tmp_path / "pocket" / "onnx"
    about = json.loads((folder / "export.json").read_text())
    anew = re.escape(f"python export.py --format onnx --overwrite --model {copied} makes it anew")
    for changed, reason in [
        ({"bundle": "0" * 64}, f"made of other weights than those in .*pocket.zip; {anew}"),
        ({"format": 1}, f"written by another release .*; {anew}"),
        ({"kind": "litert"}, f"not an ONNX export; {anew}"),
        ({"decoding": None}, f"not an ONNX export; {anew}"),
        ({"regions": "many"}, f"cannot be run here .*regions may not be 'many'.*; {anew}"),
    ]:
        change(folder, "export.json", json.dumps(about | changed).encode())
        with pytest.raises(Unsuitable, match=reason):
            graph_captioner(copied, arguments())
    change(folder, "export.json", b"{")
    with pytest.raises(Unsuitable, match=f"not a whole export.*{anew}"):
        graph_captioner(copied, arguments())
    shutil.rmtree(tmp_path / "pocket")
    with pytest.raises(Unsuitable, match=r"has no ONNX graphs; python export\.py --format onnx --model .* makes them"):
        graph_captioner(copied, arguments())


@pytest.mark.parametrize("name", ["search.onnx", "encoder.onnx", "encoder-int8.onnx", "vocabulary.json"])
def test_a_file_that_was_cut_short(copied, tmp_path, name):
    folder = tmp_path / "pocket" / "onnx"
    change(folder, name, (GRAPHS / name).read_bytes()[:-100])
    with pytest.raises(Unsuitable, match="makes it anew"):
        graph_captioner(copied, arguments("--precision", "int8" if "int8" in name else "float32"))


def test_8_bits_are_computed_where_they_are_wanted_and_auto_is_where_they_are_fast(copied, monkeypatch, shipped):
    for flags, typed, precision in [
        ({"avx2", "avx512_vnni"}, [], "int8"),
        ({"avx2", "avx512_vnni"}, ["--precision", "float32"], "float32"),
        ({"avx2", "avx_vnni"}, ["--precision", "auto"], "int8"),
        ({"avx2", "avx512f"}, ["--precision", "auto"], "float32"),
        (set(), ["--precision", "int8"], "int8"),
    ]:
        monkeypatch.setattr(runtime, "processor_flags", lambda flags=flags: flags)
        with monkeypatch.context() as closed:
            closed.setattr(runtime, "Graphs", lambda *files: None)
            assert graph_captioner(copied, arguments(*typed)).precision == precision
    coarse = graph_captioner(copied, arguments("--precision", "int8"))
    features, found = (each.encode(scenes(1, each.config.image_size)).astype(float) for each in (shipped, coarse))
    assert 0 < np.linalg.norm(found - features) < 0.5 * np.linalg.norm(features)  # no photograph, so far from exact


def test_an_export_without_an_encoder_in_8_bits(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "processor_flags", lambda: {"avx512_vnni"})
    monkeypatch.setattr(runtime, "Graphs", lambda *files: None)
    folder = tmp_path / "pocket" / "onnx"
    about = json.loads((folder / "export.json").read_text())
    del about["sha256"]["encoder-int8.onnx"]
    change(folder, "export.json", json.dumps(about).encode())
    assert graph_captioner(copied, arguments("--precision", "auto")).precision == "float32"
    with pytest.raises(
        UserError, match=r"^--precision int8: .*has no encoder in 8 bits; python export.py .*--calibrate"
    ):
        load_captioner([copied], 1, arguments("--precision", "int8"))
    with pytest.raises(UserError, match=r"^--precision int8: Keras has no encoder in 8 bits; leave out this or"):
        load_captioner([copied], 1, arguments("--precision", "int8", "--runtime", "keras"))


@pytest.mark.slow
def test_a_file_of_captions_goes_on_in_the_precision_that_it_was_begun_in(tmp_path, monkeypatch):
    import test as captioning_script

    monkeypatch.setattr(runtime, "processor_flags", lambda: {"avx512_vnni"})
    Image.fromarray(scenes(1, 64)[0]).save(tmp_path / "0.png")
    output = tmp_path / "captions.jsonl"
    command = ["test.py", str(tmp_path), "--output", str(output), "--runtime", "onnx"]
    for precision in ("float32", "auto"):
        monkeypatch.setattr(sys, "argv", [*command, "--precision", precision])
        assert captioning_script.main() == 0
    monkeypatch.setattr(sys, "argv", [*command, "--precision", "int8"])
    with pytest.raises(UserError, match="precision was float32, now int8"):
        captioning_script.main()


@pytest.mark.parametrize(
    ("part", "does"),
    [
        ("encode", lambda *_: 1 / 0),
        ("search", lambda **_: {}),
        ("search", lambda **_: {"tokens": np.full((1, 1, 4), 10**6), "log_probs": np.zeros((1, 1)), "scores": [[0.0]]}),
    ],
)
def test_graphs_that_fail_or_give_no_captions_are_named(shipped, monkeypatch, part, does):
    monkeypatch.setattr(shipped, "_graphs", Namespace(**{part: does}))
    features = np.zeros((1, shipped.regions, 4), "float32")
    with pytest.raises(
        UserError, match=r"onnx: cannot be run on this \(.*\); make it anew with export.py, or let Keras"
    ):
        shipped.encode(features) if part == "encode" else shipped.caption(features)


@pytest.mark.parametrize("beams", [1, 2])
def test_words_of_a_bundle_of_strangers_are_shown_and_not_obeyed(capsys, beams):
    found = [Caption("a \x1b[2Jdog\x9b2J", -1.0, -1.0)] * beams
    runpy.run_path(str(ROOT / "test.py"))["report_captions"]("a\n.jpg", found, False)
    shown = capsys.readouterr().out
    assert shown.count(r"a \x1b[2Jdog\x9b2J") == beams
    assert r"a\n.jpg:" in shown


@pytest.mark.parametrize(("chosen", "found"), [(None, "1"), ("0", "0")])
def test_the_runtime_tells_its_makers_nothing_unless_the_user_wants_it(monkeypatch, chosen, found):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "")  # so that it is as before afterwards
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    if chosen:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", chosen)
    onnx_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == found


def test_a_missing_runtime_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unsuitable, match=r"^onnxruntime is not installed; pip install onnxruntime$"):
        graph_captioner(POCKET, arguments())


def test_onnx_is_refused_and_keras_tells_why(monkeypatch, capsys):
    with pytest.raises(
        UserError, match=r"^--runtime onnx: only Keras runs ensembles and --views; or leave --runtime out"
    ):
        load_captioner([POCKET], 4, arguments("--runtime", "onnx"))
    monkeypatch.setitem(sys.modules, "model", Namespace(load_captioners=lambda paths, views: (paths, views)))
    assert load_captioner([POCKET], 4, arguments()) == ([POCKET], 4)
    assert capsys.readouterr().err == (
        "note: Keras captions, which takes seconds to start: only Keras runs ensembles and --views\n"
    )
    assert load_captioner([POCKET], 1, arguments("--runtime", "keras")) == ([POCKET], 1)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_graphs_caption_as_the_bundle(shipped):
    from model import Captioner

    original = Captioner.load(POCKET)
    pictures = scenes(12, shipped.config.image_size)
    features = original.encode(pictures)
    np.testing.assert_allclose(shipped.encode(pictures), features, atol=0.02)
    same = total = 0
    for values in ({}, {"beam_size": 1}, {"beam_size": 5, "length_penalty": 1.5, "min_length": 3}):
        decoding = original.config.with_overrides(values)
        for one, other in zip(shipped.caption(features, decoding), original.caption(features, decoding), strict=True):
            total += 1
            if [each.text for each in one] == [each.text for each in other]:
                same += 1
                for left, right in zip(one, other, strict=True):
                    assert left.confidence == pytest.approx(right.confidence, abs=1e-3)
                    assert left.log_prob == pytest.approx(right.log_prob, abs=1e-2)
    assert same >= total - 1  # two captions may be equally good but for rounding
    texts = [captions[0].text for captions in original.caption(features)]
    for look, expected in zip(shipped.attend(features, texts), original.attend(features, texts), strict=True):
        np.testing.assert_allclose(look, expected, atol=1e-3)


@pytest.mark.slow
def test_the_server_loads_no_training_framework():
    pytest.importorskip("fastapi")
    code = f"""
import sys
import numpy as np
import app
from captioning.serving.api import create_app
from captioning.serving.engine import Engine

args = app.app_parser().parse_args([])
models = app.models_of(app.bundles_found("nowhere"), args, named=False)
assert len(models) > 1
with Engine(models) as engine:
    engine.warm_up()
    model = engine.default
    pixels = np.zeros((model.config.image_size,) * 2 + (3,), np.uint8)
    found = engine.submit(model, pixels, model.decoding(4, 1.5), attention=True).result()
    assert len(found.captions) == len(found.attention) == 4
    assert found.greedy_attention.weights.shape == (len(found.greedy.text.split()), found.attention[0].side ** 2)
print(sorted({KERAS!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
