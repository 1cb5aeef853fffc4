"""The scripts from end to end, on a dozen small pictures: what they write, print and return, and what they refuse."""

import csv
import functools
import http.server
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import COLOURS, TINY, TINY_ALIGNER, Outcome, make_data, process, refused, script

from captioning.pictures.loading import PREPROCESSING, load_image, view
from config import Config


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("scripts")
    return folder, make_data(folder)


@pytest.fixture(scope="module")
def tiny(data) -> list[str]:
    """Settings of a captioner that is quick to train."""
    return [*TINY, "--encoder", str(data[0] / "encoder.keras")]


@pytest.fixture(scope="module")
def prepared(data, tiny) -> Outcome:
    return script("preprocessing", *data[1], *tiny)


@pytest.fixture(scope="module")
def trained(data, tiny, prepared) -> tuple[Path, Outcome]:
    """An undisturbed run of two epochs: its folder, and what train.py printed."""
    outcome = script("train", *data[1], *tiny, "--epochs", "2", "--run-dir", data[0] / "runs", "--name", "whole")
    return data[0] / "runs" / "whole", outcome


@pytest.fixture(scope="module")
def attentive(data) -> Path:
    """A captioner with attention over 2 x 2 regions, as untrained as its encoder."""
    import keras

    from captioning.features.encoder import build_encoder
    from captioning.words.vocabulary import Vocabulary
    from model import Captioner

    keras.utils.set_random_seed(0)
    options = dict(zip(data[1][::2], data[1][1::2], strict=True)) | {"--feature-dir": str(data[0] / "untrained")}
    config = Config(
        decoder="adaptive", encoder=str(data[0] / "encoder.keras"), image_size=32, feature_grid=2,
        embedding_size=8, hidden_size=8, min_length=3, max_caption_length=6, beam_size=2,
        **{name[2:].replace("-", "_"): value for name, value in options.items()},
    )  # fmt: skip
    captioner = Captioner.untrained(config, Vocabulary(["a", "red", "green", "picture"]), build_encoder(config))
    (data[0] / "attentive").mkdir()
    captioner.save(data[0] / "attentive" / "captioner.zip")
    return data[0] / "attentive"


# The way through ------------------------------------------------------------------------------------------------------


def test_preprocessing_prints_what_it_prepared(data, prepared):
    assert prepared.status == 0
    lines = prepared.out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["train", "8", "images", "16", "captions"],
        ["dev", "2", "images", "4", "captions"],
        ["test", "2", "images", "4", "captions"],
    ]
    assert re.search(r"vocabulary: 13 words and special tokens .*; of dev's words 0\.0% are unknown$", lines[3])
    assert re.search(r"features: 12 images x 1 x 5 float16 in .*/features/folder-encoder\.keras-\w{20}$", lines[4])


def test_train_leaves_a_whole_run_folder(data, trained):
    folder, outcome = trained
    assert outcome.status == 0
    assert f"run folder: {folder}" in outcome.out
    for name in ("config.json", "vocabulary.json", "about.json", "history.csv", "curves.png", "samples.txt"):
        assert (folder / name).stat().st_size > 0
    state = json.loads((folder / "state.json").read_text())
    assert state["epochs"] == 2
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "last-0002.weights.h5",
        f"best-{state['best_epoch']:04}.weights.h5",
    }
    assert zipfile.is_zipfile(folder / "captioner.zip")
    assert len(list((data[0] / "features").iterdir())) == 1  # the store of preprocessing.py was used


@pytest.mark.weekly
def test_an_encoder_that_is_known_by_name(data, tmp_path):
    """Its weights are found, and the bundle captions without them."""
    run = ["--encoder", "efficientnet_lite0", "--epochs", "1", "--run-dir", tmp_path, "--name", "known"]
    outcome = script("train", *data[1], "--feature-dir", tmp_path / "features", *TINY, *run)
    assert outcome.status == 0, outcome
    (store,) = (tmp_path / "features").iterdir()
    assert store.name.startswith("folder-efficientnet_lite0-")
    outcome = script("test", data[0] / "pictures" / "00.png", "--model", tmp_path / "known")
    assert (outcome.status, len(outcome.out.splitlines())) == (0, 1)


@pytest.mark.slow
def test_stages_follow_one_another(data, trained):
    """Fine-tuning goes on from a run, self-critical training from what that left; both keep the encoder they were given."""
    runs = data[0] / "runs"
    places = [*data[1], "--epochs", "1", "--run-dir", runs]
    tuning = ["--stage", "finetune", "--init", trained[0], "--tuned-layers", "2", "--name", "tuned"]
    outcome = script("train", *places, *tuning)
    assert outcome.status == 0, outcome
    outcome = script("train", *places, "--stage", "scst", "--init", runs / "tuned", "--name", "rewarded")
    assert outcome.status == 0, outcome
    from model import Captioner

    encoders = [Captioner.load(runs / name).encoder.get_weights() for name in ("whole", "tuned", "rewarded")]
    same = [[np.array_equal(a, b) for a, b in zip(encoders[1], other, strict=True)] for other in encoders[::2]]
    assert same[0].count(False) == 2, "two kernels have learned"
    assert all(same[1])
    outcome = script("train", "--resume", runs / "tuned", "--epochs", "2")
    assert outcome.status == 0, outcome
    assert len(history(runs / "tuned")) == 3


GERMAN = {"red": "Ein rotes Bild .", "green": "Ein Bild in Grün", "blue": "Das ist blau", "grey": "Alles grau hier"}


@pytest.mark.slow
def test_a_bundle_learns_the_words_of_another_language(data, trained, tmp_path):
    rows = [f"{i:02}.png,{text},{'dev' if i > 7 else 'train'}" for i, text in enumerate([*GERMAN.values()] * 3)]
    (tmp_path / "german.csv").write_text("\n".join(["image,caption,split", *rows]) + "\n", encoding="utf-8")
    init = ["--init", trained[0] / "captioner.zip", "--captions-file", tmp_path / "german.csv"]
    init += ["--epochs", "1", "--run-dir", tmp_path, "--name", "german"]
    refused("train", *init, mentions=r"^init: 100\.0% of the words .* such as 'ein', 'bild', .*--extend-vocabulary")
    outcome = script("train", *init, "--extend-vocabulary")
    assert outcome.status == 0, outcome
    assert "vocabulary: 11 new words beside the 13 of" in outcome.out
    assert "unknown words: 0.0% of those of the training captions" in outcome.out
    words = [
        json.loads((folder / "vocabulary.json").read_text())["words"] for folder in (trained[0], tmp_path / "german")
    ]
    assert words[1][: len(words[0])] == words[0]
    assert "grün" in words[1]
    assert script("test", data[0] / "pictures" / "00.png", "--model", tmp_path / "german").status == 0


@pytest.mark.slow
def test_a_stage_starts_from_a_bundle(trained, tmp_path):
    shutil.copy(trained[0] / "captioner.zip", tmp_path / "given.zip")
    init = ["--stage", "finetune", "--init", tmp_path / "given.zip", "--run-dir", tmp_path, "--name", "next"]
    outcome = script("train", *init, "--epochs", "1")
    assert outcome.status == 0, outcome
    words = json.loads((trained[0] / "vocabulary.json").read_text())
    assert json.loads((tmp_path / "next" / "vocabulary.json").read_text()) == words


def test_a_bundle_cannot_go_on(trained):
    refused("train", "--resume", trained[0] / "captioner.zip", mentions=r"captioner\.zip: a file, .* --init ")


def history(folder: Path) -> list[list[str]]:
    """The lines of history.csv without the timings."""
    rows = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name not in ("words_per_second", "seconds")]
    return [[row[i] for i in kept] for row in rows]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(data, tiny, trained, monkeypatch):
    from captioning.training.recorder import Recorder

    folder = data[0] / "runs" / "interrupted"
    real = Recorder.on_train_batch_begin

    def interrupt(self, batch, logs=None):
        if len(self.history.lines) == 1 and batch == 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch, logs)

    # A test run in the background may have been told to ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "on_train_batch_begin", interrupt)
        outcome = script("train", *data[1], *tiny, "--epochs", "2", "--run-dir", folder.parent, "--name", folder.name)
    signal.signal(signal.SIGINT, before)
    assert outcome.status == 130
    assert f"1 whole epochs are saved. Go on with: python train.py --resume {folder}" in outcome.out
    assert (folder / "captioner.zip").exists()
    assert script("train", "--resume", folder).status == 0
    assert history(folder) == history(trained[0])
    assert (folder / "samples.txt").read_text() == (trained[0] / "samples.txt").read_text()


@pytest.mark.slow
def test_a_run_with_bert_needs_it_once(data, tiny, bert_folder, tmp_path, monkeypatch):
    bert = ["--embedding", "bert-prefix", "--bert", bert_folder, "--epochs", "1"]
    assert script("train", *data[1], *tiny, *bert, "--run-dir", tmp_path, "--name", "bert").status == 0
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    assert script("train", "--resume", tmp_path / "bert", "--epochs", "2").status == 0
    assert (
        script("train", "--stage", "scst", "--init", tmp_path / "bert", "--epochs", "1", "--name", "scst").status == 0
    )
    outcome = script("test", data[0] / "pictures", "--model", tmp_path / "scst")
    assert (outcome.status, len(outcome.out.splitlines())) == (0, 12)


def test_evaluate_writes_predictions_and_scores(data, trained, tmp_path):
    folder, _ = trained
    outcome = script("evaluate", "--model", folder, "--split", "test", "--beam-sizes", "1,2")
    assert outcome.status == 0
    rows = json.loads((folder / "evaluation" / "scores-test-coco.json").read_text())
    assert [row["decoding"] for row in rows] == ["greedy", "beam 2"]
    assert outcome.out == (folder / "evaluation" / "scores-test-coco.md").read_text()
    assert outcome.out.count("| whole | test | 2 | coco |") == 2
    for row, size in zip(rows, (1, 2), strict=True):
        file = folder / "evaluation" / f"predictions-test-beam{size}.json"
        predictions = json.loads(file.read_text())
        assert [entry["file_name"] for entry in predictions] == ["10.png", "11.png"]
        assert [entry["image_id"] for entry in predictions] == [10, 11]
        assert row["settings"]["beam_size"] == size
        # The same captions, scored as a file from elsewhere.
        again = script("evaluate", "--predictions", file, "--split", "test", *data[1], "--output", tmp_path / str(size))
        assert again.status == 0
        (scores,) = json.loads((tmp_path / str(size) / "scores-test-coco.json").read_text())
        assert scores["bleu"] == row["bleu"]


def make_coco(folder: Path, pictures: Path, train: Sequence[int], val: Sequence[int]) -> None:
    """MS-COCO's official layout with the images of these ids."""
    for part, images in (("train2017", train), ("val2017", val)):
        listed = [{"id": i, "file_name": f"{i:012}.png"} for i in images]
        captions = [{"image_id": i, "caption": f"A {list(COLOURS)[n % 4]} picture ."} for n, i in enumerate(images)]
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/captions_{part}.json").write_text(
            json.dumps({"images": listed, "annotations": captions})
        )
        (folder / part).mkdir()
        for number, i in enumerate(images):
            shutil.copyfile(pictures / f"{number:02}.png", folder / part / f"{i:012}.png")


def test_evaluate_writes_what_coco_takes(attentive, data, tmp_path):
    """Of any captioner on MS-COCO: COCO's ids and the captions, nothing else, under the name that its server wants."""
    make_coco(tmp_path, data[0] / "pictures", train=(5, 50), val=(139, 7))
    coco = ["--dataset", "coco", "--data-dir", tmp_path, "--captions-file", "none", "--output", tmp_path / "out"]
    assert script("evaluate", "--model", attentive, *coco, "--split", "test", "--beam-sizes", "1").status == 0
    ours = json.loads((tmp_path / "out/predictions-test-beam1.json").read_text())
    theirs = json.loads((tmp_path / "out/captions_val2017_attentive-test-beam1_results.json").read_text())
    assert theirs == [{"image_id": entry["image_id"], "caption": entry["caption"]} for entry in ours]
    assert [entry["image_id"] for entry in theirs] == [7, 139]
    refused("evaluate", "--model", attentive, *coco, "--split", "val", mentions="COCO's val is the split test here")


@pytest.mark.slow
def test_the_second_system_from_preparing_to_searching(data, tiny, tmp_path):
    """What the README's section on MS-COCO says, on a few images in the official layout."""
    make_coco(tmp_path, data[0] / "pictures", train=(25, *range(31, 40), 50), val=(139, 7, 42))
    places = ["--data-dir", tmp_path, "--feature-dir", tmp_path / "features"]
    preset = ["--preset", "coco-attention", *places, "--run-dir", tmp_path / "runs"]
    assert "train       9 images" in script("preprocessing", *preset, *tiny).out
    captioner, aligner = tmp_path / "runs/captioner", tmp_path / "runs/coco-align"
    train = [*preset, *tiny, "--epochs", "1", "--dev-beam-size", "2", "--monitor", "cider"]
    outcome = script("train", *train, "--name", captioner.name)
    assert outcome.status == 0
    assert "(beam 2)" in outcome.out
    assert script("evaluate", "--model", captioner, "--split", "test", "--beam-sizes", "1,3").status == 0
    results = captioner / "evaluation/captions_val2017_captioner-test-beam3_results.json"
    assert [entry["image_id"] for entry in json.loads(results.read_text())] == [7, 42, 139]
    photo = data[0] / "pictures/00.png"
    assert script("test", photo, "--model", captioner).out.startswith(str(photo))
    outcome = script(
        "train", *preset, *TINY_ALIGNER, *tiny[-2:], "--epochs", "1", "--stage", "align", "--name", aligner.name
    )
    assert outcome.status == 0
    retrieve = ["retrieve", "--model", aligner, "--rerank", captioner]
    assert "3 re-ranked by captioner: gain" in script(*retrieve, "--split", "test").out
    assert len(script(*retrieve, "--split", "test", "a red picture", "--best", "2").out.splitlines()) == 3
    assert script(*retrieve, "--captions", "test", photo, "--best", "1").out.splitlines()[1].endswith("picture .")
    assert len(list((tmp_path / "features").iterdir())) == 1, "the features are extracted once"


@pytest.mark.slow
def test_several_models_decode_as_one(data, trained, tmp_path):
    folder, _ = trained
    twice = ["--model", folder, "--model", folder]
    outcome = script("evaluate", *twice, "--split", "test", "--beam-sizes", "2", "--output", tmp_path)
    assert outcome.status == 0
    assert "| whole + whole | test | 2 | coco | beam 2 |" in outcome.out
    assert script("evaluate", "--model", folder, "--split", "test", "--beam-sizes", "2").status == 0
    one, two = (
        json.loads((each / "predictions-test-beam2.json").read_text()) for each in (folder / "evaluation", tmp_path)
    )
    assert one == two
    picture = data[0] / "pictures" / "00.png"
    assert script("test", picture, *twice).out == script("test", picture, "--model", folder).out
    refused = script("evaluate", *twice, "--split", "test")
    assert refused.status == 2
    assert "name an --output" in refused.err
    refused = script("test", picture, *twice, "--attention", tmp_path / "maps")
    assert refused.status == 2
    assert "give one --model" in refused.err


@pytest.mark.slow
def test_a_beam_may_decide_by_consensus(data, trained, tmp_path):
    options = ["--model", trained[0], "--consensus", "--beam-size"]
    narrow = [*options, "1", "--split", "test", "--output", tmp_path]
    outcome = script("evaluate", *narrow, "--beam-sizes", "2,8")
    assert outcome.status == 0, outcome.err
    assert "| beam 2 |" in outcome.out
    assert "| beam 8, consensus |" in outcome.out
    rows = json.loads((tmp_path / "scores-test-coco.json").read_text())
    assert [row["settings"]["consensus"] for row in rows] == [False, True]
    predictions = json.loads((tmp_path / "predictions-test-beam8-consensus.json").read_text())
    pictures = [data[0] / "pictures" / p["file_name"] for p in predictions]
    said = script("test", *pictures, *options, "8", "--best", "2", "--json").out.splitlines()
    for line, prediction in zip(map(json.loads, said), predictions, strict=True):
        first, second = line["captions"]
        assert first["caption"] == prediction["caption"]
        assert 0 < second["score"] <= first["score"] < 1
    complaint = "consensus: needs captions to choose from, and beam_size is"
    refused("test", *pictures, *options, "2", mentions=f"{complaint} 2; give --beam-size 20 ")
    refused("evaluate", *narrow, "--beam-sizes", "1,2", mentions=f"{complaint} 1 and 2; give --beam-sizes 20 ")
    refused("train", "--consensus", "--beam-size", "2", mentions=f"{complaint} 2; give --beam-size 20 ")


@pytest.mark.slow
def test_several_captions_may_differ_or_be_drawn(data, attentive, tmp_path):
    model, picture = ["--model", attentive], data[0] / "pictures" / "00.png"
    drawing = ["--do-sample", "--top-p", "0.9"]
    said = script("test", picture, *model, *drawing, "--captions", "3", "--json")
    assert said.status == 0, said.err
    captions = json.loads(said.out)["captions"]
    assert len(captions) == 3
    assert [caption["score"] for caption in captions] == sorted((c["score"] for c in captions), reverse=True)
    output = tmp_path / "captions.jsonl"
    album = ["test", picture.parent, *model, *drawing, "--captions", "3", "--output", output]
    assert script(*album).status == 0
    lines = {line["image"]: line["captions"] for line in map(json.loads, output.read_text().splitlines())}
    assert [each["caption"] for each in lines["00.png"]] == [each["caption"] for each in captions], "the same draw"
    refused(*album, "--sample-seed", "1", mentions="sample_seed was 0, now 1")
    scored = script("evaluate", *model, "--split", "test", "--variety", "4", "--beam-sizes", "4", "--beam-groups", "4", "--output", tmp_path)  # fmt: skip
    assert scored.status == 0, scored.err
    assert "4 captions of each image: oracle CIDEr" in scored.out
    (row,) = json.loads((tmp_path / "scores-test-coco.json").read_text())
    assert row["decoding"] == "beam 4, 4 groups with penalty 0.5"
    assert row["variety"]["first_cider"] == pytest.approx(row["cider_d"])
    assert row["variety"]["oracle_cider"] >= row["cider_d"]
    every = [json.loads(line) for line in (tmp_path / "captions-test-beam4-groups4.jsonl").read_text().splitlines()]
    best = json.loads((tmp_path / "predictions-test-beam4-groups4.json").read_text())
    assert [line["captions"][0] for line in every] == [each["caption"] for each in best]
    refused("evaluate", *model, "--variety", "5", "--beam-sizes", "4", mentions="num_captions: 5 captions need a beam")
    refused("evaluate", *model, *drawing, "--beam-sizes", "2", mentions="--beam-sizes: do_sample draws")


@pytest.mark.slow
def test_captions_hold_the_words_that_are_asked_for(data, tiny, attentive, tmp_path):
    pictures, model = data[0] / "pictures", ["--model", attentive]
    asked = ["--prefix", "A red", "--include", "green|gray,picture", "--exclude-words", "a a,gren"]
    refused("test", pictures, *model, *asked, mentions=r"include: .* does not know 'gray'")
    asked[3] = "green,picture"
    outcome = script("test", pictures, *model, *asked, "--output", tmp_path / "captions.jsonl")
    assert outcome.status == 0, outcome.err
    assert "note: exclude_words: no caption has 'gren' (did you mean green?) anyway\n" in outcome.err
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    for words in (line["captions"][0]["caption"].split() for line in lines):
        assert words[:2] == ["a", "red"]
        assert {"green", "picture"} <= set(words)
        assert "a a" not in " ".join(words)
    other = [pictures, *model, *asked[:2], "--output", tmp_path / "captions.jsonl"]
    refused("test", *other, mentions=r"include was \['green', 'picture'\], now \[\]")
    scored = script("evaluate", *model, *asked, "--split", "test", "--beam-sizes", "1", "--output", tmp_path)
    assert "| greedy, constrained |" in scored.out, scored
    assert (tmp_path / "predictions-test-beam1-constrained.json").exists()
    refused("train", *data[1], *tiny, "--prefix", "a giraffe", mentions="prefix: .* does not know 'giraffe'")


@pytest.mark.slow
def test_several_views_decode_as_one(data, attentive, tmp_path):
    """What evaluate reads from stores is what test.py sees in the picture."""
    options = ["--model", attentive, "--views", "4", "--beam-size", "2"]
    outcome = script("evaluate", *options, "--split", "test", "--beam-sizes", "2", "--output", tmp_path)
    assert outcome.status == 0, outcome.err
    assert f"| {attentive.name}, 4 views | test | 2 | coco | beam 2 |" in outcome.out
    assert json.loads((tmp_path / "scores-test-coco.json").read_text())[0]["views"] == 4
    made = [json.loads(path.read_text())["preprocessing"] for path in (data[0] / "untrained").glob("*/key.json")]
    assert {f"{PREPROCESSING}-{name}" for name in ("mirrored", "middle", "middle-mirrored")} <= set(made)
    predictions = json.loads((tmp_path / "predictions-test-beam2.json").read_text())
    said = [f"{data[0] / 'pictures' / p['file_name']}: {p['caption']}\n" for p in predictions]
    assert script("test", *[line.split(": ")[0] for line in said], *options).out == "".join(said)
    from captioning.features.looks import further_views
    from model import Captioner
    from preprocessing import load_dataset, prepare

    captioner = Captioner.load(attentive)
    names = [p["file_name"] for p in predictions]
    dataset = load_dataset(captioner.config)
    whole = prepare(captioner.config, dataset, captioner.encoder, split="test", looks=further_views(4))
    for number, store in enumerate([whole.store, *(each.store for each in whole.views)]):
        pixels = [view(load_image(data[0] / "pictures" / name, 32), number) for name in names]
        expected = captioner.encode(np.stack(pixels))
        found = store.read(np.asarray([store.rows[name] for name in names]))
        np.testing.assert_allclose(found.astype("float32"), expected.astype("float32"), atol=2e-3)
    album = ["test", data[0] / "pictures", "--output", tmp_path / "captions.jsonl", *options[:2], "--beam-size", "2"]
    assert script(*album, "--views", "4").status == 0
    lines = map(json.loads, (tmp_path / "captions.jsonl").read_text().splitlines())
    found = {line["image"]: line["captions"][0]["caption"] for line in lines}
    assert {p["file_name"]: p["caption"] for p in predictions}.items() <= found.items()
    refused(*album, mentions="begun with other settings .views was 4, now 1")
    refused("evaluate", *options, "--split", "test", mentions="--views: .*name an --output")
    refused("evaluate", *options, "--output", tmp_path, "--report", mentions="--views: .*leave out --report")
    refused("test", "x.png", *options, "--attention", tmp_path / "maps", mentions="leave out --views")


def test_evaluate_reports_on_a_run(trained, tmp_path):
    options = ["--model", trained[0], "--split", "test", "--beam-sizes", "1,2", "--output", tmp_path]
    assert script("evaluate", *options, "--report").status == 0
    text = (tmp_path / "report.html").read_text()
    for entry in json.loads((tmp_path / "predictions-test-beam2.json").read_text()):
        assert entry["file_name"] in text
        assert entry["caption"] in text
    assert 'id="Training"' in text
    assert "attention" not in json.loads((tmp_path / "scores-test-coco.json").read_text())[0]


def test_evaluate_measures_the_attention(attentive):
    """Once, for the greedy captions; and a captioner without the rest of its run has a report too."""
    outcome = script("evaluate", "--model", attentive / "captioner.zip", "--beam-sizes", "2,1", "--report")
    assert outcome.status == 0
    beam, greedy = json.loads((attentive / "evaluation" / "scores-dev-coco.json").read_text())
    assert "attention" not in beam
    assert 0 < greedy["attention"]["entropy"] <= greedy["attention"]["maximum_entropy"] == 2
    assert 0 < greedy["attention"]["image_share"] < 1
    assert "Attention (greedy): its entropy is" in (attentive / "evaluation" / "report.html").read_text()


def test_evaluate_refuses_predictions_for_other_images(data, trained, tmp_path):
    def predictions(entries) -> list:
        (tmp_path / "p.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return ["evaluate", "--predictions", tmp_path / "p.json", "--split", "test", *data[1]]

    good = [{"image_id": 10, "caption": "a"}, {"image_id": 11, "caption": "b"}]
    assert script(*predictions(good)).status == 0
    refused(*predictions(good[:1]), mentions=r"p\.json: .* 1 missing, 0 not in the split")
    refused(
        *predictions([*good, {"image_id": 1, "caption": "c"}]), mentions=r"p\.json: .* 0 missing, 1 not in the split"
    )
    refused(*predictions([*good, good[0]]), mentions=r"p\.json: .*10.* twice")
    for broken in ("", "{", "3", "{}", [1, 2], [{"image_id": 10}], [{"image_id": 10, "caption": None}, good[1]]):
        refused(*predictions(broken), mentions=r"p\.json[:,] .*(expected|captions?)")
    refused("evaluate", "--predictions", tmp_path / "absent.json", *data[1], mentions=r"absent\.json: ")


# test.py --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A web server of pictures: one good, one that is text, and one that breaks off."""
    web = tmp_path / "web"
    web.mkdir()
    Image.new("RGB", (50, 30), "red").save(web / "good.png")
    (web / "text.png").write_text("no picture")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/broken.png":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"too little")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(web))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_captions_of_files_folders_and_addresses(data, trained, tmp_path, server):
    pictures = data[0] / "pictures"
    bad = tmp_path / "bad.jpg"
    bad.write_text("this is text")
    outcome = script(
        "test", pictures / "00.png", bad, pictures, f"{server}/good.png", f"{server}/text.png", f"{server}/broken.png",
        f"{server}/absent.png", tmp_path / "absent.jpg", pictures / "01.png", "--model", trained[0],
    )  # fmt: skip
    assert outcome.status == 1  # some could not be read
    shown = [line.split(": ")[0] for line in outcome.out.splitlines()]
    assert shown == [
        str(pictures / "00.png"),
        *(str(path) for path in sorted(pictures.iterdir())),
        f"{server}/good.png",
        str(pictures / "01.png"),
    ]
    why, note, *errors = outcome.err.splitlines()
    assert re.match(r"note: Keras captions, .*: .* has no ONNX graphs; python export\.py --format onnx --model ", why)
    assert note.startswith("note: captions come without a confidence: this captioner has none; evaluate.py --fit-")
    failed = [str(bad), f"{server}/text.png", f"{server}/broken.png", f"{server}/absent.png", f"{tmp_path}/absent.jpg"]
    assert len(errors) == len(failed)
    for line, source in zip(errors, failed, strict=True):
        assert line.startswith(f"error: {source}: ")


def test_the_same_picture_gets_the_caption_that_evaluate_gave(trained, data):
    script("evaluate", "--model", trained[0], "--split", "dev", "--beam-sizes", "2")
    entries = json.loads((trained[0] / "evaluation" / "predictions-dev-beam2.json").read_text())
    pictures = [data[0] / "pictures" / entry["file_name"] for entry in entries]
    outcome = script("test", *pictures, "--model", trained[0] / "captioner.zip")
    assert outcome.status == 0
    assert outcome.out == "".join(
        f"{path}: {entry['caption']}\n" for path, entry in zip(pictures, entries, strict=True)
    )


def test_json_best_and_pictures(trained, data, tmp_path):
    first, bad = data[0] / "pictures" / "00.png", tmp_path / "bad.png"
    bad.write_text("text")
    # The same name twice: neither picture is overwritten.
    outcome = script(
        "test", first, bad, first, "--json", "--best", "2", "--pictures", tmp_path / "out", "--model", trained[0]
    )
    assert outcome.status == 1
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [entry["image"] for entry in found] == [str(first), str(bad), str(first)]
    assert str(bad) in found[1]["error"]
    best, second = found[0]["captions"]
    assert best["score"] >= second["score"]
    assert best["log_prob"] <= 0
    assert best["caption"] != second["caption"]
    assert found[2] == found[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00-2.png", "00.png"]
    with Image.open(tmp_path / "out" / "00.png") as drawn:
        assert drawn.size[1] > drawn.size[0] * 24 / 40  # the picture and text below it


def test_attention_is_drawn_beside_the_pictures(attentive, data, tmp_path, monkeypatch):
    """For each picture that can be read, its own caption's words; pictures with captions are not overwritten."""
    from captioning.reports import figures

    drawn = []
    real = figures.attention_maps

    def record(picture, words, weights, side):
        drawn.append((words, weights, side))
        return real(picture, words, weights, side)

    monkeypatch.setattr(figures, "attention_maps", record)
    first, bad, third = data[0] / "pictures" / "00.png", tmp_path / "bad.png", data[0] / "pictures" / "03.png"
    bad.write_text("text")
    out = tmp_path / "out"
    options = ["--attention", out, "--pictures", out, "--best", "2", "--model", attentive]
    outcome = script("test", first, bad, third, "--json", *options)
    assert outcome.status == 1
    assert sorted(path.name for path in out.iterdir()) == ["00-2.png", "00.png", "03-2.png", "03.png"]
    found = [json.loads(line)["captions"][0]["caption"] for line in outcome.out.splitlines() if "captions" in line]
    assert [" ".join(words) for words, _, _ in drawn] == found
    for words, weights, side in drawn:
        assert (weights.shape, side) == ((len(words), 5), 2)
    with Image.open(out / "00-2.png") as figure:
        assert figure.size[0] > figure.size[1] / 2


def test_a_folder_is_captioned_into_a_file_and_its_pictures(trained, data, tmp_path):
    folder, output = tmp_path / "album", tmp_path / "captions.jsonl"
    shutil.copytree(data[0] / "pictures", folder)
    (folder / "bad.jpg").write_text("text")
    picture = Image.open(folder / "00.png").convert("RGB")
    picture.save(folder / "00.webp", lossless=True)
    command = ["test", folder, "--output", output, "--model", trained[0], "--best", "2"]
    outcome = script(*command)
    assert outcome.status == 1
    assert outcome.out == f"{output}: 13 pictures with captions, 1 unreadable\n"
    assert f"error: {folder / 'bad.jpg'}: cannot be read" in outcome.err
    lines = {entry.pop("image"): entry for entry in map(json.loads, output.read_text().splitlines())}
    one_by_one = script("test", folder, "--json", "--model", trained[0], "--best", "2").out
    for entry in map(json.loads, one_by_one.splitlines()):
        line = lines.pop(str(Path(entry["image"]).relative_to(folder)))
        assert line.get("error") == entry.get("error")
        for found, wanted in zip(line.get("captions", []), entry.get("captions", []), strict=True):
            assert found["caption"] == wanted["caption"]
            assert found["log_prob"] == pytest.approx(wanted["log_prob"], abs=1e-3)
    assert not lines
    before = output.read_bytes()
    outcome = script(*command, "--write-metadata", "embed")
    assert outcome.status == 1
    assert output.read_bytes() == before
    assert "12 captions inside their pictures, 1 beside them; 0 pictures kept" in outcome.out
    best = json.loads(before.splitlines()[0])
    with Image.open(folder / best["image"]) as image:
        assert best["captions"][0]["caption"].encode() in image.info["xmp"]
    refused(*command, "--beam-size", "3", mentions="begun with other settings .beam_size was 2, now 3")
    assert output.read_bytes() == before


@pytest.mark.slow
def test_a_folder_gets_a_table_texts_and_keywords(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr("captioning.albums.keywords.keywords_of", lambda caption: ["dog"])
    folder, output = tmp_path / "album", tmp_path / "captions.csv"
    shutil.copytree(data[0] / "pictures", folder)
    (folder / "bad.jpg").write_text("text")
    (folder / "00.txt").write_text("by hand")
    command = ["test", folder, "--output", output, "--model", trained[0], "--best", "2"]
    outcome = script(*command, "--write-metadata", "text")
    assert outcome.status == 1
    assert "texts: 11 captions beside their pictures; 1 pictures kept the text they had, 0 failed" in outcome.out
    with open(output, encoding="utf-8-sig", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert len(rows) == 13
    assert "bad.jpg: cannot be read" in rows["bad.jpg"]["error"]
    assert (folder / "01.txt").read_text() == rows["01.png"]["caption"] + "\n"
    assert (folder / "00.txt").read_text() == "by hand"
    before = output.read_bytes()
    outcome = script(*command, "--write-metadata", "sidecar", "--keywords")
    assert "12 beside them" in outcome.out
    assert output.read_bytes() == before
    assert "<rdf:Bag><rdf:li>dog</rdf:li></rdf:Bag>" in (folder / "01.png.xmp").read_text()
    assert ".txt" not in outcome.err, "our texts are nothing that was left out"
    assert "--keywords" not in outcome.err
    monkeypatch.setattr("captioning.albums.keywords.keywords_of", lambda caption: [])
    outcome = script(*command, "--write-metadata", "sidecar", "--keywords")
    assert "note: --keywords: no caption names anything in our lists, which are in English" in outcome.err


def test_a_folder_of_coco_images_gets_what_its_server_takes(trained, data, tmp_path):
    folder, output = tmp_path / "test2014", tmp_path / "captions.jsonl"
    folder.mkdir()
    for number in (3, 20, 1):
        shutil.copyfile(data[0] / "pictures" / f"{number % 12:02}.png", folder / f"COCO_test2014_{number:012}.png")
    command = ["test", folder, "--output", output, "--model", trained[0], "--coco-results", tmp_path / "coco.json"]
    assert script(*command).status == 0
    best = {
        int(entry["image"][-16:-4]): entry["captions"][0]["caption"]
        for entry in map(json.loads, output.read_text().splitlines())
    }
    assert json.loads((tmp_path / "coco.json").read_text()) == [
        {"image_id": number, "caption": best[number]} for number in (1, 3, 20)
    ]
    (folder / "other-3.png").touch()
    refused(*command, mentions="--coco-results: 3 is the number of more than one picture")
    (folder / "other-3.png").rename(folder / "mine.png")
    refused(*command, mentions=r"--coco-results: mine\.png does not end in a number")


def test_the_pocket_captioner_is_the_default(data):
    outcome = script("test", data[0] / "pictures" / "00.png", "--best", "3")
    assert outcome.status == 0
    assert len(outcome.out.splitlines()) == 4


# Refusals -------------------------------------------------------------------------------------------------------------


def test_preprocessing_names_what_is_wrong_with_the_data(data, tmp_path):
    (tmp_path / "broken.csv").write_text("image,caption\n00.png,good\n01.png,one,two,three\n")
    captions = ["--captions-file", tmp_path / "broken.csv"]
    refused("preprocessing", *data[1], *captions, mentions=r"broken\.csv, line 3: ")
    refused(
        "preprocessing", *data[1], "--data-dir", tmp_path / "nowhere", mentions="data_dir: there is no folder .*nowhere"
    )
    refused("preprocessing", *data[1], "--captions-file", tmp_path / "absent.csv", mentions=r"absent\.csv: ")
    refused("preprocessing", "--data-dir", tmp_path / "nowhere", mentions="data_dir: Flickr8k .* --download")
    refused("preprocessing", *data[1], "--download", mentions="--download: ")
    flickr30k = ["--dataset", "flickr30k", "--data-dir", tmp_path]
    refused(
        "preprocessing", *flickr30k, "--download", mentions="--download: flickr30k cannot be .* on request at https"
    )
    refused("preprocessing", "--preset", "coco-attention", mentions="data_dir: COCO 2017 .* --download")
    refused("preprocessing", "--config", tmp_path / "absent.json", mentions=r"absent\.json: ")


def test_train_names_what_is_wrong(data, tiny, trained, tmp_path):
    tiny = [*data[1], *tiny]
    refused("train", *tiny, "--beam-size", "0", mentions="beam_size: ")
    refused("train", *tiny, "--vocab-threshold", "99", mentions="vocab_threshold: no word .* lower one")
    refused(
        "train",
        *tiny,
        "--run-dir",
        trained[0].parent,
        "--name",
        "whole",
        mentions="whole: exists; choose another --name",
    )
    (tmp_path / "file").write_text("")
    refused("train", *tiny, "--run-dir", tmp_path / "file", mentions="file: cannot write there")
    refused("train", *tiny, "--feature-dir", tmp_path / "file", mentions="file/.*: cannot write the feature store")
    wrong = tmp_path / "wrong.weights.h5"
    shutil.copyfile(trained[0] / "checkpoints" / "last-0002.weights.h5", wrong)
    known = [*tiny, "--encoder", "efficientnet_lite0", "--encoder-weights"]
    refused("train", *known, wrong, mentions=r"encoder_weights: .*wrong\.weights\.h5 does not fit")
    refused("train", *known, tmp_path / "no.h5", mentions=r"encoder_weights: there is no file .*no\.h5")
    begin, runs = [*tiny, "--run-dir", trained[0].parent, "--embedding"], set(trained[0].parent.iterdir())
    absent = tmp_path / "glove.txt"
    refused(
        "train", *begin, "file", "--embedding-file", absent, mentions=r"embedding_file: .*glove\.txt cannot be read"
    )
    refused("train", *begin, "bert-prefix", "--bert", tmp_path, mentions=f"bert: {tmp_path} lacks its configuration")
    assert set(trained[0].parent.iterdir()) == runs
    refused("train", "--resume", tmp_path, mentions=f"{tmp_path}: not a run folder")
    refused("train", "--resume", trained[0], "--batch-size", "3", mentions="--resume: batch_size cannot change now")
    refused("train", "--resume", trained[0], "--preset", "demo", mentions="--resume: .* --preset")
    about = (trained[0] / "about.json").read_bytes()
    refused("train", "--resume", trained[0], mentions="epochs: .* has its 2 epochs already; ask for more with --epochs")
    assert (trained[0] / "about.json").read_bytes() == about


def test_evaluate_names_what_is_wrong(data, trained, tmp_path):
    model = ["--model", trained[0]]
    refused("evaluate", mentions="give one of --model RUN, --predictions FILE")
    refused("evaluate", *model, "--predictions", "p.json", mentions="give one of --model")
    refused("evaluate", *model, "--split", "tset", mentions="split: .*'tset'; it has train")
    refused("evaluate", *model, "--beam-sizes", "1,0", mentions="--beam-sizes:\n  beam_size: ")
    refused("evaluate", *model, "--hidden-size", "9", mentions="hidden_size: the model was trained with 8")
    (tmp_path / "file").write_text("")
    refused(
        "evaluate", *model, "--beam-sizes", "1", "--output", tmp_path / "file", mentions="file/.*: cannot be written"
    )


def test_captioners_that_cannot_be_loaded_are_named(data, trained, tmp_path):
    picture = data[0] / "pictures" / "00.png"
    whole = (trained[0] / "captioner.zip").read_bytes()

    def bundle(data: bytes) -> list:
        (tmp_path / "bundle.zip").write_bytes(data)
        return ["test", picture, "--model", tmp_path / "bundle.zip"]

    for damaged in (b"", b"text", whole[: len(whole) // 2], whole[:-5], _without_byte(whole)):
        refused(*bundle(damaged), mentions=r"bundle\.zip: .*damaged")
    refused(
        *bundle(_with_format(whole, 99)), mentions=r"bundle\.zip: written by a newer release .* update this software"
    )
    refused("test", picture, "--model", tmp_path, mentions="captioner.zip: there is no such captioner")


def _without_byte(bundle: bytes) -> bytes:
    """A bundle in which one byte of its largest member is another."""
    changed = bytearray(bundle)
    changed[len(bundle) // 2] ^= 255
    return bytes(changed)


def _with_format(bundle: bytes, number: int) -> bytes:
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle)) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, json.dumps(json.loads(data) | {"format": number}) if name == "bundle.json" else data)
    return copy.getvalue()


def test_test_names_what_is_wrong(data, trained, tmp_path):
    picture, model = data[0] / "pictures" / "00.png", ["--model", trained[0]]
    (tmp_path / "empty").mkdir()
    refused("test", tmp_path / "empty", *model, mentions="empty: holds no pictures")
    refused("test", picture, *model, "--best", "3", mentions="num_captions: 3 captions need a beam_size")
    refused("test", picture, *model, "--captions", "-1", mentions="num_captions: ")
    drawn = ["--do-sample", "--beam-size", "4"]
    refused("test", picture, *model, *drawn, mentions="beam_size: do_sample draws captions and keeps no beam")
    refused("test", picture, *model, "--beam-size", "0", mentions="beam_size: ")
    (tmp_path / "file").write_text("")
    for option in ("--pictures", "--attention"):
        refused(
            "test", picture, *model, option, tmp_path / "file", mentions=f"{option}: .*file is a file; name a folder"
        )
    refused(
        "test",
        tmp_path / "absent.png",
        *model,
        "--attention",
        tmp_path / "maps",
        mentions="--attention: the decoder inject has no",
    )
    assert not (tmp_path / "maps").exists()
    output = ["--output", tmp_path / "captions.jsonl"]
    refused(
        "test",
        picture,
        *model,
        *output,
        mentions="--output: captions one folder of pictures, and .*00.png is not a folder",
    )
    refused("test", picture.parent, picture, *model, *output, mentions="--output: .* 2 places are named")
    refused("test", picture.parent, *model, *output, "--json", mentions="--output: .*leave out --json")
    refused("test", tmp_path / "empty", *model, *output, mentions="empty: holds no pictures")
    refused("test", picture, *model, "--write-metadata", "embed", mentions="--write-metadata: .*name an --output")
    refused("test", picture, *model, "--coco-results", "file", mentions="--coco-results: .*name an --output")
    refused("test", picture.parent, *model, *output, "--overwrite-descriptions", mentions="--overwrite-descriptions: ")
    refused("test", tmp_path / "*.png", *model, mentions=r"\*\.png: no file has such a name")
    for option in ("--overwrite-descriptions", "--keywords"):
        texts = [*output, "--write-metadata", "text", option]
        refused("test", picture.parent, *model, *texts, mentions=f"{option}: a text .*; leave this out")
    refused("test", picture.parent, *model, *output, "--keywords", mentions="--keywords: say where to write")
    for name in ("captions.xlsx", "captions.txt", "captions"):
        to = ["--output", tmp_path / name]
        refused("test", picture.parent, *model, *to, mentions=rf"--output: .*{name} ends in none of \.jsonl, .*\.csv")
    refused(
        "test", picture, *model, "--follow-links", mentions="--follow-links: is read only with a folder of pictures"
    )
    hidden = ["--exclude", "*"]
    refused("test", picture.parent, *model, *hidden, mentions=r"holds no pictures .*; left out by --exclude: \d+ files")
    assert not output[1].exists()


# In processes of their own --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_during_training(data, tiny):
    """A real signal at a random moment: the process ends soon, says how to go on, and does go on."""
    folder = data[0] / "runs" / "signalled"
    child = process(
        "train",
        *data[1],
        *tiny,
        "--epochs",
        "2000",
        "--patience",
        "0",
        "--run-dir",
        folder.parent,
        "--name",
        folder.name,
    )
    deadline = time.monotonic() + 600
    while not (folder / "state.json").exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.1)
    time.sleep(1.234)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=600)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert f"python train.py --resume {folder}" in out
    epochs = json.loads((folder / "state.json").read_text())["epochs"]
    resumed = process("train", "--resume", folder, "--epochs", str(epochs + 1))
    out, err = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, err
    assert json.loads((folder / "state.json").read_text())["epochs"] == epochs + 1


@pytest.mark.slow
def test_kill_9_during_a_folder(trained, tmp_path):
    """The same command again captions the rest: no picture is lost, none has two lines."""
    folder, output = tmp_path / "album", tmp_path / "captions.jsonl"
    folder.mkdir()
    for i in range(300):
        Image.new("RGB", (32, 32), (i % 256, 0, 0)).save(folder / f"{i:03}.jpg")
    command = ["test", folder, "--output", output, "--model", trained[0], "--extract-batch-size", "2"]
    child = process(*command)
    deadline = time.monotonic() + 600
    while not (output.exists() and output.stat().st_size) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    child.communicate(timeout=600)
    assert 0 < len(output.read_text().splitlines()) < 300
    out, err = process(*command).communicate(timeout=600)
    assert out == f"{output}: 300 pictures with captions, 0 unreadable\n", err
    assert sorted(json.loads(line)["image"] for line in output.read_text().splitlines()) == sorted(os.listdir(folder))


@pytest.mark.weekly
@pytest.mark.parametrize("backend", ["jax", "torch"])  # all other tests run the scripts on TensorFlow
def test_each_backend_trains_and_captions(data, tiny, tmp_path, backend):
    pytest.importorskip(backend)
    places = [*data[1], "--feature-dir", tmp_path / "features"]
    run = ["--run-dir", tmp_path, "--name", "run", "--backend", backend, "--epochs", "1"]
    child = process("train", *places, *tiny, *run)
    _, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    assert json.loads((tmp_path / "run" / "about.json").read_text())["backend"] == backend
    child = process("test", data[0] / "pictures", "--model", tmp_path / "run", "--backend", backend)
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    assert len(out.splitlines()) == 12


@pytest.mark.slow
def test_errors_reach_the_shell(data, trained, tmp_path):
    """One message on stderr, no traceback, and the exit status, as a shell sees them."""
    (tmp_path / "bad.jpg").write_text("text")
    for name, arguments, status, mention in (
        ("preprocessing", ["--data-dir", tmp_path / "nowhere"], 2, "data_dir"),
        ("train", [*data[1], "--beam-size", "0"], 2, "beam_size"),
        ("evaluate", ["--model", tmp_path / "nowhere"], 2, "nowhere"),
        ("test", [tmp_path / "bad.jpg", "--model", trained[0]], 1, "bad.jpg"),
    ):
        child = process(name, *arguments)
        _, err = child.communicate(timeout=600)
        assert child.returncode == status
        assert mention in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("encoder", "mentions"),
    [
        ("resnet5", "encoder: there is no 'resnet5'; did you mean resnet50"),
        ("nofile.keras", r"encoder: there is no file nofile\.keras"),
    ],
)
def test_an_encoder_that_does_not_exist_is_named_before_the_data_is_made(tmp_path, encoder, mentions):
    refused("train", "--preset", "demo", "--data-dir", tmp_path / "demo", "--encoder", encoder, mentions=mentions)
    assert not (tmp_path / "demo").exists()
